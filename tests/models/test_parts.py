"""Parts: every entry of a table has its own fields, and a new entry is one class and one line."""

import copy
import dataclasses
import functools
import pickle
import typing
from typing import ClassVar

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax.core import FrozenDict

from vit_jax import config, models
from vit_jax.errors import ConfigError
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import Attention
from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.layers.attention.window import WindowAttention
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.parts import Component, Part, free, name_of
from vit_jax.settings.choices import own_fields
from vit_jax.settings.fields import check_value, coerce

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
MOST_FIELDS = 25
SMALL = {"width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 8, "num_classes": 3}
SWIN = {"width": 8, "depths": (2, 1), "num_heads": (2, 2), "mlp_ratio": 1.0, "num_classes": 3}

TABLES = {key: choice.table for key, choice in models.part_choices("vit_s16").items()}
ENTRIES = [(key, name) for key, table in TABLES.items() for name in table]


def params_of(model, images=IMAGES):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), KEY, images)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32),
        nn.unbox(shapes)["params"],
    )


def names(params):
    return set(flax.traverse_util.flatten_dict(params, sep="/"))


# --- Fields.


@pytest.mark.parametrize("module", [models.ViT, models.Swin, Attention, *ATTENTIONS.values()])
def test_a_class_has_few_fields(module):
    own = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
    assert len(own) <= MOST_FIELDS


def test_both_families_have_the_same_tables():
    swin = {key: choice.table for key, choice in models.part_choices("swin_t_w7").items()}
    assert swin == TABLES


@pytest.mark.parametrize(("key", "name"), ENTRIES)
def test_an_entry_states_its_fields_with_their_meaning_and_range(key, name):
    entry = TABLES[key][name]
    assert issubclass(entry, Component) and entry.__doc__
    for inner, declared in own_fields(entry).items():
        path = f"model.{key}.{inner}"
        assert declared.field.metadata["help"], path
        types = {declared.type, *typing.get_args(declared.type)}
        bounds = [declared.field.metadata[bound] for bound in ("low", "high", "above", "below")]
        if types & {int, float}:
            assert any(bound is not None for bound in bounds), path
        if str in types:
            assert declared.field.metadata["choices"], path
        default = coerce(declared.field.default, declared.type, path)
        assert default == declared.field.default
        check_value(default, declared.field, path)


@pytest.mark.parametrize(("key", "name"), ENTRIES)
def test_a_field_that_is_not_a_setting_cannot_be_set(key, name):
    entry = TABLES[key][name]
    assert name_of(Part(entry), TABLES[key]) == name
    others = {field.name for field in dataclasses.fields(entry)} - own_fields(entry).keys()
    reasons = rf"({name} has no such field|not a setting of {name}; its class does not declare it)"
    for inner in others - {"name"}:
        with pytest.raises(ConfigError, match=rf"^config\.model\.{key}\.{inner}: {reasons}"):
            models.spec("vit_s16", **{key: {"name": name, inner: 1}})


# --- Values.


def test_parts_are_equal_by_value_and_so_are_models():
    first, second = (Part(WindowAttention, FrozenDict(window=(4, 4))) for _ in range(2))
    assert first == second and hash(first) == hash(second)
    assert first != Part(WindowAttention, FrozenDict(window=(4, 5)))
    assert first != Part(FullAttention, FrozenDict(window=(4, 4)))
    fields = {"attention": {"name": "window", "window": (4, 4)}}
    model, same = (models.create("vit_s16", **fields) for _ in range(2))
    assert model == same and hash(model) == hash(same)
    assert model != models.create("vit_s16", attention="window")
    for again in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):  # noqa: S301
        assert again == first and hash(again) == hash(first)


def test_a_part_has_the_values_of_its_fields_or_their_defaults():
    part = Part(WindowAttention, FrozenDict(window=(4, 4)))
    assert (part["window"], part["pad_order"], part["dropout"]) == ((4, 4), "shift_pad", 0.0)
    with pytest.raises(KeyError):
        part["landmarks"]
    module = part(num_heads=2, block=3)
    assert (module.window, module.num_heads, module.block) == ((4, 4), 2, 3)


def test_a_class_that_is_not_in_the_table_has_its_own_name():
    assert name_of(Part(Mlp), TABLES["attention"]) == "Mlp"


# --- A new attention: one class and one line in the table.


class TemperedAttention(FullAttention):
    """Attention to every token, with scores divided by a temperature."""

    temperature: float = free(1.0, "temperature of the scores", above=0)

    cost: ClassVar[str] = "n^2"

    def _scale_qk(self, q, k):
        q, k = super()._scale_qk(q, k)
        return q / self.temperature, k


@pytest.fixture
def tempered(monkeypatch):
    monkeypatch.setitem(ATTENTIONS, "tempered", TemperedAttention)


def resolve(flags):
    tree = config.to_config_dict(config.Config())
    tree.model = models.spec("vit_mu4", **SMALL)
    return config.resolve(tree, {"data.image_size": "8,8", **flags})


def tokens(flags, params=None):
    model = models.create(**resolve(flags).config.model)
    params = params_of(model) if params is None else params
    return models.forward(model, {"params": params}, IMAGES).tokens, params


def test_a_new_attention_is_one_class_and_one_line(tempered):
    flags = {"model.attention": "tempered", "model.attention.temperature": "2.5"}
    resolved = resolve(flags)
    section = resolved.config.model["attention"]
    assert section["temperature"] == 2.5
    assert section.keys() == {"name", *own_fields(FullAttention), "temperature"}
    assert resolved.origins["model.attention.temperature"] == "flag"
    described = config.describe(resolved.config)
    assert described["model.attention.temperature"] == "temperature of the scores"
    assert described["model.attention.name"].endswith(", tempered")
    expected, params = tokens({})
    warm, _ = tokens(flags, params)
    cold, _ = tokens({"model.attention": "tempered"}, params)
    chex.assert_trees_all_equal(cold, expected)
    assert np.isfinite(warm).all() and not np.allclose(warm, expected, atol=1e-3)
    # To divide the queries by the temperature is to divide their kernel and bias.
    smaller = copy.deepcopy(params)
    for block in ("blocks_0", "blocks_1"):
        qkv = smaller[block]["attn"]["qkv"]
        qkv["kernel"] = qkv["kernel"].at[:, 0].divide(2.5)
        qkv["bias"] = qkv["bias"].at[0].divide(2.5)
    chex.assert_trees_all_close(warm, tokens({}, smaller)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"model.attention": "tempered", "model.attention.temperature": "0"},
            "temperature: expected more than 0, got 0.0",
        ),
        (
            {"model.attention.temperature": "2"},
            "temperature: auto has no such field; it belongs to model.attention=tempered",
        ),
        (
            {"model.attention": "temprd"},
            "name: unknown 'temprd'; did you mean 'tempered'? For your own, pass --import=MODULE",
        ),
    ],
)
def test_the_fields_of_a_new_attention_are_checked(tempered, flags, message):
    with pytest.raises(ConfigError) as error:
        resolve(flags)
    assert str(error.value) == f"config.model.attention.{message}"


# --- The encoder.


@pytest.mark.parametrize(
    ("name", "fields", "blocks"),
    [
        ("vit_mu4", SMALL, {"blocks_0", "blocks_1"}),
        (
            "vit_mu4",
            {**SMALL, "posemb": "conditional"},
            {"blocks_0", "blocks_0_posemb", "blocks_1"},
        ),
        (
            "swin_t_w2",
            SWIN,
            {"stages_0_0", "stages_0_1", "stages_1_0", "merge_0", "stem_norm"},
        ),
    ],
)
def test_the_encoder_is_not_part_of_parameter_names(name, fields, blocks):
    model = models.create(name, **fields)
    params = params_of(model)
    rest = {"stem", "norm", "head", "posemb", "cls_token"}
    assert blocks <= params.keys() <= blocks | rest
    assert not any("encoder" in path for path in names(params))
    _, state = model.apply({"params": params}, IMAGES, train=False, capture_intermediates=True)
    assert blocks <= state["intermediates"].keys()
    last = max(block for block in blocks if block.startswith(("blocks", "stages")))
    found = models.features(model, {"params": params}, IMAGES, [last, f"{last}/attn"])
    assert list(found) == [last, f"{last}/attn"]


def test_the_names_of_a_blocks_parameters_are_those_of_its_parts():
    params = params_of(models.create("swin_t_w2", **SWIN))
    dense = {f"{layer}/{leaf}" for layer in ("fc1", "fc2") for leaf in ("kernel", "bias")}
    projections = {
        f"attn/{layer}/{leaf}" for layer in ("qkv", "out") for leaf in ("kernel", "bias")
    }
    norms = {f"{norm}/{leaf}" for norm in ("norm1", "norm2") for leaf in ("scale", "bias")}
    expected = {*projections, "attn/bias/table", *norms, *(f"mlp/{name}" for name in dense)}
    for block in ("stages_0_0", "stages_0_1", "stages_1_0"):
        assert names(params[block]) == expected


@pytest.mark.parametrize(("key", "name"), ENTRIES)
def test_the_documentation_states_the_cost_of_every_entry(key, name):
    page = (ROOT / "docs" / "models.md").read_text()
    entry = TABLES[key][name]
    if key == "block":  # one sentence covers all blocks
        assert "The order costs nothing; LayerScale has 2 d parameters a block." in page
        assert entry.cost == "none; LayerScale has 2 d parameters a block"
        return
    cost = entry.cost.replace("^2", "²")
    rows = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert any(f"| {cost} |" in row for row in rows), (cost, rows)
