"""A run that needs more memory than a device has ends with advice, and loses nothing."""

import jax
import jax.numpy as jnp
import pytest
from conftest import resolved
from etils import epath

from vit_jax import train as train_lib
from vit_jax.checkpoints import seals
from vit_jax.errors import ConfigError
from vit_jax.evaluation import loop as evaluation_loop
from vit_jax.training import loop, memory
from vit_jax.training.memory import advise, check_memory
from vit_jax.training.run import open_run

SCAN = {"model.depth": "4", "model.scan": "true"}


@pytest.mark.parametrize(
    ("overrides", "flags"),
    [
        (
            {"batch_size": "64"},
            ["model.remat=linear", "optim.accum_steps=2", "mesh.fsdp=8", "batch_size=32"],
        ),
        (
            {"batch_size": "64", "model.remat": "attention", "optim.accum_steps": "4"},
            ["model.remat=block", "optim.accum_steps=8", "mesh.fsdp=8", "batch_size=32"],
        ),
        (
            {"model.remat": "block", "optim.accum_steps": "2", "mesh.fsdp": "2"},
            ["model.scan=true"],  # one image of a micro-batch on each device
        ),
        (  # six rows of a device in two micro-batches
            {"batch_size": "48", "optim.accum_steps": "2", "model.width": "20"},
            ["model.remat=linear", "mesh.fsdp=4", "batch_size=16"],
        ),
        (
            {"batch_size": "8", "mesh.data": "8", **SCAN, "model.remat": "block"},
            [],
        ),
        ({"batch_size": "4", "mesh.tensor": "2"}, ["model.remat=linear", "mesh.fsdp=4"]),
    ],
)
def test_the_advice_has_what_the_run_does_not_use_yet(tiny_config, overrides, flags):
    tried, _, plan = advise(open_run(tiny_config(overrides))).rpartition("; ")
    assert tried == (f"try {', '.join(f'--config.{flag}' for flag in flags)}" if flags else "")
    assert plan == "`python -m vit_jax.plan` with the same --config flags and --search finds a fit"


@pytest.mark.parametrize(
    "overrides",
    [
        {"batch_size": "64"},
        {"batch_size": "48", "optim.accum_steps": "2", "model.width": "20"},
        {"batch_size": "48", "optim.accum_steps": "3", "model.remat": "block"},
        {"batch_size": "4", "mesh.tensor": "2"},
    ],
)
def test_what_the_advice_says_is_a_valid_config(tiny_config, overrides):
    for flag in advise(open_run(tiny_config(overrides))).split(";")[0].split(", "):
        key, _, value = flag.removeprefix("try ").removeprefix("--config.").partition("=")
        open_run(tiny_config({**overrides, key: value}))


def test_a_save_counts_the_blocks_of_stacks_twice(tiny_config, monkeypatch):
    plain = open_run(tiny_config({**SCAN, "model.scan": "false"}))
    scanned = open_run(tiny_config(SCAN))
    state = memory.bytes_per_device(plain.shapes)
    assert memory.bytes_per_device(scanned.shapes) == state
    leaves = jax.tree_util.tree_leaves_with_path(plain.shapes)
    blocks = [leaf for path, leaf in leaves if "'blocks_" in jax.tree_util.keystr(path)]
    assert len(blocks) == 3 * 4 * 12  # parameters and two moments of four blocks
    copied = memory.bytes_per_device(blocks)
    assert 0 < copied < state
    for limit, problem in (
        (state + copied, ""),
        (state + copied - 1, "config.model.scan: to save the state, with its blocks twice, takes"),
        (state - 1, "config.model: parameters and optimizer state take"),
    ):
        monkeypatch.setattr(memory, "memory_of", lambda device, limit=limit: limit)
        if limit >= state:
            check_memory(plain)
        if problem:
            with pytest.raises(ConfigError, match=problem):
                check_memory(scanned)
        else:
            check_memory(scanned)


def greedy(make):
    """Returns a function that makes a step which needs four petabytes more than that of `make`."""

    def make_greedy(*args):
        step = make(*args)

        @jax.jit
        def use_much(*operands):
            waste = jnp.sum(jnp.sort(jnp.arange(1 << 50) * operands[1]["label"][0]))
            return jax.tree.map(lambda x: x + waste.astype(x.dtype), step(*operands))

        return use_much

    return make_greedy


def train(config, workdir):
    return train_lib.train(resolved(config), epath.Path(workdir), ("total_steps",))


def test_a_step_that_does_not_fit_ends_with_advice_and_the_run_goes_on(
    tiny_config, tmp_path, monkeypatch
):
    train(tiny_config({"total_steps": "2"}), tmp_path)
    config = tiny_config({"total_steps": "4"})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "make_train_step", greedy(loop.make_train_step))
        with pytest.raises(ConfigError, match="out of memory") as error:
            train(config, tmp_path)
    assert str(error.value).startswith("config.batch_size: a device is out of memory (")
    assert "; try --config.model.remat=linear, --config.optim.accum_steps=2, " in str(error.value)
    assert error.value.exit_code == 64
    assert seals.sealed_steps(epath.Path(tmp_path) / "checkpoints") == [2]
    assert train(config, tmp_path)["step"] == 4


def test_an_evaluation_that_does_not_fit_names_its_batch_size(tiny_config, tmp_path, monkeypatch):
    make = evaluation_loop.make_eval_step

    def swapped(evaluators, mesh):
        step = make(evaluators, mesh)
        inner = greedy(lambda: lambda sums, batch, variables: step(variables, sums, batch))()
        return jax.jit(lambda variables, sums, batch: inner(sums, batch, variables))

    monkeypatch.setattr(evaluation_loop, "make_eval_step", swapped)
    with pytest.raises(ConfigError, match="out of memory") as error:
        train(tiny_config(), tmp_path)
    assert str(error.value).startswith("config.eval.batch_size: a device is out of memory (")
    assert str(error.value).endswith("; try --config.eval.batch_size=8")
    assert seals.sealed_steps(epath.Path(tmp_path) / "checkpoints") == [4]
