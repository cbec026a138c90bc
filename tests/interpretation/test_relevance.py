"""Relevance against the formulas of the paper, with derivatives from differences in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from tiny_models import IMAGES, SWIN_IMAGES, random_variables, tiny_swin, tiny_vit

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.interpretation import hooks
from vit_jax.interpretation.relevance import relevance

CLASSES = [2, 0]


def paper(weights, gradients):
    """Chefer et al. 2021, eq. 5 and 6, of the weights (heads, n, n) of each layer in order."""
    result = np.eye(weights[0].shape[-1])
    for a, gradient in zip(weights, gradients, strict=True):
        result = result + np.maximum(gradient * a, 0).mean(axis=0) @ result
    return result


@pytest.mark.parametrize("gap", [False, True])
def test_relevance_equals_the_formulas_for_each_class(gap):
    model = tiny_vit(pool="gap" if gap else "cls")
    images = IMAGES[:, :8, :12]
    variables = random_variables(model, images)
    params = variables["params"]
    found = relevance(model, variables, images, CLASSES)
    for image, label, values in zip(images, CLASSES, found.values, strict=True):
        logits, weights = numpy_vit.forward(params, image, gap=gap)
        ours = models.forward(model, variables, image[None]).logits[0]
        np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-5)
        result = paper(weights, numpy_vit.gradients(params, image, label, gap=gap))
        expected = result.mean(axis=0) if gap else result[0, 1:]
        np.testing.assert_allclose(values, expected.reshape(2, 3), rtol=1e-3, atol=1e-6)


def test_two_classes_have_different_relevance():
    model = tiny_vit()
    variables = random_variables(model)
    first, second = (relevance(model, variables, IMAGES, jnp.full(2, k)).values for k in (0, 1))
    assert np.abs(first - second).max() > 0.1 * np.abs(first).max()


# --- Swin: derivatives through windows, padding and merging.


def gradients_of(model, variables, images, labels, layers):
    """Weights, and derivatives of the logits by them, by layer."""

    def logits(changes):
        output, weights = hooks.run(
            model, variables, images, layers, lambda module, weights: weights, changes
        )
        return output.logits[np.arange(len(labels)), np.asarray(labels)].sum(), weights

    _, weights = jax.jit(logits)(None)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return weights, jax.jit(jax.grad(logits, has_aux=True))(zeros)[0], jax.jit(logits)


def test_relevance_of_swin_equals_the_formulas_token_by_token():
    model = tiny_swin()
    variables = random_variables(model, SWIN_IMAGES)
    layers = hooks.attention_layers(model)
    weights, gradients, _ = gradients_of(model, variables, SWIN_IMAGES, CLASSES, layers)
    grids = hooks.grids(model, SWIN_IMAGES.shape)
    rows, grid = np.eye(35), grids[layers[0]]
    for layer in layers:
        if grids[layer] != grid:
            cells = rows.reshape(grid.height, grid.width, -1)
            rows = np.array(
                [
                    cells[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(0, 1))
                    for i, j in np.ndindex(*grids[layer][:2])
                ]
            )
            grid = grids[layer]
        n = grid.num_tokens
        products = np.float64(gradients[layer][0]) * np.float64(weights[layer][0])
        rows = rows + np.maximum(products, 0).mean(axis=0)[:, :n] @ rows
    found = relevance(model, variables, SWIN_IMAGES, CLASSES)
    assert found.values.shape == (2, 5, 7)
    expected = rows.mean(axis=0).reshape(5, 7)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "model",
    [tiny_swin(), tiny_vit(attention="window"), tiny_vit(attention="linformer", pool="map")],
)
def test_derivatives_by_single_weights_equal_differences_of_the_logits(model):
    images = SWIN_IMAGES if isinstance(model, models.Swin) else IMAGES
    variables = random_variables(model, images)
    layers = hooks.attention_layers(model)
    weights, gradients, logits = gradients_of(model, variables, images, CLASSES, layers)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    for layer in (layers[0], layers[-1]):
        sizes = np.abs(gradients[layer] * weights[layer])
        largest = np.unravel_index(np.argmax(sizes), sizes.shape)
        above, below = (
            logits({**zeros, layer: zeros[layer].at[largest].set(step)})[0]
            for step in (0.05, -0.05)
        )
        np.testing.assert_allclose((above - below) / 0.1, gradients[layer][largest], rtol=0.02)


def test_a_window_as_large_as_the_grid_has_the_relevance_of_full_attention():
    window, full = (
        tiny_vit(attention=name, posemb="relative_bias", **fields)
        for name, fields in (("window", {"attention.window": (3, 5)}), ("full", {}))
    )
    variables = random_variables(full)
    expected = relevance(full, variables, IMAGES, CLASSES).values
    found = relevance(window, variables, IMAGES, CLASSES).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_relevance_needs_a_head_and_a_class_for_each_image():
    model = tiny_vit(num_classes=0)
    with pytest.raises(ConfigError, match="relevance is of a class, but there is no head"):
        relevance(model, {}, IMAGES, CLASSES)
    for classes in ([0], [0, 3], [0, -1]):
        with pytest.raises(ConfigError, match="classes: expected 2 integers from 0 to 2, got"):
            relevance(tiny_vit(), {}, IMAGES, classes)
