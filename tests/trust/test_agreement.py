"""The config.json of a run must agree with the config of its checkpoint."""

import json
import shutil

import numpy as np
import payloads
import pytest
from conftest import resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import convert, evaluate, predict
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.errors import CheckpointError, ConfigError
from vit_jax.training.loop import train


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return payloads.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(written, tmp_path):
    """A copy, whose config.json the tests change."""
    return shutil.copytree(written, tmp_path / "run")


@pytest.fixture
def image(tmp_path):
    (tmp_path / "a.png").write_bytes(payloads.png((8, 8)))
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"data__mean": [4.5]},
            "data.mean is [4.5], but the checkpoint of step 0 was trained with",
        ),
        ({"data__std": [0.5]}, "data.std is [0.5], but"),
        ({"data__image_size": [12, 8]}, "data.image_size is [12, 8], but"),
        ({"data__fit": "squash"}, 'data.fit is "squash", but'),
        ({"data__interpolation": "nearest"}, 'data.interpolation is "nearest", but'),
        ({"data__crop_fraction": 0.5}, "data.crop_fraction is 0.5, but"),
        ({"data__background": [0, 0, 0]}, "data.background is [0, 0, 0], but"),
        ({"model__norm_eps": 1e-3}, "model.norm_eps is 0.001, but"),
        ({"model__num_heads": 4}, "model.num_heads is 4, but"),
        ({"model__depth": 2}, "model.depth is 2, but"),
        ({"model__num_classes": 11}, "model.num_classes is 11, but"),
        ({"objective__loss": "sigmoid_xent"}, 'objective.loss is "sigmoid_xent", but'),
        ({"data__mean": [4.5], "data__std": [0.5]}, "trained with [0.5] (and data.std differ)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_difference_is_said_with_both_values(run, change, said):
    payloads.edit_config(run, **change)
    with pytest.raises(CheckpointError) as error:
        from_pretrained(str(run))
    assert f"{run}/config.json: {said}" in str(error.value) or said in str(error.value)
    fits = not change.keys() & {"model__num_heads", "model__depth", "model__num_classes"}
    assert ("--allow_config_change=" in str(error.value)) == fits


@pytest.mark.parametrize(
    "change",
    [
        {"data__threads": 3},
        {"data__data_dir": "/elsewhere"},
        {"batch_size": 32},
        {"optim__learning_rate": 0.5},
        {"data__flip": True},
        {"total_steps": 8},
        {"data__max_unreadable": 0.5},
        {"eval__batch_size": 8},
        {"model__scan": True},
        {"model__remat": "block"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_no_output_depends_on_may_differ(run, change):
    payloads.edit_config(run, **change)
    from_pretrained(str(run))


def test_origins_do_not_matter(run):
    for content in (b"\xff", b"[1", b"[]", b'{"data.mean": 5}'):
        (run / "origins.json").write_bytes(content)
        from_pretrained(str(run))


def test_a_key_of_an_older_version_that_a_checkpoint_lacks_is_no_difference(run):
    step = run / "checkpoints" / "0"
    path = step / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["config"]["data"]["fit"]
    path.write_text(json.dumps(meta))
    payloads.seal(step)
    from_pretrained(str(run))


def test_what_may_differ_is_taken_from_config_json(run, image):
    before = np.asarray(from_pretrained(str(run)).preprocess([image]))
    payloads.edit_config(run, data__mean=[0.25], data__std=[0.5])
    pretrained = from_pretrained(str(run), allow_config_change=["data.mean", "data.std"])
    after = np.asarray(pretrained.preprocess([image]))
    np.testing.assert_allclose(after * 0.5 + 0.25, before * 0.25 + 0.5, atol=1e-6)
    from_pretrained(str(run), allow_config_change=["config.data"])
    with pytest.raises(CheckpointError, match=r"data\.std is"):
        from_pretrained(str(run), allow_config_change=["data.mean"])
    with pytest.raises(ConfigError, match=r"no field config\.data\.men; did you mean 'data.mean'"):
        from_pretrained(str(run), allow_config_change=["data.men"])


@pytest.mark.parametrize("command", ["evaluate", "predict", "convert"])
def test_every_command_compares_and_takes_the_flag(run, image, command, tmp_path, capsys):
    payloads.edit_config(run, data__mean=[4.5])
    lib = {"evaluate": evaluate, "predict": predict, "convert": convert}[command]
    flags = {
        "evaluate": [f"--workdir={run}"],
        "predict": [f"--workdir={run}", image],
        "convert": [f"--input={run}", "--to=timm", f"--output={tmp_path / 'out'}"],
    }[command]
    parse = {"predict": cli.parse_operands, "convert": convert.parse_overrides}.get(command)

    def call(*more):
        return cli.run(lib.main, lib._flags(), "", [command, *flags, *more], parse)

    assert call() == 74
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "data.mean is [4.5], but the checkpoint of step 0 was trained with [0.5]" in err
    assert "--allow_config_change=data.mean" in err
    assert call("--allow_config_change=data.mean") == 0
    assert call("--allow_config_change=data.std") == 74
    assert not (tmp_path / ".out.tmp").exists()


@pytest.mark.parametrize("role", ["init_from", "teacher"])
def test_a_source_model_and_a_teacher_are_compared_too(run, role, tiny_config, tmp_path):
    payloads.edit_config(run, data__mean=[0.25])
    settings = {"objective": "distillation", "objective.teacher": str(run)}
    if role == "init_from":
        settings = {"init_from": str(run), "data.mean": None}
    config = tiny_config(settings)
    with pytest.raises(CheckpointError, match=r"data\.mean is \[0\.25\], but .*fix the file$"):
        train(resolved(config), epath.Path(tmp_path / "student"))


def test_an_older_step_is_compared_with_its_own_config(run):
    """A run that was resumed with a changed batch has it in config.json and in later steps."""
    payloads.edit_config(run, batch_size=32, seed=5)
    assert config_lib.read_config(epath.Path(run)).seed == 5
    from_pretrained(str(run), step=0)
