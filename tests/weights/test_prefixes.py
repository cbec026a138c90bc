"""The prefixes of wrappers are removed from all names, with a note."""

import numpy as np
import pytest
from small_weights import write

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.folder import open_weights

NAMES = ("cls_token", "blocks.0.norm1.weight", "head.weight")


def names_with(prefix, value=0):
    return {prefix + name: np.full(2, value, np.float32) for name in NAMES}


def open_arrays(tmp_path, arrays, weights=""):
    return open_weights(write(tmp_path / "a.safetensors", arrays), weights)[0]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "_orig_mod.",
        "net.",
        "backbone.",
        "encoder.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.backbone.",
        "student.",
    ],
)
def test_what_all_names_begin_with_is_left_off(prefix, tmp_path):
    with open_arrays(tmp_path, names_with(prefix, 7)) as file:
        assert set(file.headers) == set(NAMES)
        assert all((file.read(name) == 7).all() for name in NAMES)
    assert file.notes == (f"the prefix {prefix} of all names was removed",)


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ("vit.cls_token", "classifier.weight"),
        ("embeddings.cls_token", "encoder.layer.0.bias", "layernorm.weight"),
        ("model.a", "other.b"),
        ("model.a", "model"),
        ("backbone.a", "head.weight"),
        ("modules.a", "modules.b"),
    ],
)
def test_other_names_stay(names, tmp_path):
    with open_arrays(tmp_path, {name: np.zeros(2, np.float32) for name in names}) as file:
        assert set(file.headers) == set(names) and not file.notes


@pytest.mark.parametrize(
    "beside",
    ["head.mlp.0.weight", "head.last_layer.weight_g", "dino_head.a", "criterion.w", "n_averaged"],
)
def test_what_is_trained_beside_a_model_is_left_out(beside, tmp_path):
    arrays = {**names_with("module."), beside: np.zeros(1, np.float32)}
    with open_arrays(tmp_path, arrays) as file:
        assert set(file.headers) == set(NAMES)
    assert f"ignored, as only training needs them: 1 arrays of {beside.split('.')[0]}" in (
        file.notes
    )


@pytest.mark.parametrize(
    ("weights", "value", "said"),
    [
        ("", 1, "using the average of the weights (ema_model); --weights=raw uses the others"),
        ("ema", 1, "using the average of the weights (ema_model); --weights=raw uses the others"),
        ("raw", 0, "using the raw weights (model), not their average"),
    ],
)
def test_of_two_models_in_one_file_the_average_is_taken(weights, value, said, tmp_path):
    arrays = {**names_with("model."), **names_with("ema_model.module.", 1)}
    with open_arrays(tmp_path, arrays, weights) as file:
        assert set(file.headers) == set(NAMES)
        assert (file.read("head.weight") == value).all()
    assert said in file.notes


def test_what_is_not_there_is_not_taken(tmp_path):
    with pytest.raises(ConfigError, match=r"--weights: .* has no average"):
        open_arrays(tmp_path, names_with(""), "ema")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"--weights: .* has only an average .teacher."):
        open_arrays(tmp_path, names_with("teacher."), "raw")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(DataError, match=r"several sets of weights .model, net."):
        open_arrays(tmp_path, {**names_with("model."), **names_with("net.")})
