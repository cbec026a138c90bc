"""The search over a made-up memory: its answer is confirmed, however wrong the estimate is."""

import dataclasses
import itertools
import json
import math
import re

import pytest
from conftest import ROOT

from vit_jax import config as config_lib
from vit_jax import plan
from vit_jax.console import cli
from vit_jax.errors import ConfigError
from vit_jax.planning.batches import find_batches
from vit_jax.planning.estimate import split
from vit_jax.planning.search import search

GIB = 2**30
IMAGES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Peak:
    """What a search reads of a report."""

    peak_bytes: int
    num_devices: int = 1
    limit_bytes: int | None = 16 * GIB
    notes: tuple[str, ...] = ()

    @property
    def fits(self):
        return self.limit_bytes is None or self.peak_bytes <= self.limit_bytes

    def to_json(self):
        return {"peak_bytes": self.peak_bytes}

    def describe(self):
        return [f"peak      {self.peak_bytes / GIB:.2f} GiB"]


def make(**flags):
    tree = config_lib.to_config_dict(config_lib.Config())
    given = {"model__name": "vit_s16", "batch_size": "256", "total_epochs": "1", **flags}
    return config_lib.resolve(
        tree, {key.replace("__", "."): value for key, value in given.items()}
    ).config


def linear(config, devices=1):
    """A state of 3 GiB, then 2 MiB an image and block, divided over the devices."""
    depths = config.model.get("depths") or (config.model["depth"],)
    optim, rows = config.optim, config.batch_size / config.optim.accum_steps
    kept = {"none": 16, "linear": 9, "attention": 5, "block": 1}[config.model["remat"]] / 16
    state = GIB * (1 + (1 if optim.moment_dtype == "float32" else 0.5) * 2)
    state /= config.mesh.fsdp
    return state + rows / devices * (4 * 2**20 + kept * 2**21 * sum(depths))


def with_remat_by_xla(config):
    """XLA computes again what does not fit, until that saves nothing more."""
    peak = linear(config)
    return peak if peak < 14 * GIB else max(14 * GIB, 0.6 * peak)


def with_steps(config):
    """Padding to 128 images, and a program that is larger from 300 images on."""
    rows = math.ceil(config.batch_size / 128) * 128
    return linear(dataclasses.replace(config, batch_size=rows)) + (config.batch_size > 300) * GIB


def deeper_is_smaller(config):
    """Nothing that an estimate by blocks could know."""
    return linear(config) / config.model["depth"]


def quadratic(config):
    return GIB + config.batch_size**2 * 2**14


def constant(config):
    return GIB


def not_monotonic(config):
    """In every fourth image another algorithm takes less."""
    return linear(config) * (0.6 if config.batch_size // 16 % 4 == 0 else 1)


def run(config, memory, devices=1, images=IMAGES):
    """Returns the search, the peak of each batch that was measured whole, and the lines."""
    measured, lines, seen = {}, [], []

    def measure(changed):
        seen.append(changed)
        peak = Peak(int(memory(changed)), devices)
        if dataclasses.replace(changed, batch_size=config.batch_size) == config:
            measured[changed.batch_size] = peak
        return peak

    found = search(config, measure(config), measure, images, lines.append)
    assert all(seen.count(changed) == 1 for changed in seen), "a step is compiled once"
    most = sum(int(n) for line in lines[:3] for n in re.findall(r"at most (\d+)", line))
    assert len(seen) - 1 <= most
    return found, measured, lines


MEMORIES = [
    linear,
    with_remat_by_xla,
    with_steps,
    deeper_is_smaller,
    quadratic,
    constant,
    not_monotonic,
]


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda memory: memory.__name__)
@pytest.mark.parametrize("batch_size", ["1", "256", "1000", "65536"])
def test_the_answer_is_measured_and_so_is_the_next_batch(memory, batch_size):
    found, measured, _ = run(make(batch_size=batch_size), memory)
    assert measured[found.largest].fits
    if memory is constant:
        assert not found.too_large and found.largest > 0.9 * IMAGES
        return
    assert not measured[found.too_large].fits
    assert found.largest < found.too_large <= max(found.largest * 17 / 16, found.largest + 1)


@pytest.mark.parametrize("name", ["vit_s16", "vit_l16", "swin_t_w7", "swin_b_w7"])
def test_a_good_estimate_needs_two_compiles_of_the_whole_step(name):
    found, measured, lines = run(make(model__name=name, batch_size="64"), linear)
    assert sorted(measured) == [64, found.largest, found.too_large]
    assert f"{len(found.trials) - 1} compiles if the estimate is good" in lines[1]


def test_a_program_that_does_not_grow_with_depth_is_compiled_whole():
    found, measured, _ = run(make(batch_size="64", model__scan="true"), linear)
    assert sorted(measured) == [32, 64, found.largest, found.too_large]
    assert len(found.trials) == 4


def test_a_flat_stretch_does_not_lead_to_batches_that_are_far_too_large():
    found, measured, _ = run(make(batch_size="256"), with_remat_by_xla)
    assert max(measured) <= 2 * found.too_large


def test_the_estimate_of_blocks_is_exact_for_affine_memory():
    for name in ("vit_s16", "swin_s_w7"):
        found, *_ = run(make(model__name=name), linear)
        whole = make(model__name=name, batch_size="96")
        assert found.line.peak(96) == pytest.approx(linear(whole), rel=1e-9)


@pytest.mark.parametrize(
    ("flags", "changes", "weights"),
    [
        ({"model__depth": "12"}, [2, 4], [-4, 5]),
        ({"model__depth": "7"}, [2, 4], [-1.5, 2.5]),
        ({"model__depth": "3"}, [None], [1]),
        ({"model__depth": "12", "model__scan": "true"}, [None], [1]),
        ({"model__name": "swin_t_w7"}, [(2, 2, 2, 2), (2, 2, 4, 2)], [-1, 2]),
        (
            {"model__name": "swin_t_w7", "model__depths": "2,6,18,2"},
            [(2, 2, 2, 2), (2, 4, 2, 2), (2, 2, 4, 2)],
            [-9, 2, 8],
        ),
    ],
)
def test_few_blocks_stand_for_the_model(flags, changes, weights):
    parts = split(make(**flags).model)
    assert [next(iter(part.change.values()), None) for part in parts] == changes
    assert [part.weight for part in parts] == weights


def test_batches_are_multiples_of_shards_and_micro_batches():
    config = make(batch_size="960", optim__accum_steps="3", mesh__tensor="2")
    batches = find_batches(config, 16, IMAGES)
    assert batches.shards == 8 and all(size % 24 == 0 for size in batches.sizes)
    near = itertools.pairwise(size for size in batches.sizes if size >= 16 * 24)
    assert all(above <= size * 17 / 16 for size, above in near)


@pytest.mark.parametrize(
    ("flags", "images", "last", "end"),
    [
        ({}, 100, 100, "the training split holds 100 images"),
        ({"optim__warmup_steps": "9"}, 1000, 100, "config.optim.warmup_steps: expected fewer"),
    ],
)
def test_a_run_ends_the_batches(flags, images, last, end):
    config = make(batch_size="4", **flags)
    found, _, lines = run(config, constant, images=images)
    assert found.batches.sizes[-1] == found.largest <= last < found.largest * 17 / 16
    assert found.batches.end.startswith(end) and any(end in line for line in lines)


def test_a_run_with_too_few_images_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size: expected a multiple of 8 devices x 1 mic"):
        run(make(batch_size="8"), linear, devices=8, images=7)


def test_a_device_of_unknown_memory_is_refused():
    with pytest.raises(ConfigError, match=r"^--search: the memory of these devices is not known"):
        search(make(), Peak(GIB, limit_bytes=None), linear, IMAGES)


def changed(found):
    return [dict(trial.change) for trial in found.trials if "batch_size" not in trial.change]


def test_a_batch_that_fits_needs_no_change():
    found, _, lines = run(make(batch_size="64"), linear)
    assert found.largest > 64 and not changed(found)
    assert "another batch_size changes the optimization; learning_rate=0.001 is kept" in lines[-1]


def test_each_change_is_tried_until_it_fits():
    config = make(batch_size="1024", mesh__data="4")
    found, _, lines = run(config, lambda c: linear(c, devices=4) * 2.2, devices=4)
    assert 0 < found.largest < 1024
    assert changed(found) == [
        {"optim.accum_steps": 2},
        {"model.remat": "linear"},
        {"model.remat": "attention"},
        {"model.scan": True},
        {"mesh.data": 1, "mesh.fsdp": 4},
        {"optim.moment_dtype": "bfloat16", "optim.second_moment_dtype": "bfloat16"},
    ]
    fits = [dict(trial.change) for trial in found.fitting_changes]
    assert fits == [{"optim.accum_steps": 2}, {"model.remat": "attention"}]
    flags = "--config.optim.accum_steps=2, or --config.model.remat=attention"
    assert lines[-1].endswith(f"batch_size=1024 fits with {flags}")


def test_all_changes_together_are_tried_where_none_is_enough():
    config = make(batch_size="64", mesh__data="4", model__name="vit_l16")
    found, _, lines = run(config, lambda c: linear(c, devices=4) * 4 + 12 * GIB, devices=4)
    assert found.largest == 0 and "none: not even batch_size=4 fits" in "".join(lines)
    last = found.fitting_changes[-1].change
    assert last["model.remat"] == "block" and last["optim.accum_steps"] == 16
    assert len(found.fitting_changes) == 1 and last["mesh.fsdp"] == 4 and last["model.scan"]


def test_changes_that_cannot_be_compiled_are_rows_of_the_table():
    def memory(config):
        if config.mesh.fsdp == 8:
            raise ConfigError("config.mesh.fsdp", "expected a divisor of 10")
        return 99 * GIB

    lines = run(make(batch_size="64"), memory, devices=8)[-1]
    assert any("mesh.fsdp=8: config.mesh.fsdp: expected a divisor of 10" in line for line in lines)
    assert "none of them fits" in lines[-1]


def test_a_model_with_few_blocks_that_cannot_be_compiled_leaves_the_search_exact():
    def memory(config):
        if config.model["depth"] != 12:
            raise ConfigError("config.optim.freeze", "'blocks_9.*' matches no parameter")
        return linear(config)

    found, measured, lines = run(make(), memory)
    assert measured[found.largest].fits and not measured[found.too_large].fits
    assert any("estimate  none" in line and "blocks_9" in line for line in lines)


def test_a_batch_that_cannot_be_compiled_is_too_large():
    def measure(config):
        if config.batch_size > 300 and config.model["depth"] == 12:
            raise ConfigError("--topology", "the process was killed")
        return Peak(int(linear(config)))

    config, rows = make(), []
    found = search(config, measure(config), measure, IMAGES, rows.append)
    assert (found.largest, found.too_large) == (288, 304)
    assert "          batch_size=304: --topology: the process was killed" in rows


def test_the_last_batches_are_around_the_number_of_images():
    batches = find_batches(make(), 1, 1_293)
    assert batches.sizes[-2:] == (1_280, 1_293) and "holds 1,293 images" in batches.end


def test_the_search_is_json():
    found, *_ = run(make(batch_size="512"), linear)
    tree = json.loads(json.dumps(found.to_json()))
    assert (tree["largest"], tree["too_large"]) == (found.largest, found.too_large)
    assert tree["trials"][0]["report"]["peak_bytes"] > 0


@pytest.fixture
def command(monkeypatch, capsys):
    """Returns a function that runs the command with a made-up compiler."""

    def compile_step(config, topology, **given):
        assert topology == "v5e:2x2" and given["step"] == "train"
        return Peak(int(linear(config, devices=4)), num_devices=4)

    def run_command(*flags):
        monkeypatch.setattr(plan, "compile_step", compile_step)
        argv = ["plan", f"--config={ROOT}/configs/deit.py:s", "--topology=v5e:2x2", *flags]
        code = cli.run(plan.main, plan._flags(), plan.__doc__, argv)
        return code, *capsys.readouterr()

    return run_command


def test_the_command_searches(command):
    code, out, err = command("--search")
    assert (code, err) == (0, "")
    assert re.search(r"^peak .*\nsearch  .*(\n  .*)+\nestimate .*(\n  .*)+\nlargest  ", out)


def test_the_document_has_the_whole_search(command):
    code, out, err = command("--search", "--json")
    found = json.loads(out)["search"]
    reports = {trial["change"]["batch_size"]: trial["report"] for trial in found["trials"]}
    assert code == 0 and {found["largest"], found["too_large"], 1024} <= set(reports)
    assert "largest   batch_size=" in err
    assert "search" not in json.loads(command("--json")[1])


def test_a_step_of_evaluation_is_not_searched(command):
    code, _, err = command("--search", "--step=eval")
    assert code == 64 and "--search: expected --step=train, got eval" in err
