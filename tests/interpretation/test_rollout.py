"""Attention rollout against the formula of the paper, on a ViT in NumPy and on Swin."""

import chex
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from tiny_models import IMAGES, SWIN_IMAGES, random_variables, tiny_swin, tiny_vit

from vit_jax.errors import ConfigError
from vit_jax.interpretation.propagation import merging, propagate
from vit_jax.interpretation.rollout import rollout
from vit_jax.interpretation.weights import attention_layers, attention_maps
from vit_jax.models.layers.grid import Grid


def paper(layers):
    """Abnar and Zuidema 2020, eq. 1, of fused weights (n, n), the first layer first."""
    result = np.eye(len(layers[0]))
    for weights in layers:
        mixed = 0.5 * weights + 0.5 * np.eye(len(weights))
        result = (mixed / mixed.sum(axis=-1, keepdims=True)) @ result
    return result


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_rollout_of_the_class_token_equals_the_formula(fusion):
    model = tiny_vit()
    variables = random_variables(model)
    found = rollout(model, variables, IMAGES, fusion=fusion)
    assert found.readout == "class token"
    for image, values in zip(IMAGES, found.values, strict=True):
        _, weights = numpy_vit.forward(variables["params"], image)
        fused = getattr(weights, fusion)(axis=1)
        fused = fused / fused.sum(axis=-1, keepdims=True)
        expected = paper(fused)[0, 1:].reshape(3, 5)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


def test_rollout_without_a_class_token_is_the_mean_of_the_patches():
    model = tiny_vit(pool="gap")
    variables = random_variables(model)
    found = rollout(model, variables, IMAGES)
    _, weights = numpy_vit.forward(variables["params"], IMAGES[0], gap=True)
    expected = paper(weights.mean(axis=1)).mean(axis=0).reshape(3, 5)
    assert found.readout == "mean of the patches"
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-5, atol=1e-7)


def test_rollout_through_a_layer_ends_there():
    model = tiny_vit()
    variables = random_variables(model)
    found = rollout(model, variables, IMAGES, through="blocks_0")
    _, weights = numpy_vit.forward(variables["params"], IMAGES[0])
    expected = paper(weights[:1].mean(axis=1))[0, 1:].reshape(3, 5)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-5, atol=1e-7)


def test_a_distilled_model_reads_both_of_its_tokens():
    model = tiny_vit(distilled=True)
    variables = random_variables(model)
    maps = attention_maps(model, variables, IMAGES, attention_layers(model))
    expected = paper([np.float64(found.weights[0].mean(axis=0)) for found in maps.values()])
    found = rollout(model, variables, IMAGES)
    assert found.readout == "class and distillation token"
    expected = expected[:2, 2:].mean(axis=0).reshape(3, 5)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-5, atol=1e-7)


def test_attention_pooling_reads_the_patches_by_the_weights_of_its_probe():
    model = tiny_vit(pool="map", num_registers=2)
    variables = random_variables(model)
    layers = attention_layers(model)
    maps = attention_maps(model, variables, IMAGES, [*layers, "pool"])
    fused = {layer: np.float64(found.weights[0].mean(axis=0)) for layer, found in maps.items()}
    expected = (fused["pool"] @ paper([fused[layer] for layer in layers])[2:])[0, 2:].reshape(3, 5)
    found = rollout(model, variables, IMAGES)
    assert found.readout == "probe of the pool"
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-5, atol=1e-7)


def swin_rollout(model, maps, image):
    """The rule for Swin token by token: without padding, and merged tokens average their rows."""
    layers = attention_layers(model)
    rows = np.eye(maps[layers[0]].grid.num_tokens)
    grid = maps[layers[0]].grid
    for layer in layers:
        now = maps[layer].grid
        if now != grid:
            merged = []
            for i, j in np.ndindex(now.height, now.width):
                below = [
                    rows[row * grid.width + column]
                    for row in (2 * i, 2 * i + 1)
                    for column in (2 * j, 2 * j + 1)
                    if row < grid.height and column < grid.width
                ]
                merged.append(np.mean(below, axis=0))
            rows = np.array(merged)
            grid = now
        weights = np.float64(maps[layer].weights[image].mean(axis=0))[:, : now.num_tokens]
        weights = weights / weights.sum(axis=-1, keepdims=True)
        rows = paper([weights]) @ rows
    return rows.mean(axis=0).reshape(maps[layers[0]].grid[:2])


@pytest.mark.parametrize("name", ["swin_t_w7", "swinv2_t_w8"])
def test_rollout_of_swin_leaves_padding_out_and_averages_merged_tokens(name):
    model = tiny_swin(name)
    variables = random_variables(model, SWIN_IMAGES)
    maps = attention_maps(model, variables, SWIN_IMAGES, attention_layers(model))
    assert maps["stages_0_0"].weights.shape[-1] > 35  # padding takes weight
    found = rollout(model, variables, SWIN_IMAGES)
    for image in range(2):
        expected = swin_rollout(model, maps, image)
        np.testing.assert_allclose(found.values[image], expected, rtol=1e-5, atol=1e-7)
        assert expected.sum() == pytest.approx(1, abs=1e-6)


def test_a_merged_token_averages_the_tokens_that_it_covers():
    expected = [
        [0.25, 0.25, 0, 0.25, 0.25, 0, 0, 0, 0],
        [0, 0, 0.5, 0, 0, 0.5, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0.5, 0.5, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    chex.assert_trees_all_equal(merging(Grid(3, 3), Grid(2, 2)), np.float32(expected))


def test_propagation_multiplies_the_first_layer_first():
    first, second = (
        jnp.asarray([matrix], jnp.float32) for matrix in ([[1, 2], [3, 4]], [[0, 1], [1, 1]])
    )
    grids = {"a": Grid(1, 2), "b": Grid(1, 2)}
    chex.assert_trees_all_equal(propagate({"a": first, "b": second}, grids), second @ first)


def test_rollout_refuses_signed_weights_and_unknown_names():
    model = tiny_vit(attention="linformer")
    variables = random_variables(model)
    with pytest.raises(ConfigError, match="of linformer may be negative; use relevance"):
        rollout(model, variables, IMAGES)
    with pytest.raises(ConfigError, match="through: unknown 'blocks_2'; did you mean"):
        rollout(model, variables, IMAGES, through="blocks_2")
    with pytest.raises(ConfigError, match="fusion: unknown 'sum'; choose from max, mean, min"):
        rollout(model, variables, IMAGES, fusion="sum")
