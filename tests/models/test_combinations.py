"""Every pair of parts from different tables trains for two steps in one model, or is refused."""

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
from vit_jax.models.layers.blocks import BLOCKS
from vit_jax.models.layers.mlp import MLPS
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import STEMS

KEY = jax.random.key(0, impl="unsafe_rbg")
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16, 3)), jnp.float32)
TARGETS = losses.targets(jnp.asarray([0, 2]), 3)
TINY = {"width": 8, "num_heads": 2, "mlp_dim": 8, "num_classes": 3, "num_registers": 1}
# Sizes of the parts that have them.
SIZES = {
    "attention.window": (2, 2),
    "attention.landmarks": 4,
    "stem.patch": (4, 4),
    "stem.width_factor": 0.5,
}
TABLES = {
    "attention": ATTENTIONS,
    "posemb": POSEMBS,
    "stem": STEMS,
    "pool": POOLS,
    "mlp": MLPS,
    "block": BLOCKS,
}

# A relative bias needs one score per pair of tokens. Linformer, Nystrom and reduced attention have
# other keys than tokens; linear attention has no scores.
BIASES = ("relative_bias", "log_cpb")
WITHOUT_SCORES = ("linformer", "nystrom", "reduced", "linear")
REFUSED = [*itertools.product(WITHOUT_SCORES, BIASES)]


def is_refused(parts):
    return (parts["attention"], parts["posemb"]) in REFUSED


def pairs_of(parts):
    """All pairs of the parts, in the order of the tables."""
    return set(itertools.combinations([(key, parts[key]) for key in TABLES if key in parts], 2))


def pairs_to_train():
    """All pairs of entries from different tables, without the refused ones."""
    entries = [[(key, name) for name in table] for key, table in TABLES.items()]
    pairs = [
        pair for a, b in itertools.combinations(entries, 2) for pair in itertools.product(a, b)
    ]
    refused = {(("attention", attention), ("posemb", posemb)) for attention, posemb in REFUSED}
    return [pair for pair in pairs if pair not in refused]


def cover(pairs):
    """Few models that contain all pairs, by greedy search."""
    chosen = []
    left = dict.fromkeys(pairs)
    possible = set(pairs)
    while left:
        parts = dict(next(iter(left)))
        for key in TABLES:
            if key not in parts:
                options = [{**parts, key: name} for name in TABLES[key]]
                options = [option for option in options if pairs_of(option) <= possible]
                parts = max(options, key=lambda option: len(pairs_of(option) & left.keys()))
        left = {pair: None for pair in left if pair not in pairs_of(parts)}
        chosen.append(parts)
    return chosen


TRAINED = cover(pairs_to_train())
ALL = [
    {
        **dict(zip(TABLES, names, strict=False)),
        **{key: rest[key] for key in ("pool", "mlp", "block")},
    }
    for names, rest in zip(
        itertools.product(ATTENTIONS, POSEMBS, STEMS), itertools.cycle(TRAINED), strict=False
    )
]


def fields_of(parts):
    # In these, even and odd blocks differ.
    depth = 2 if parts["attention"] in ("window", "dilated") else 1
    fields = models.preset("vit_mu4", parts)
    sizes = {path: value for path, value in SIZES.items() if path in fields}
    sizes |= {"stem.patch": (1, 1)} if parts["stem"] == "resnet" else {}
    # The distillation head needs the pool cls.
    distilled = parts["pool"] == "cls"
    return {**TINY, "depth": depth, **parts, **sizes, "distilled": distilled}


def random_params(model):
    init = functools.partial(model.init, train=False)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32),
        nn.unbox(jax.eval_shape(init, KEY, IMAGES))["params"],
    )


def train_two_steps(name, **fields):
    """Trains from random parameters; returns the losses before, between and after the steps."""
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


def check(parts):
    fields = fields_of(parts)
    if is_refused(parts):
        message = rf"^config\.model\.posemb\.name: {parts['posemb']} adds a bias"
        with pytest.raises(ConfigError, match=message) as error:
            models.create("vit_mu4", **fields)
        assert parts["attention"] in str(error.value) and "\n" not in str(error.value)
        return
    first, second, third = train_two_steps("vit_mu4", **fields)
    assert np.isfinite([first, second, third]).all()
    assert first > second > third


def test_the_tables_are_those_of_the_model():
    choices = models.part_choices("vit_mu4")
    assert {key: choice.table for key, choice in choices.items()} == TABLES


def test_every_pair_of_entries_is_trained_or_refused():
    trained = {pair for parts in TRAINED for pair in pairs_of(parts)}
    assert trained == set(pairs_to_train())
    assert len(TRAINED) <= 1.2 * len(ATTENTIONS) * len(POSEMBS)
    sizes = [len(table) for table in TABLES.values()]
    every = sum(a * b for a, b in itertools.combinations(sizes, 2))
    assert len(trained) + len(REFUSED) == every


def name_of_case(parts):
    return "-".join(parts[key] for key in TABLES)


@pytest.mark.parametrize("parts", TRAINED, ids=name_of_case)
def test_every_pair_of_parts_trains(parts):
    assert not is_refused(parts)
    check(parts)


@pytest.mark.parametrize(("attention", "posemb"), REFUSED)
def test_an_unsupported_pair_is_refused(attention, posemb):
    check({**TRAINED[0], "attention": attention, "posemb": posemb})


@pytest.mark.slow
@pytest.mark.parametrize("parts", ALL, ids=name_of_case)
def test_all_parts_train_together_or_are_refused(parts):
    check(parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"attention": "linear", "posemb": "conditional", "stem": "conv", "pool": "map"},
        {"attention": "dilated", "posemb": "rope", "stem": "hmlp", "mlp": "swiglu"},
        {"attention": "full", "posemb": "learned", "stem": "overlap", "block": "post"},
    ],
)
def test_swin_trains_with_other_parts(parts):
    fields = {"width": 8, "depths": (2, 1), "num_heads": (1, 2), "mlp_ratio": 1.0, **parts}
    fields |= {"attention.window": (2, 2)} if parts["attention"] == "dilated" else {}
    first, second, third = train_two_steps("swin_t_w7", **fields, num_classes=3)
    assert first > second > third


WITH_WEIGHTS = "model.attention=auto or full or window or dilated or linformer or reduced"


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("vit_s16", {"posemb": "rope", "num_heads": 64}, "num_heads: rotary positions need a mul"),
        *(
            (
                "vit_s16",
                {"attention": name, "attention.dropout": 0.1},
                f"attention.dropout: {name} has no such field; it belongs to {WITH_WEIGHTS}",
            )
            for name in ("linear", "fused", "nystrom")
        ),
        (
            "vit_b14",
            {"stem": "conv"},
            "stem.patch: expected a square with side 2, 4, 8, 16 ..., got",
        ),
        (
            "vit_s16",
            {"stem": "hmlp", "stem.patch": (16, 8)},
            "stem.patch: expected a square with side 2, 4, 8, 16 ..., got (16, 8)",
        ),
        (
            "vit_s16",
            {"posemb.interpolation": "geometric"},
            "posemb.interpolation: unknown 'geometric'",
        ),
        (
            "swin_t_w7",
            {"pool": "cls"},
            "pool.name: Swin has no class token; use gap or map, got cls",
        ),
        ("swin_t_w7", {"depths": (2, 2)}, "num_heads: expected one number for each of 2 stages"),
        ("swin_t_w7", {"num_heads": (3, 6, 12, 25)}, "num_heads: 25 does not divide width 768"),
        ("swin_t_w7", {"depths": (2, 0, 2, 2)}, "depths: expected at least 1"),
        ("swin_t_w7", {"attention.window": (0, 7)}, "attention.window: expected at least 1"),
        (
            "swinv2_t_w8",
            {"posemb.pretrained_window": (8, 8)},
            "posemb.pretrained_window: expected one number for each of 4 stages, got (8, 8)",
        ),
    ],
)
def test_an_invalid_field_is_refused_in_one_line(name, fields, problem):
    with pytest.raises(ConfigError) as error:
        models.create(name, **fields)
    assert str(error.value).startswith(f"config.model.{problem}")
    assert "\n" not in str(error.value)


# --- Other resolutions.


@functools.cache
def at_sizes(posemb, attention):
    parts = {"attention": attention, "posemb": posemb, "stem": "patch", "pool": "cls"}
    model = models.create("vit_mu4", **{**fields_of(parts), "depth": 2})
    variables = {"params": random_params(model)}
    return [
        jax.jit(functools.partial(models.forward, model))(variables, jnp.ones((1, *size, 3)))
        for size in ((16, 16), (8, 20))
    ]


@pytest.mark.parametrize(
    ("posemb", "attention"),
    [*((name, "full") for name in POSEMBS), *(("learned", name) for name in ATTENTIONS)],
)
def test_parameters_work_at_other_image_sizes(posemb, attention):
    for output, num_patches in zip(at_sizes(posemb, attention), (16, 10), strict=True):
        assert output.tokens.shape == (1, 3 + num_patches, 8)
        assert np.isfinite(output.tokens).all()
