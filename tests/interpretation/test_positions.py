"""Position embeddings are the vectors that the model adds, and their similarity is the cosine."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.interpretation.positions import (
    position_bias,
    position_embedding,
    position_similarity,
)

SMALL = {"width": 16, "num_heads": 2, "mlp_dim": 16, "depth": 1, "num_classes": 2}
SHAPE = (12, 16, 1)


def initial(model, shape):
    """Returns arrays of the shapes of the variables of a model."""
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(models.abstract_variables(model, shape))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def made(posemb):
    model = models.create("vit_mu4", **SMALL, posemb=posemb)
    variables = initial(model, SHAPE)
    return model, variables


@pytest.mark.parametrize("posemb", ["learned", "sincos2d"])
def test_the_embedding_is_what_the_model_adds_to_its_patches(posemb):
    model, variables = made(posemb)
    positions = position_embedding(model, variables, SHAPE[:2])
    assert positions.shape == (3, 4, 16)
    names = ["stem", "posemb"]
    images = jax.random.normal(jax.random.key(0), (1, *SHAPE))
    _, state = model.apply(variables, images, train=False, capture_intermediates=True)
    stem, (_, added) = (state["intermediates"][name]["__call__"][0] for name in names)
    assert stem.shape[1:] == positions.shape
    np.testing.assert_array_equal(positions, np.asarray(added))


def test_a_learned_table_is_resampled_to_another_size():
    model, variables = made("learned")
    assert position_embedding(model, variables, (24, 8)).shape == (6, 2, 16)


@pytest.mark.parametrize("scan", [False, True])
def test_a_bias_is_by_the_offset_of_the_key_from_the_query(scan):
    fields = {**SMALL, "depth": 2, "posemb": "relative_bias", "scan": scan}
    model = models.create("vit_mu4", **fields)
    shape = (12, 8, 1)
    variables = initial(model, shape)
    found = position_bias(model, variables, shape)
    assert list(found) == ["blocks_0", "blocks_1"]
    for name, biases in found.items():
        table = np.asarray(variables["params"][name]["attn"]["bias"]["table"])
        assert biases.shape == (2, 5, 3)
        # The table has the offset of the query from the key (Liu et al. 2021, eq. 4).
        np.testing.assert_array_equal(biases, table[::-1, ::-1].transpose(2, 0, 1))


def test_the_biases_of_swin_are_those_of_its_windows():
    model = models.create(
        "swin_t_w7",
        width=8,
        depths=(1, 1),
        num_heads=(1, 2),
        num_classes=2,
        **{"attention.window": (4, 4)},
    )
    variables = initial(model, (32, 24, 3))
    found = position_bias(model, variables, (32, 24, 3))
    assert {name: bias.shape for name, bias in found.items()} == {
        "stages_0_0": (1, 7, 7),
        "stages_1_0": (2, 7, 5),
    }


@pytest.mark.parametrize(
    ("posemb", "message"),
    [
        ("rope", "rope rotates queries and keys"),
        ("relative_bias", "relative_bias adds a bias to the attention scores"),
        ("conditional", "conditional is a convolution after the first block"),
        ("none", "none adds nothing"),
    ],
)
def test_a_model_that_adds_no_vectors_says_what_it_does(posemb, message):
    model = models.create("vit_mu4", **SMALL, posemb=posemb)
    with pytest.raises(ConfigError, match=f"^model.posemb: .*{message}$"):
        position_embedding(model, {"params": {}}, SHAPE[:2])


def test_the_similarity_is_the_cosine():
    positions = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    found = position_similarity(positions)
    first, second = positions[1, 2].astype(np.float64), positions[0, 1].astype(np.float64)
    cosine = first @ second / np.sqrt((first @ first) * (second @ second))
    np.testing.assert_allclose(found[1, 2, 0, 1], cosine, rtol=1e-6)
    np.testing.assert_allclose(found[1, 2, 1, 2], 1, rtol=1e-6)
    assert not position_similarity(np.zeros((1, 2, 3), np.float32)).any()
