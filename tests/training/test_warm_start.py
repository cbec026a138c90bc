"""Starting from the weights of another run: what is taken, what is new, what is refused."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained, pretrained, reading
from vit_jax.checkpoints.store import write_variables
from vit_jax.config import stored
from vit_jax.errors import ConfigError, DataError, InputMissingError
from vit_jax.training import state, warm_start
from vit_jax.training.run import open_run

SOURCE = {
    "model.mlp.activation": "gelu_tanh",
    "model.posemb.interpolation": "spline",
    "data.mean": "0.3",
    "data.std": "0.4",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run whose fields are not the defaults."""
    from conftest import TINY

    from vit_jax import config

    tree = config.to_config_dict(config.Config())
    folder = tmp_path_factory.mktemp("source")
    made = config.resolve(tree, {**TINY, **SOURCE, "total_steps": "2"}).config
    train_lib.train(resolved(made), epath.Path(folder))
    return folder


def names(tree):
    return flax.traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def params_of(folder):
    config = config_lib.read_config(epath.Path(folder))
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        return names(
            pretrained.restore(epath.Path(folder), "", config, run.mesh).variables["params"]
        )


def first_state(config):
    """The state at step 0 as the training makes it, and what is said."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        given, notes = warm_start.load_variables(run)
        shape = config.data.image_shape
        first = state.init(run.model, run.tx, shape, config.seed, run.shapes, given)
    return run, first, notes


def test_the_same_model_starts_with_the_same_parameters(source, tiny_config):
    run, first, notes = first_state(
        tiny_config({"init_from": str(source), "optim.ema_decay": "0.9"})
    )
    expected = params_of(source)
    for tree in (first.params, first.ema["params"]):
        found = names(tree)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    assert notes == [f"{len(expected)} of {len(expected)} parameters from {source}, step 2"]
    layouts = jax.tree.map(lambda leaf, shape: leaf.sharding == shape.sharding, first, run.shapes)
    assert jax.tree.all(layouts)


def test_another_size_and_other_classes(source, tiny_config):
    overrides = {
        "init_from": str(source),
        "data.image_size": "16,8",
        "data.synthetic.num_classes": "3",
        "model.num_classes": "0",
    }
    _, first, notes = first_state(tiny_config(overrides))
    found, expected = names(first.params), params_of(source)
    assert (found["posemb/grid"].shape, found["head/bias"].shape) == ((4, 2, 16), (3,))
    np.testing.assert_allclose(found["posemb/grid"][[0, -1]], expected["posemb/grid"], atol=1e-6)
    same = expected.keys() - {"posemb/grid", "head/kernel", "head/bias"}
    for name in same:
        np.testing.assert_array_equal(found[name], expected[name])
    assert notes[1:] == ["posemb/grid resampled from 2x2 to 4x2 (spline)", "head new (3 outputs)"]


def test_what_the_parameters_do_not_show_comes_with_them(source, tiny_config):
    overrides = {"data.mean": "0.5", "data.std": "0.5", "data.channels": "1"}
    config = tiny_config({"init_from": str(source), **overrides})
    assert config.model["mlp"]["activation"] == "gelu_tanh"
    assert config.model["posemb"]["interpolation"] == "spline"
    assert (config.data.mean, config.data.std) == ((0.5,), (0.5,))  # they are set


def test_the_new_run_has_its_own_regularization(source, tiny_config):
    config = tiny_config({"init_from": str(source), "model.block.drop_path": "0.1"})
    assert config.model["block"]["drop_path"] == 0.1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"model.mlp.activation": "relu"},
            r"config\.model\.mlp\.activation: relu \(flag\), .* with gelu_tanh \(init_from .*\)$",
        ),
        (
            {"model.width": "32"},
            r"config\.model\.width: 32 \(flag\), but .* with 16 \(init_from .*\)$",
        ),
        ({"model.pool": "gap"}, r"config\.init_from: .*cls_token \(1x16\) is an unexpected key"),
        (
            {"model.block.layer_scale": "0.1"},
            r"config\.init_from: .*scale\*/scale \(16\) is missing",
        ),
    ],
)
def test_another_model_is_refused(overrides, said, source, tiny_config):
    with pytest.raises(ConfigError, match=said):
        first_state(tiny_config({"init_from": str(source), **overrides}))


# --- Other channels, patches and classes.


def outputs(run, params, pixels):
    """Returns the features of images whose pixels are in 0..1."""
    images = (pixels - np.asarray(run.config.data.mean)) / np.asarray(run.config.data.std)
    model = run.model.copy(num_classes=0)
    return models.forward(model, {"params": params}, jnp.asarray(images, jnp.float32)).features


NAMES = tuple(f"class_{i}" for i in range(10))
NONE = {"data.mean": None, "data.std": None}


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_colour_becomes_grey_or_gets_other_channels(channels, colour, tiny_config):
    overrides = {"init_from": colour, "data.channels": str(channels), **NONE}
    run, _, notes = first_state(tiny_config(overrides))
    how = "summed" if channels == 1 else "repeated and scaled"
    assert notes[1:] == [f"stem/proj/kernel {how} from 3 to {channels} channels"]
    means = {1: (0.4,), 2: (0.2, 0.4), 4: (0.2, 0.4, 0.6, 0.2)}
    np.testing.assert_allclose(run.config.data.mean, means[channels])
    assert run.config.data.std == (0.5,) * channels


def test_grey_gives_what_it_gave_as_colour(colour, tiny_config):
    same = {"data.mean": "0.5,0.5,0.5", "data.std": "0.5,0.5,0.5", "data.channels": "3"}
    before, of_colour, _ = first_state(tiny_config({"init_from": colour, **same}))
    flags = {"init_from": colour, "data.mean": "0.5", "data.std": "0.5"}
    after, of_grey, _ = first_state(tiny_config(flags))
    grey = np.random.default_rng(0).random((2, 8, 8, 1))
    expected = outputs(before, of_colour.params, np.repeat(grey, 3, axis=-1))
    found = outputs(after, of_grey.params, grey)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    from conftest import TINY

    tree = config_lib.to_config_dict(config_lib.Config())
    data = {"data.channels": "3", "data.mean": "0.2,0.4,0.6", "data.std": "0.5,0.5,0.5"}
    folder = epath.Path(tmp_path_factory.mktemp("colour"))
    made = config_lib.resolve(tree, {**TINY, **data}).config
    model = models.create(**made.model)
    variables = jax.jit(lambda: models.init_variables(model, made.data.image_shape, 0))()
    classes = {"train_split": {"classes": list(NAMES)}}
    stored.write(folder, made, {})
    values = jax.device_get(nn.unbox(variables))
    write_variables(folder, values, classes, config_lib.as_dict(made))
    return str(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model.stem.patch": "8,8", "data.image_size": "16,16"},
        {"model.name": "vit_mu8", "data.image_size": "16,16"},
        {"model.stem.patch": "2,4"},
    ],
    ids=str,
)
def test_another_patch(change, source, tiny_config):
    run, first, notes = first_state(tiny_config({"init_from": str(source), **change}))
    patch = run.config.model["stem"]["patch"]
    assert first.params["stem"]["proj"]["kernel"].shape == (*patch, 1, 16)
    said = f"stem/proj/kernel resampled from 4x4 to {patch[0]}x{patch[1]}"
    assert said in notes[1:]
    assert any(note.startswith("posemb/grid resampled") for note in notes) == (patch == (2, 4))


def test_another_patch_of_another_stem_is_refused(source, tiny_config):
    flags = {"model.stem": "overlap", "model.stem.patch": "8,8", "data.image_size": "16,16"}
    with pytest.raises(ConfigError, match=r"config\.model\.stem"):
        tiny_config({"init_from": str(source), **flags})


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (NAMES, NAMES, ""),
        (NAMES, ("cat", *NAMES[1:]), "head new (10 outputs, for other classes)"),
        (NAMES, NAMES[::-1], "head new (10 outputs, for other classes)"),
        ((), NAMES, "head reused, although the weights do not name their classes"),
    ],
)
def test_the_head_of_other_classes_is_new(before, now, said, source, tiny_config, monkeypatch):
    run = open_run(tiny_config({"init_from": str(source)}))
    run.splits["train"].class_names = now
    monkeypatch.setattr(reading, "read_class_names", lambda *_: before)
    with jax.set_mesh(run.mesh):
        given, notes = warm_start.load_variables(run)
    assert notes[1:] == ([said] if said else [])
    assert ("params/head/kernel" in given) == ("head new" not in said)


def test_a_folder_that_is_not_there_is_said(tiny_config, tmp_path):
    with pytest.raises(InputMissingError, match=r"config\.json: no such file"):
        tiny_config({"init_from": str(tmp_path / "nowhere")})


def test_training_goes_on_from_them_and_resumes(source, tiny_config, tmp_path, capsys):
    overrides = {"init_from": str(source), "optim.learning_rate": "0", "total_steps": "2"}
    train_lib.train(resolved(tiny_config(overrides)), epath.Path(tmp_path / "run"))
    said = capsys.readouterr().out
    assert f"parameters from {source}, step 2" in said
    expected = params_of(source)
    for name, value in params_of(tmp_path / "run").items():
        np.testing.assert_array_equal(value, expected[name])
    model = config_lib.read_config(epath.Path(tmp_path / "run")).model
    assert model["mlp"]["activation"] == "gelu_tanh"
    longer = tiny_config({**overrides, "total_steps": "3"})
    train_lib.train(resolved(longer), epath.Path(tmp_path / "run"), ("total_steps",))
    said = capsys.readouterr().out
    assert "resume    from the checkpoint of step 2" in said and "parameters from" not in said


def test_a_pretrained_model_is_one_line(source):
    pretrained = from_pretrained(str(source))
    images = pretrained.preprocess([np.zeros((9, 9, 1), np.uint8), np.full((7, 8), 255, np.uint8)])
    np.testing.assert_allclose(images[0], (0 - 0.3) / 0.4, rtol=1e-6)
    np.testing.assert_allclose(images[1], (1 - 0.3) / 0.4, rtol=1e-6)
    output = pretrained.model.apply(pretrained.variables, images, train=False)
    assert output.logits.shape == (2, len(pretrained.class_names))


def test_a_picture_that_cannot_be_read_is_said(source, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"broken\.png: not an image"):
        from_pretrained(str(source)).preprocess([tmp_path / "broken.png"])


# --- Swin.

SWIN = {
    **{"model.width": "8", "model.depths": "1,1", "model.num_heads": "2,2", "model.mlp_ratio": "1"},
    **{"model.stem.patch": "2,2", "model.attention.window": "2,2", "model.mlp_dim": None},
}


def swin_source(name, tiny_config, folder):
    config = tiny_config({"model.name": name, **SWIN, "total_steps": "1"})
    train_lib.train(resolved(config), epath.Path(folder))
    return {"model.name": name, **SWIN, "init_from": str(folder)}


def test_the_tables_of_another_window_are_resampled(tiny_config, tmp_path):
    given = swin_source("swin_t_w7", tiny_config, tmp_path)
    _, first, notes = first_state(tiny_config({**given, "model.attention.window": "4,4"}))
    assert any("attn/bias/table resampled from 3x3 to 7x7" in note for note in notes)
    found, expected = names(first.params), params_of(tmp_path)
    assert found["stages_0_0/attn/bias/table"].shape == (7, 7, 2)
    same = [name for name in expected if not name.endswith("bias/table")]
    for name in same:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_network_of_offsets_counts_in_the_windows_that_it_knows(tiny_config, tmp_path):
    given = swin_source("swinv2_t_w8", tiny_config, tmp_path)
    run, _, notes = first_state(tiny_config({**given, "model.attention.window": "4,4"}))
    assert run.config.model["posemb"]["pretrained_window"] == (2, 2)
    assert not any("resampled" in note for note in notes)


def test_another_kind_of_model_is_refused(tiny_config, source):
    said = r"config\.model\.name: swin_t_w7 \(flag\) is a swin; .* of a vit_mu4 \(init_from"
    with pytest.raises(ConfigError, match=said):
        tiny_config({"model.name": "swin_t_w7", **SWIN, "init_from": str(source)})
