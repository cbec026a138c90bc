"""One model of each structure in the registry trains, stops, resumes and evaluates."""

import itertools
import json
import os
import signal

import flax
import jax
import numpy as np
import pytest
from conftest import resolved
from etils import epath

from vit_jax import evaluate, models
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained
from vit_jax.cluster import sharding
from vit_jax.console.cli import run as run_command
from vit_jax.data import loader
from vit_jax.errors import Interrupted
from vit_jax.training import state
from vit_jax.training.run import open_run

# Models that differ only in these fields have the same structure, except ResNets without stages.
SIZES = {
    "width",
    "depth",
    "depths",
    "num_heads",
    "mlp_dim",
    "mlp_ratio",
    "num_classes",
    "stem.patch",
    "stem.layers",
    "stem.width_factor",
    "attention.window",
}


def families():
    """Returns the first registered name of each structure."""
    names = {}
    for name in models.list_models():
        fields = models.preset(name)
        structure = {key: value for key, value in fields.items() if key not in SIZES}
        family = (models.family(name).name, bool(fields.get("stem.layers")))
        names.setdefault(str((structure, family)), name)
    return list(names.values())


FAMILIES = families()


def tiny(name):
    """Returns overrides that make a model as small as possible."""
    fields = models.preset(name)
    smaller = {"name": name, "depth": "1", "stem.patch": "4,4"}
    if models.family(name).name == "swin":  # the second block shifts its windows
        smaller = {"name": name, "depths": "2,1", "mlp_dim": None}
        smaller |= {"stem.patch": "2,2", "attention.window": "3,3"}
        smaller |= {"width": "8", "num_heads": "2,2", "mlp_ratio": "1"}
    if fields["stem.name"] == "resnet":  # the root reduces the image instead of larger patches
        stages = (1,) * bool(fields["stem.layers"])
        smaller |= {"stem.layers": str(stages), "stem.width_factor": "0.5", "stem.patch": "1,1"}
    overrides: dict[str, str | None] = {f"model.{key}": value for key, value in smaller.items()}
    return overrides | {
        "total_steps": "3",
        "optim.weight_decay": "0",  # it would change parameters without a gradient
    }


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Uses one device, because its program compiles faster; other tests cover meshes."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(
        sharding,
        "make_mesh",
        lambda sizes=(-1, 1, 1), devices=None: make_mesh(sizes, jax.devices()[:1]),
    )


def train(config, workdir, stop_at=None):
    """Trains; stops after the step with batch number `stop_at`."""
    real, numbers = loader.train_batches, itertools.count(1)

    def batches(*args, **kwargs):
        for batch in real(*args, **kwargs):
            if next(numbers) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "train_batches", batches)
        return train_lib.train(resolved(config), epath.Path(workdir))


def flatten(params):
    return flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")


def initial_params(config):
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        shape = config.data.image_shape
        return flatten(state.init(run.model, run.tx, shape, config.seed, run.shapes).params)


def evaluation(workdir, capsys, *flags):
    """Runs the evaluation command and returns its last line of output."""
    capsys.readouterr()
    argv = ["evaluate", f"--workdir={workdir}", *flags]
    assert run_command(evaluate.main, evaluate._flags(), "", argv) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_stops_resumes_and_evaluates(name, tiny_config, tmp_path, capsys):
    config = tiny_config(tiny(name))
    with pytest.raises(Interrupted, match="at step 2, saved"):
        train(config, tmp_path, stop_at=2)
    results = train(config, tmp_path)
    assert "resume    from the checkpoint of step 2" in capsys.readouterr().out
    assert (results["step"], results["skipped"]) == (3, 0)
    assert results["eval"]["test"]["count"] == 21
    expected = {key: results[key] for key in ("step", "eval", "intervals")}
    assert evaluation(tmp_path, capsys) == expected
    params = flatten(from_pretrained(str(tmp_path)).variables["params"])
    first = initial_params(config)
    assert params.keys() == first.keys()
    for path, leaf in params.items():
        assert np.isfinite(leaf).all(), path
        assert not np.array_equal(leaf, first[path]), path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("vit_ti16", ("12,12", "8,16")), ("swin_t_w7", ("11,11", "6,15"))],
)
def test_a_run_evaluates_at_sizes_that_it_was_not_trained_at(
    name, sizes, tiny_config, tmp_path, capsys
):
    config = tiny_config(tiny(name))
    results = train(config, tmp_path)["eval"]["test"]
    losses = {results["loss"]}
    for size in sizes:
        report = evaluation(tmp_path, capsys, f"--config.data.image_size={size}")
        assert report["eval"]["test"]["count"] == 21
        assert np.isfinite(report["eval"]["test"]["loss"])
        losses.add(report["eval"]["test"]["loss"])
    assert len(losses) == 3


@pytest.mark.parametrize("name", [name for name in FAMILIES if models.spec(name).get("distilled")])
def test_a_run_of_two_heads_that_resumes_is_the_uninterrupted_run(name, tiny_config, tmp_path):
    config = tiny_config({**tiny(name), "model.dropout": "0.2"})
    results = [train(config, tmp_path / "whole")]
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts", stop_at=1)
    results.append(train(config, tmp_path / "parts"))
    assert results[0]["eval"] == results[1]["eval"]
    whole, parts = (
        flatten(from_pretrained(str(tmp_path / folder)).variables["params"])
        for folder in ("whole", "parts")
    )
    assert "head_dist/kernel" in whole
    for path, leaf in whole.items():
        np.testing.assert_array_equal(leaf, parts[path], err_msg=path)


def test_families_covers_all_structures():
    structures = {(models.spec(name).stem.name, models.spec(name).mlp.name) for name in FAMILIES}
    assert structures == {("patch", "mlp"), ("patch", "swiglu"), ("resnet", "mlp")}
    assert {"swin_t_w7", "swinv2_t_w8"} <= set(FAMILIES)
    assert len(FAMILIES) < len(models.list_models()) / 2
