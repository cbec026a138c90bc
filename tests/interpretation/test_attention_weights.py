"""Attention weights: with the values, they give each layer's own output, for every attention."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import (
    IMAGES,
    SWIN_IMAGES,
    attention_calls,
    output_of,
    random_variables,
    tiny_swin,
    tiny_vit,
)

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError
from vit_jax.interpretation.weights import attention_layers, attention_maps
from vit_jax.models import stacking
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import Attention
from vit_jax.models.layers.attention.full import AutoAttention, FullAttention
from vit_jax.models.layers.posemb import POSEMBS

SIGNED = ("linformer", "nystrom", "linear")  # the weights of a token need not sum to one


def is_looked_at(attention, posemb):
    """Whether the pair has weights; one position embedding outside of the attention is enough."""
    entry = ATTENTIONS[attention]
    sites = ("rotary", "bias") if entry.takes_bias else ("rotary",)
    return attention != "reduced" and (POSEMBS[posemb].site in sites or posemb == "learned")


CASES = [pair for pair in itertools.product(ATTENTIONS, POSEMBS) if is_looked_at(*pair)]


def check(model, images=IMAGES):
    """Returns the maps of all layers, after their outputs are compared with the model's own."""
    variables = random_variables(model, images)
    layers = attention_layers(model)
    maps = attention_maps(model, variables, images, layers)
    calls = attention_calls(model, variables, images)
    assert set(calls) == set(layers) == set(maps)
    for layer, (x, output) in calls.items():
        found = maps[layer]
        assert found.weights.shape[:3] == (len(images), 2, found.grid.num_tokens)
        expected = output_of(found.weights, variables["params"][layer]["attn"], x)
        chex.assert_trees_all_close(output, np.float32(expected), rtol=1e-5, atol=1e-5)
    return maps


def assert_rows_sum_to_one(maps):
    for found in maps.values():
        np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=1e-6)
        assert found.weights.min() >= 0


@pytest.mark.parametrize(("attention", "posemb"), CASES)
def test_weights_times_values_are_the_output_of_the_layer(attention, posemb):
    depth = ATTENTIONS[attention].period
    maps = check(tiny_vit(attention=attention, posemb=posemb, num_registers=1, depth=depth))
    if attention not in SIGNED:
        assert_rows_sum_to_one(maps)


def test_full_attention_works_with_every_position_embedding():
    for posemb in POSEMBS:
        check(tiny_vit(attention="full", posemb=posemb, depth=1))


# --- Families: prefix tokens, norm orders, windows with padding, stems.

FAMILIES = {
    "deit": tiny_vit(distilled=True),
    "dinov2": tiny_vit(
        num_registers=3, mlp="swiglu", posemb="learned", **{"block.layer_scale": 0.1}
    ),
    "qk_norm": tiny_vit(**{"attention.qk_norm": True}),
    "hybrid": tiny_vit(stem="resnet", **{"stem.patch": (1, 1), "stem.width_factor": 0.5}),
    "post_norm": tiny_vit(block="post"),
    "swin": tiny_swin(),
    "swin_huggingface": tiny_swin(
        **{"attention.pad_order": "pad_shift", "attention.limit": "shorter"}
    ),
    "swinv2": tiny_swin("swinv2_t_w8"),
    "swin_masked": tiny_swin(**{"attention.mask_padding": True}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_maps_for_images_that_are_not_square(family):
    model = FAMILIES[family]
    images = SWIN_IMAGES if "swin" in family else IMAGES
    assert_rows_sum_to_one(check(model, images))


def test_padding_has_columns_of_its_own_only_if_it_takes_weight():
    variables = random_variables(FAMILIES["swin"], SWIN_IMAGES)
    found, masked = (
        attention_maps(FAMILIES[name], variables, SWIN_IMAGES, ["stages_0_1"])["stages_0_1"].weights
        for name in ("swin", "swin_masked")
    )
    assert found.shape[-2:] == (35, 6 * 9)  # 5x7 tokens in windows of 2x3
    assert masked.shape[-2:] == (35, 35)
    assert found[..., 35:].max() > 0.1


def test_windows_have_no_weight_between_each_other():
    model = FAMILIES["swin_masked"]
    variables = random_variables(model, SWIN_IMAGES)
    weights = attention_maps(model, variables, SWIN_IMAGES, ["stages_0_0"])["stages_0_0"].weights
    rows, columns = np.indices((5, 7)).reshape(2, -1)
    window = 10 * (rows // 2) + columns // 3
    same = window[:, None] == window
    assert (np.asarray(weights)[:, :, same] > 0).all()
    assert (np.asarray(weights)[:, :, ~same] == 0).all()


def test_attention_pooling_has_a_map_of_its_probe():
    model = tiny_vit(pool="map", num_registers=1)
    variables = random_variables(model)
    found = attention_maps(model, variables, IMAGES, ["pool"])["pool"]
    assert (found.weights.shape, found.grid) == ((2, 2, 1, 15), (3, 5, 0))
    assert_rows_sum_to_one({"pool": found})
    params = variables["params"]["pool"]
    names = ["pool/attn", "norm"]
    features = jax.jit(lambda: models.features(model, variables, IMAGES, names))()
    output, tokens = (features[name] for name in names)
    values = np.einsum("bnd,dhc->bnhc", tokens[:, 1:], params["attn"]["kv"]["kernel"][:, 1])
    values = values + params["attn"]["kv"]["bias"][1]
    sums = np.einsum("bhnm,bmhc->bnhc", found.weights, values)
    expected = np.einsum("bnhc,hcd->bnd", sums, params["attn"]["out"]["kernel"])
    expected = expected + params["attn"]["out"]["bias"]
    chex.assert_trees_all_close(output, np.float32(expected), rtol=1e-5, atol=1e-5)


# --- However the model runs.


@pytest.mark.parametrize("name", ["cudnn", "splash"])
@pytest.mark.parametrize("attention", ["auto", "window"])
def test_a_kernel_with_padding_has_the_weights_of_the_plain_form(kernel_on_cpu, name, attention):
    model = tiny_vit(attention=attention, pool="gap", num_classes=len(name))  # traced for each
    variables = random_variables(model)
    layers = attention_layers(model)
    expected = attention_maps(model, variables, IMAGES, layers)
    calls = kernel_on_cpu(name)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        jax.eval_shape(lambda: models.forward(model, variables, IMAGES).logits)
        assert calls  # the model itself takes the kernel
        found = attention_maps(model, variables, IMAGES, layers)
    for layer in layers:
        np.testing.assert_allclose(
            found[layer].weights, expected[layer].weights, rtol=1e-5, atol=1e-7
        )


def test_scan_and_remat_have_the_same_weights():
    model = tiny_vit(depth=3)
    variables = random_variables(model)
    layers = attention_layers(model)
    expected = attention_maps(model, variables, IMAGES, layers)
    other = model.clone(scan=True, remat="block")
    stacked = stacking.stack(variables, stacking.find_stacks(other))
    assert "blocks_0_to_blocks_2" in stacked["params"]
    for given in (variables, stacked):
        chex.assert_trees_all_equal(attention_maps(other, given, IMAGES, layers), expected)


def test_weights_are_float32_and_sum_to_one_when_computing_in_bfloat16():
    model = tiny_vit(dtype="bfloat16")
    maps = attention_maps(model, random_variables(model), IMAGES, ["blocks_1"])
    assert maps["blocks_1"].weights.dtype == np.float32
    assert_rows_sum_to_one(maps)


# --- Attention of a user.


class Sharp(AutoAttention):
    """Multiplies the scores before they are weights."""

    def _attend(self, q, k, v, grid, train):
        return super()._attend(3 * q, k, v, grid, train)


class Nearest(FullAttention):
    """Changes the weights: only the largest remains."""

    def weigh(self, q, k, grid):
        weights = super().weigh(q, k, grid)
        return (weights == weights.max(axis=-1, keepdims=True)).astype(weights.dtype)


class ByName(FullAttention):
    """Passes the layout by name."""

    def _attend(self, q, k, v, grid, train):
        return jnp.einsum("bhnm,bmhc->bnhc", self.weigh(q, k, grid=grid), v)


class Opaque(Attention):
    """Has no weights."""

    cost = "n"

    def _attend(self, q, k, v, grid, train):
        return v


@pytest.mark.parametrize("attention", [Sharp, Nearest, ByName])
def test_attention_that_extends_ours_shows_its_own_weights(monkeypatch, attention):
    monkeypatch.setitem(ATTENTIONS, "own", attention)
    assert_rows_sum_to_one(check(tiny_vit(attention="own")))


@pytest.mark.parametrize("attention", ["reduced", "own"])
def test_attention_without_weights_over_tokens_says_so(monkeypatch, attention):
    monkeypatch.setitem(ATTENTIONS, "own", Opaque)
    model = tiny_vit(attention=attention)
    with pytest.raises(ConfigError, match=f"{attention} has no weights over tokens") as caught:
        attention_maps(model, random_variables(model), IMAGES, ["blocks_0"])
    assert "\n" not in str(caught.value)


def test_unknown_layers_are_refused_with_a_hint():
    model = tiny_vit()
    with pytest.raises(ConfigError, match="layers: unknown 'blocks_7'; did you mean 'blocks_1'"):
        attention_maps(model, {}, IMAGES, ["blocks_7"])
    with pytest.raises(ConfigError, match="layers: unknown 'pool'"):
        attention_maps(model, {}, IMAGES, ["pool"])
    with pytest.raises(TypeError, match="expected a sequence of names"):
        attention_maps(model, {}, IMAGES, "blocks_0")
