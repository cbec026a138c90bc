"""The profile of a model: what is traced once counts as often as it is called."""

import importlib

import flax.linen as nn
import jax.numpy as jnp
import pytest

from vit_jax import models
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.window import WindowAttention

profiles = importlib.import_module("vit_jax.models.profile")


@pytest.fixture
def whole(monkeypatch):
    """Returns the profile of a model in which nothing is measured apart."""

    def profile(model, image_size):
        with monkeypatch.context() as patch:
            patch.setattr(profiles, "REPEATED", ())
            patch.setattr(profiles, "_costs", {})
            return models.profile(model, image_size)

    monkeypatch.setattr(profiles, "_costs", {})
    return profile


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_blocks_that_are_traced_once_count_as_often_as_they_are_called(attention, whole):
    model = models.create("vit_s8", width=16, num_heads=2, mlp_dim=8, depth=4, attention=attention)
    assert models.profile(model, (32, 40)) == whole(model, (32, 40))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("swin_t_w7", {"depths": (2, 3), "num_heads": (2, 4), "width": 16}),
        ("swinv2_t_w8", {"depths": (2, 3), "num_heads": (2, 4), "width": 16}),
        ("vit_r26_s32", {"stem.layers": (2, 2), "depth": 2, "posemb": "conditional"}),
        ("deit3_s16", {"depth": 3, "block.drop_path": 0.5}),
    ],
)
def test_stages_and_stems_count_whole(name, fields, whole):
    model = models.create(name, **fields)
    size = (model.stride[0] * 16, model.stride[1] * 16)
    assert models.profile(model, size) == whole(model, size)


def test_odd_and_even_blocks_are_measured_apart(whole):
    class Alternating(WindowAttention):
        def _attend(self, q, k, v, grid, train):
            extra = jnp.ones((3, 5)) @ jnp.ones((5, 7)) if self.block % 2 else 0.0
            return super()._attend(q, k, v, grid, train) + jnp.sum(extra)

    attention = models.create("vit_ti16", attention="window").attention
    alternating = type(attention)(Alternating, attention.fields)
    deep, shallow = (
        models.create("vit_ti16", depth=depth).clone(attention=alternating) for depth in (5, 4)
    )
    plain = models.create("vit_ti16", depth=5, attention="window")
    assert models.profile(deep, (32, 32)) == whole(deep, (32, 32))
    extra = models.profile(deep, (32, 32)).gflops - models.profile(plain, (32, 32)).gflops
    assert round(extra * 1e9) == 2 * 3 * 5 * 7
    assert models.profile(shallow, (32, 32)) == whole(shallow, (32, 32))


def test_initializers_cost_nothing():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            def init(key):
                return jnp.ones((3, 50)) @ jnp.ones((50, 5))

            return images @ self.param("kernel", init)

    assert models.profile(Model(), (2, 4)) == models.Profile(15, 2 * 4 * 3 * 5 / 1e9)
