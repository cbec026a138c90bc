"""Every attention with every position embedding and every stem: trained two steps, or refused."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.evaluation import losses
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import STEMS

KEY = jax.random.key(0, impl="unsafe_rbg")
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16, 3)), jnp.float32)
TARGETS = losses.targets(jnp.asarray([0, 2]), 3)
TINY = {
    "width": 8,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 8,
    "patch": (4, 4),
    "num_classes": 3,
    "window": (2, 2),
    "landmarks": 4,
    "resnet_width": 0.5,
    "distilled": True,
}

# A bias is added to the score of a pair of tokens. Mixtures of tokens, landmarks and cells are no
# tokens, and linear attention never has a score.
BIASES = {"relative_bias", "log_cpb"}
WITHOUT_SCORES = {"linformer", "nystrom", "reduced", "linear"}

# All pairs of attention and positions; the stems go around so that each meets all of both.
PAIRS = [
    (attention, posemb, list(STEMS)[(i + 2 * j) % len(STEMS)])
    for (i, attention), (j, posemb) in itertools.product(enumerate(ATTENTIONS), enumerate(POSEMBS))
]
ALL = [combination for combination in itertools.product(ATTENTIONS, POSEMBS, STEMS)]


def fields_of(attention, posemb, stem):
    # The root and the pool of a ResNet make cells of 4 x 4 by themselves.
    patch = {"patch": (1, 1)} if stem == "resnet" else {}
    # Even blocks of these differ from odd ones.
    depth = 2 if attention in ("window", "dilated") else 1
    parts = {"attention": attention, "posemb": posemb, "stem": stem}
    return {**TINY, "depth": depth, **parts, **patch}


def random_params(model):
    init = functools.partial(model.init, train=False)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32),
        nn.unbox(jax.eval_shape(init, KEY, IMAGES))["params"],
    )


def train_two_steps(name, **fields):
    """Trains from random parameters; returns the losses before, between and after."""
    model = models.create(name, **fields)
    params = random_params(model)

    @jax.jit
    def step(params):
        def loss(params):
            output, _ = models.forward_train(model, {"params": params}, IMAGES, KEY)
            heads = (output.logits, *output.aux_logits)
            return sum(losses.softmax(logits, TARGETS).mean() for logits in heads)

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    values = []
    for _ in range(3):
        value, params = step(params)
        values.append(value)
    return np.asarray(values)


def check(attention, posemb, stem):
    fields = fields_of(attention, posemb, stem)
    if posemb in BIASES and attention in WITHOUT_SCORES:
        with pytest.raises(
            ConfigError, match=rf"^config\.model\.posemb: {posemb} is a bias"
        ) as error:
            models.create("vit_mu4", **fields)
        assert attention in str(error.value) and "\n" not in str(error.value)
        return
    first, second, third = train_two_steps("vit_mu4", **fields)
    assert np.isfinite([first, second, third]).all()
    assert first > second > third


def test_the_pairs_hold_every_two_entries_of_different_tables():
    for a, b in itertools.combinations(range(3), 2):
        tables = (ATTENTIONS, POSEMBS, STEMS)
        pairs = {(combination[a], combination[b]) for combination in PAIRS}
        assert pairs == set(itertools.product(tables[a], tables[b]))


@pytest.mark.parametrize(("attention", "posemb", "stem"), PAIRS)
def test_every_pair_of_parts_trains_or_is_refused(attention, posemb, stem):
    check(attention, posemb, stem)


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "posemb", "stem"), ALL)
def test_all_parts_train_together_or_are_refused(attention, posemb, stem):
    check(attention, posemb, stem)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "linear", "posemb": "conditional", "stem": "conv"},
        {"attention": "dilated", "posemb": "rope", "stem": "hmlp"},
        {"attention": "full", "posemb": "learned", "stem": "overlap"},
    ],
)
def test_swin_takes_other_parts(fields):
    sizes = {"width": 8, "depths": (2, 1), "num_heads": (1, 2), "mlp_ratio": 1.0, "window": (2, 2)}
    first, second, third = train_two_steps("swin_t_w7", **sizes, **fields, num_classes=3)
    assert first > second > third


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("vit_s16", {"posemb": "rope", "num_heads": 64}, "num_heads: rope needs heads of a mult"),
        ("vit_s16", {"attention": "linear", "attn_dropout": 0.1}, "attn_dropout: linear attention"),
        ("vit_s16", {"attention": "fused", "attn_dropout": 0.1}, "attn_dropout: fused attention"),
        ("vit_b14", {"stem": "conv"}, "patch: the stem conv needs a square patch"),
        (
            "vit_s16",
            {"stem": "hmlp", "patch": (16, 8)},
            "patch: the stem hmlp needs a square",
        ),
        (
            "vit_s16",
            {"posemb_interpolation": "geometric"},
            "posemb_interpolation: geometric is",
        ),
        ("swin_t_w7", {"pool": "cls"}, "pool: there is no class token to read; try gap or map"),
        ("swin_t_w7", {"depths": (2, 2)}, "num_heads: expected one number for each of 2 stages"),
        ("swin_t_w7", {"num_heads": (3, 6, 12, 25)}, "num_heads: 25 does not divide width 768"),
        ("swin_t_w7", {"depths": (2, 0, 2, 2)}, "depths: expected at least 1"),
        ("swin_t_w7", {"window": (0, 7)}, "window: expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(name, fields, problem):
    with pytest.raises(ConfigError) as error:
        models.create(name, **fields)
    assert str(error.value).startswith(f"config.model.{problem}")
    assert "\n" not in str(error.value)


# --- Other resolutions.


@functools.cache
def at_sizes(posemb, attention):
    fields = {**fields_of(attention, posemb, "patch"), "depth": 2}
    model = models.create("vit_mu4", **fields)
    variables = {"params": random_params(model)}
    return [
        jax.jit(functools.partial(models.forward, model))(variables, jnp.ones((1, *size, 3)))
        for size in ((16, 16), (8, 20))
    ]


@pytest.mark.parametrize(
    ("posemb", "attention"),
    [*((name, "full") for name in POSEMBS), *(("learned", name) for name in ATTENTIONS)],
)
def test_parameters_of_one_size_of_image_serve_others(posemb, attention):
    for output, num_patches in zip(at_sizes(posemb, attention), (16, 10), strict=True):
        assert output.tokens.shape == (1, 2 + num_patches, 8)
        assert np.isfinite(output.tokens).all()
