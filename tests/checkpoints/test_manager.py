"""Checkpoints: which are kept, which are refused, and what replaces a corrupt one."""

import chex
import jax
import jax.numpy as jnp
import pytest
from etils import epath

from vit_jax.checkpoints import seals
from vit_jax.checkpoints.manager import Checkpoints
from vit_jax.checkpoints.reading import load_arrays, load_variables, read_class_names
from vit_jax.checkpoints.same_run import check_same_run
from vit_jax.checkpoints.store import write_variables
from vit_jax.errors import CheckpointError, ConfigError, InputMissingError, WorkdirError
from vit_jax.training.state import TrainState

META = {
    "config": {"seed": 0, "log": {"x": 1}, "optim": {"lr": 1.0}, "data": {"train_split": "t"}},
    "data": {"train_split": "t"},
}


def state(step):
    """Returns a small state whose values depend on the step."""
    params = {"a": jnp.full((4, 8), float(step)), "b": {"c": jnp.arange(3.0) * step}}
    moments = (params, jnp.int32(step))
    statistics = {"batch_stats": {"mean": jnp.full(2, float(step))}}
    average = {"params": {"a": params["a"] / 2}, "batch_stats": {"mean": jnp.full(2, -1.0)}}
    return TrainState(jnp.int32(step), jnp.int32(0), params, statistics, moments, average)


def shapes():
    layout = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), state(0))


def save(directory, *steps, scores=None, keep=2):
    checkpoints = Checkpoints(directory, keep)
    for step in steps:
        checkpoints.save(step, state(step).to_items(), META, (scores or {}).get(step))
    checkpoints.close()


def restore(directory, meta=META, allowed=()):
    checkpoints = Checkpoints(directory, 2)
    found = checkpoints.find(meta, allowed)
    return found and TrainState.from_items(checkpoints.restore(found, shapes().to_items()))


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path) / "checkpoints"


def test_what_is_saved_is_restored(directory):
    save(directory, 3)
    chex.assert_trees_all_equal(restore(directory), state(3))


def test_no_checkpoint_at_all_is_none(directory):
    assert restore(directory) is None


def test_the_newest_and_the_best_are_kept(directory):
    save(directory, 1, 2, 3, 4, 5, scores={1: 0.1, 2: 0.9, 3: 0.5, 5: 0.3})
    assert seals.sealed_steps(directory) == [2, 4, 5]


def test_no_sealed_step_goes_before_a_newer_one_is_sealed(directory, monkeypatch):
    save(directory, 1, 2)
    monkeypatch.setattr(seals, "seal", lambda *args: None)  # the process dies before it can
    save(directory, 3)
    assert seals.sealed_steps(directory) == [1, 2]


def test_the_state_may_change_while_it_is_being_saved(directory):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    big = jnp.zeros((512, 1024))
    current = TrainState(jnp.int32(0), jnp.int32(0), {"a": big}, {}, (), {})
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), current
    )
    checkpoints = Checkpoints(directory, 5)
    for number in range(1, 6):
        current = step(current)
        checkpoints.save(number, current.to_items(), META)
        current = step(current)
    checkpoints.close()
    for number in range(5, 0, -1):
        checkpoints = Checkpoints(directory, 5)
        restored = checkpoints.restore(checkpoints.find(META), like.to_items())
        assert (restored["params"]["a"] == 2 * number - 1).all()
        (directory / str(number)).rmtree()


def largest_file(path):
    files = [file for file in seals._files(path) if file.name != seals.SEAL]
    return max(files, key=lambda file: len(file.read_bytes()))


def flip(path):
    file = largest_file(path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def truncate(path):
    file = largest_file(path)
    file.write_bytes(file.read_bytes()[:10])


@pytest.mark.parametrize(
    "harm",
    [flip, truncate, lambda path: largest_file(path).unlink(), lambda p: (p / "params").rmtree()],
    ids=["flipped", "truncated", "deleted", "params deleted"],
)
def test_a_damaged_newest_falls_back_and_says_so(directory, harm, capsys):
    save(directory, 1, 2)
    harm(directory / "2")
    chex.assert_trees_all_equal(restore(directory), state(1))
    out = capsys.readouterr().out
    assert "warning: the checkpoint of step 2 is corrupt" in out
    assert out.count("warning") == 1
    assert (directory / "damaged-2").exists()
    for _ in range(2):  # the same step can be saved again, and be damaged again
        save(directory, 2)
        chex.assert_trees_all_equal(restore(directory), state(2))
        harm(directory / "2")
        chex.assert_trees_all_equal(restore(directory), state(1))


def test_an_empty_step_directory_is_removed_and_named(directory, capsys):
    save(directory, 1)
    (directory / "99").mkdir()
    (directory / "5.orbax-checkpoint-tmp").mkdir()
    chex.assert_trees_all_equal(restore(directory), state(1))
    assert "removed step 99, an incomplete save" in capsys.readouterr().out
    assert sorted(path.name for path in directory.iterdir()) == ["1"]


def test_no_good_checkpoint_is_refused_with_what_was_tried(directory):
    save(directory, 1, 2)
    flip(directory / "1")
    truncate(directory / "2")
    with pytest.raises(CheckpointError) as error:
        restore(directory)
    assert error.value.exit_code == 74
    assert f"{directory}/2: " in str(error.value)
    assert f"{directory}/1: " in str(error.value)
    assert seals.sealed_steps(directory) == [1, 2]  # nothing is lost


def test_a_changed_key_is_refused_unless_allowed_or_free(directory):
    save(directory, 1)
    free = {**META, "config": {**META["config"], "log": {"x": 2}}}
    assert restore(directory, free) is not None
    changed = {**META, "config": {**META["config"], "optim": {"lr": 2.0}}}
    with pytest.raises(
        ConfigError, match=r"config\.optim\.lr: this run was started with 1.0, not 2"
    ):
        restore(directory, changed)
    assert restore(directory, changed, ("optim.lr",)) is not None
    assert restore(directory, changed, ("config.optim",)) is not None
    with pytest.raises(ConfigError, match=r"no field config.optim.rl; did you mean 'optim.lr'"):
        restore(directory, changed, ("optim.rl",))
    with pytest.raises(ConfigError, match="this run was started with other data"):
        restore(directory, {**META, "data": {"train_split": "u"}})


def test_another_part_is_one_change():
    parts = {"window": {"window": [7, 7], "dropout": 0.0}, "linear": {}}
    before, after = (
        {"config": {"model": {"attention": {"name": name, **fields}}}, "data": {}}
        for name, fields in parts.items()
    )
    message = (
        r"^config\.model\.attention: this run was started with 'window', not 'linear'; use a new "
        r"--workdir, or --allow_config_change=model\.attention$"
    )
    with pytest.raises(ConfigError, match=message):
        check_same_run(before, after, ())
    check_same_run(before, after, ("model.attention",))


def test_a_state_of_another_shape_is_one_line(directory):
    save(directory, 1)
    other = shapes().replace(params={"z": shapes().params["a"]})
    with pytest.raises(CheckpointError, match="the checkpoint is of another model: a is") as error:
        checkpoints = Checkpoints(directory, 2)
        checkpoints.restore(checkpoints.find(META), other.to_items())
    assert "\n" not in str(error.value)


def test_a_save_that_fails_is_one_line_and_older_ones_stay(directory, monkeypatch):
    save(directory, 1)
    checkpoints = Checkpoints(directory, 2)

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(seals, "seal", fail)
    checkpoints.save(2, state(2).to_items(), META)
    with pytest.raises(CheckpointError, match="cannot save the checkpoint: No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    chex.assert_trees_all_equal(restore(directory), state(1))


def test_variables_are_loaded_by_step_best_or_newest(directory):
    save(directory, 1, 2, 3, scores={1: 0.9, 2: 0.1}, keep=3)
    workdir = directory.parent
    for name, step in (("", 3), ("best", 1), ("2", 2)):
        found, variables = load_variables(workdir, name, shapes().variables, ema=False)
        assert found == step
        chex.assert_trees_all_equal(variables, state(step).variables)
    _, average = load_variables(workdir, "3", shapes().ema, ema=True)
    chex.assert_trees_all_equal(average, state(3).ema)
    flip(directory / "3")
    assert load_variables(workdir, "", shapes().variables, ema=False)[0] == 2
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        load_variables(workdir, "3", shapes().variables, ema=False)
    with pytest.raises(InputMissingError, match="no checkpoint; train first"):
        load_variables(workdir / "nowhere", "", shapes().variables, ema=False)


WEIGHTS = {"train_split": {"classes": ["cat", "dog"]}}


def test_variables_from_elsewhere_are_loaded_and_not_trained_on(directory):
    variables = jax.device_get(state(3).variables)
    write_variables(directory.parent, variables, WEIGHTS, META["config"])
    step, found = load_variables(directory.parent, "", shapes().variables, ema=False)
    assert step == 0
    chex.assert_trees_all_equal(found, variables)
    _, arrays = load_arrays(directory.parent, shapes().variables, ema=False)
    chex.assert_trees_all_equal(arrays, variables)
    assert read_class_names(directory.parent, 0) == ("cat", "dog")
    with pytest.raises(ConfigError, match=r"--workdir: .* contains weights only, no optimizer"):
        restore(directory)


def test_variables_that_cannot_be_sealed_are_one_line_and_do_not_count(directory, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(seals, "seal", fail)
    with pytest.raises(CheckpointError, match="cannot save the checkpoint: No space left"):
        variables = jax.device_get(state(3).variables)
        write_variables(directory.parent, variables, WEIGHTS, META["config"])
    assert seals.sealed_steps(directory) == []


@pytest.mark.parametrize("name", ["default", "state.msgpack"])
def test_checkpoints_of_another_program_are_never_removed(directory, name):
    save(directory, 1)
    (directory / "20").mkdir()
    (directory / "20" / name).write_text("precious")
    (directory / "notes.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(
        WorkdirError, match="20 is not a checkpoint of vit_jax; move it away, or use"
    ):
        restore(directory)
    assert (directory / "20" / name).read_text() == "precious"
    assert (directory / "notes.orbax-checkpoint-tmp").exists()


def test_a_save_that_was_cut_off_before_its_seal_is_removed(directory, capsys):
    save(directory, 1, 2)
    (directory / "2" / "seal.json").unlink()
    chex.assert_trees_all_equal(restore(directory), state(1))
    assert "removed step 2, an incomplete save" in capsys.readouterr().out
