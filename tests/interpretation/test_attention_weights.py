"""Attention weights: with the values, they give each layer's own output, for every attention."""

import itertools

import chex
import numpy as np
import pytest
from tiny_models import (
    IMAGES,
    attention_calls,
    output_of,
    random_variables,
    tiny_vit,
)

from vit_jax.interpretation.weights import attention_layers, attention_maps
from vit_jax.models.layers.attention import ATTENTIONS
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
