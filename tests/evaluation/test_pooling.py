"""The features of every layer are those of the model, pooled as asked, under any kernel."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.evaluation.pooling import choose_features
from vit_jax.models import stacking

SHAPE = (16, 24, 3)
SMALL = {"width": 16, "num_heads": 2, "mlp_dim": 32, "depth": 2, "num_classes": 5}
IMAGES = jax.random.normal(jax.random.key(1), (2, *SHAPE))


@functools.cache
def model_of(name, **fields):
    sizes = {"num_classes": 5, "width": 16, "num_heads": (2, 2), "depths": (1, 1)}
    sizes = sizes if name.startswith("swin") else SMALL
    return models.create(name, **{**sizes, **fields})


@functools.cache
def variables_of(model):
    init = functools.partial(model.init, train=False)
    return nn.unbox(jax.jit(init)(jax.random.key(0), IMAGES))


@functools.cache
def forward(model):
    return jax.jit(functools.partial(models.forward, model))(variables_of(model), IMAGES)


@functools.cache
def submodule_output(model, layer):
    function = functools.partial(models.features, model, names=[layer])
    return jax.jit(function)(variables_of(model), IMAGES)[layer]


def read(model, layer="", pool=""):
    chosen = choose_features(model, SHAPE, layer, pool)
    found = jax.jit(chosen)(variables_of(model), IMAGES)["features"]
    assert found.shape == (2, *chosen.shape) and found.dtype == jnp.float32
    return chosen, found


VIT = functools.partial(model_of, "vit_mu4", pool="cls", num_registers=3)


def test_by_default_they_are_the_input_of_the_head():
    for model in (VIT(), model_of("vit_mu4", pool="map"), model_of("swin_t_w7")):
        chosen, found = read(model)
        expected = forward(model).features
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert (chosen.pool, chosen.grid) == ("", None)
        values = f"{found.shape[1]} values for each image"
        assert str(chosen) == f"the input of the head: one vector, {values}"


@pytest.mark.parametrize("layer", ("", "blocks_0", "blocks_1/attn", "norm"))
def test_tokens_are_pooled_without_those_before_the_patches(layer):
    model = VIT()
    tokens = submodule_output(model, layer) if layer else forward(model).tokens
    assert tokens.shape == (2, 1 + 3 + 4 * 6, 16)
    np.testing.assert_allclose(read(model, layer, "cls")[1], tokens[:, 0], atol=1e-6)
    np.testing.assert_allclose(read(model, layer, "mean")[1], tokens[:, 4:].mean(1), atol=1e-6)
    chosen, found = read(model, layer, "tokens")
    np.testing.assert_allclose(found, tokens, atol=1e-6)
    assert chosen.grid == (4, 6, 4)
    if layer:
        assert read(model, layer)[0].pool == "cls"
        assert read(model_of("vit_mu4", pool="map"), layer)[0].pool == "mean"


@pytest.mark.parametrize(
    ("layer", "grid"),
    (("stages_0_0", (4, 6, 0)), ("merge_0", (2, 3, 0)), ("norm", (2, 3, 0))),
)
def test_stages_of_swin_have_the_tokens_of_their_own_grid(layer, grid):
    model = model_of("swin_t_w7")
    chosen, tokens = read(model, layer, "tokens")
    assert chosen.grid == grid and tokens.shape[1] == grid[0] * grid[1]
    np.testing.assert_allclose(read(model, layer)[1], tokens.mean(1), atol=1e-6)
    with pytest.raises(ConfigError, match="--pool: the model has no class token; use mean or"):
        choose_features(model, SHAPE, layer, "cls")


@pytest.mark.parametrize(
    ("layer", "pool", "problem"),
    (
        ("blocks_7", "", r"--layer: unknown 'blocks_7'; did you mean 'blocks_\d'\?"),
        ("", "max", "--pool: unknown 'max'; choose from cls, mean, tokens$"),
        ("head", "mean", "--pool: expected none, got mean: head gives one vector for each image"),
        ("stem", "cls", "--pool: the model has no class token in stem; use mean or tokens"),
        ("blocks_0/attn/qkv", "", "--layer: "),
    ),
)
def test_what_a_layer_does_not_have_is_an_error_in_one_line(layer, pool, problem):
    with pytest.raises(ConfigError, match=problem):
        choose_features(VIT(), SHAPE, layer, pool)


@pytest.mark.parametrize("num_heads", (2, 3, 7))
def test_a_value_for_each_head_is_not_one_for_each_image(num_heads):
    model = model_of("swin_t_w7", width=42, num_heads=(num_heads, 2))
    with pytest.raises(ConfigError, match="bias does not give an array for each image"):
        choose_features(model, SHAPE, "stages_0_0/attn/bias")


@pytest.mark.parametrize("layer", ("", "blocks_0", "blocks_1/attn"))
@pytest.mark.parametrize(
    "fields",
    (
        {"remat": "block", "scan": True},
        {"remat": "attention"},
        {"attention": "full"},
        {"attention": "fused"},
    ),
)
def test_the_values_are_the_same_under_scan_remat_and_any_policy(layer, fields):
    other = VIT(**fields)
    chosen = choose_features(other, SHAPE, layer, "mean" if layer else "")
    found = jax.jit(chosen)(variables_of(VIT()), IMAGES)["features"]
    expected = read(VIT(), layer, "mean" if layer else "")[1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("pool", ("", "mean"))
def test_stacked_variables_give_the_same_features(pool):
    model = VIT(scan=True)
    stacked = stacking.stack(variables_of(VIT()), stacking.find_stacks(model))
    assert "blocks_0_to_blocks_1" in stacked["params"]
    found = jax.jit(choose_features(model, SHAPE, "", pool))(stacked, IMAGES)["features"]
    np.testing.assert_allclose(found, read(VIT(), "", pool)[1], atol=1e-6)


@pytest.mark.parametrize("kernel", ("cudnn", "splash"))
@pytest.mark.parametrize("pool", ("tokens", "mean"))
def test_padding_of_a_fused_kernel_is_not_among_the_tokens(kernel_on_cpu, kernel, pool):
    model = VIT(num_registers=2)  # 27 tokens
    expected = read(model, "blocks_0", pool)[1]
    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))):
        calls = kernel_on_cpu(kernel)
        found = read(model, "blocks_0", pool)[1]
    assert calls
    np.testing.assert_allclose(found, expected, atol=1e-5)
