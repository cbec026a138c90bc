"""The records of families: layers and matrices by parameter name, and a user-defined family."""

import dataclasses
import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolved, restore_state
from etils import epath

from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.errors import ConfigError
from vit_jax.models.families import FAMILIES, MATRICES, Family, MatrixRule, block, outside_of_blocks
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import CrossAttention
from vit_jax.models.layers.attention.full import FullAttention
from vit_jax.models.layers.grid import Grid
from vit_jax.models.parts import free
from vit_jax.training import parameter_groups
from vit_jax.training.run import open_run

PROJECTION = (0, (2, 3))
OUT = ((0, 1), 2)
DENSE = (0, 1)
IN_BLOCKS = {
    "attn/qkv/kernel": PROJECTION,
    "attn/q/kernel": PROJECTION,
    "attn/kv/kernel": PROJECTION,
    "attn/out/kernel": OUT,
    "attn/bias/fc*/kernel": DENSE,
    "mlp/fc*/kernel": DENSE,
}
EXPECTED = {
    "vit": {f"blocks_*/{name}": axes for name, axes in IN_BLOCKS.items()},
    "swin": {f"stages_*_*/{name}": axes for name, axes in IN_BLOCKS.items()}
    | {"merge_*/reduction/kernel": DENSE},
}
TINY = {
    "vit": {"name": "vit_ti4", "width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 8},
    "swin": {"name": "swin_t_w2", "width": 8, "depths": (2, 1), "num_heads": (2, 2)},
}
ALL = {
    "attention.qk_norm": True,
    "block.layer_scale": 0.1,
    "representation_size": 4,
}
OF_VIT = {"distilled": True, "num_registers": 1}


def parameters(family):
    """Yields name and number of dimensions of each parameter, for models with each part."""
    variants = [{}, ALL, {"stem": {"name": "resnet", "layers": (1,), "width_factor": 0.5}}]
    variants.append({"attention.name": "reduced", "posemb.name": "rope_mixed"})
    choices = models.part_choices(TINY[family]["name"])
    variants += [{key: part} for key, choice in choices.items() for part in choice.table]
    if family == "vit":
        variants += [OF_VIT, {"pool.name": "gap", "keep_class_token": True, "pool.fc_norm": True}]
    for fields in variants:
        try:
            model = models.create(**TINY[family], **fields)
        except ConfigError:  # an unsupported combination
            continue
        size = [max(32, 4 * side) for side in model.stride]
        tree = nn.unbox(models.abstract_variables(model, (*size, 3)))["params"]
        for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items():
            yield name, leaf.ndim


@pytest.mark.parametrize("name", TINY)
def test_a_family_covers_all_its_parameters(name):
    family = FAMILIES[name]
    found = {(re.sub(r"\d+", "*", p), family.matrix(p, ndim)) for p, ndim in parameters(name)}
    assert {name: axes for name, axes in found if axes} == EXPECTED[name]
    parts = {name.split("/")[0] for name, _ in found}
    assert {"stem", "posemb", "norm", "pool", "head", "representation"} <= parts


def test_names_are_those_of_the_records():
    assert all(family.name == name for name, family in FAMILIES.items())
    listed = models.list_models()
    assert len(set(listed)) == len(listed)
    for name in listed:
        accepting = [f.name for f in FAMILIES.values() if f.find_preset(name) is not None]
        assert accepting == [models.family(name).name]


# --- A user-defined family.


class Layer(nn.Module):
    """Attention, and a matrix for each of two groups of channels."""

    @nn.compact
    def __call__(self, x):
        x = x + CrossAttention(2, name="attention")(x, x)
        groups = x.reshape(*x.shape[:2], 2, -1)
        size = groups.shape[-1]
        mixer = self.param("mixer", nn.initializers.lecun_normal(), (2, size, size), jnp.float32)
        return x + jnp.einsum("bngc,gcd->bngd", groups, mixer).reshape(x.shape)


class Tower(models.ViT):
    """A Transformer with other names of blocks."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(self.width, self.stem["patch"], self.stem["patch"], name="stem")(images)
        grid = Grid(*x.shape[1:3])
        x = x.reshape(len(x), -1, self.width)
        for i in range(self.depth):
            x = Layer(name=f"encoder_layer_{i}")(x)
        features = nn.LayerNorm(name="norm")(x).mean(axis=1)
        return models.Output(nn.Dense(self.num_classes, name="head")(features), features, x, grid)


def layer_of(parameter):
    if match := re.match(r"encoder_layer_(\d+)/", parameter):
        return block(int(match[1]))
    return outside_of_blocks(parameter)


TOWER = Family(
    name="tower",
    module=Tower,
    names=("tower_s",),
    find_preset=lambda name: (
        {"width": 8, "depth": 3, "num_heads": 2} if name == "tower_s" else None
    ),
    layer_of=layer_of,
    matrices=(MatrixRule(r"encoder_layer_\d+/mixer", (1, 2)), *MATRICES),
)


@pytest.fixture
def tower(monkeypatch, tiny_config):
    """Returns a function that registers the family, with changes, and returns a config for it."""

    def config(fields, **changes):
        monkeypatch.setitem(FAMILIES, "tower", dataclasses.replace(TOWER, **changes))
        sizes = dict.fromkeys(("model.width", "model.num_heads", "model.mlp_dim"))
        given = {"model.name": "tower_s", "model.stem.patch": "4,4", "total_steps": "2"}
        return tiny_config({**sizes, **given, **fields})

    return config


MUON = {"optim.name": "muon", "optim.layer_decay": "0.75"}


def test_a_family_with_other_parameter_names_trains(tower, tmp_path):
    config = tower(MUON)
    assert "tower_s" in models.list_models("tower*")
    run = open_run(config)
    rates = parameter_groups.rate_multipliers(config.optim, run.shapes.params, TOWER)
    assert {(name.split("/")[0], rate) for name, rate in rates.items()} == {
        ("stem", 0.75**4),
        ("encoder_layer_0", 0.75**3),
        ("encoder_layer_1", 0.75**2),
        ("encoder_layer_2", 0.75),
        ("norm", 1.0),
        ("head", 1.0),
    }
    matrices = {name: TOWER.matrix(name, 3) for name in ("encoder_layer_0/mixer", "head/kernel")}
    assert matrices == {"encoder_layer_0/mixer": (1, 2), "head/kernel": None}
    results = train_lib.train(resolved(config), epath.Path(tmp_path))
    assert (results["step"], results["skipped"]) == (2, 0)


def test_muon_orthogonalizes_each_matrix_of_a_batch(tower):
    run = open_run(tower(MUON | {"optim.weight_decay": "0", "optim.layer_decay": "1"}))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), run.shapes.params)
    keys = iter(jax.random.split(jax.random.key(0), 99))
    grads = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), params)
    update, _ = jax.jit(run.tx.update)(grads, run.tx.init(params), params)
    for matrix in update["encoder_layer_1"]["mixer"]:
        singular = jnp.linalg.svd(matrix / (0.2 * 4**0.5), compute_uv=False)
        assert ((singular > 0.6) & (singular < 1.3)).all()


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        (
            {"layer_of": FAMILIES["vit"].layer_of},
            {"optim.layer_decay": "0.75"},
            "FAMILIES['tower'].layer_of: no layer for the parameter encoder_layer_0/attention/kv/",
        ),
        (
            {"layer_of": FAMILIES["vit"].layer_of},
            {"optim.name": "muon"},
            "FAMILIES['tower'].layer_of: no layer for the parameter encoder_layer_0/attention/kv/",
        ),
        (
            {"matrices": MATRICES},
            {"optim.name": "muon"},
            "FAMILIES['tower'].matrices: no rule for the parameter encoder_layer_0/mixer of 3 dim",
        ),
    ],
)
def test_a_parameter_that_the_record_does_not_cover_is_an_error(changes, fields, message, tower):
    with pytest.raises(ConfigError, match=re.escape(message)):
        open_run(tower(fields, **changes))


def test_an_incomplete_record_is_enough_without_layer_decay_and_muon(tower):
    assert open_run(tower({}, layer_of=FAMILIES["vit"].layer_of, matrices=())).total_steps == 2


class Tempered(FullAttention):
    """Full attention with a learned temperature per head; its initial value is a setting."""

    temperature: float = free(1.0, "temperature of the scores at the start", above=0)

    def _attend(self, q, k, v, grid, train):
        start = nn.initializers.constant(self.temperature)
        learned = self.param("temperature", start, (self.num_heads,), jnp.float32)
        return super()._attend(q / learned[:, None], k, v, grid, train)


def test_an_attention_with_a_field_and_a_parameter_trains(monkeypatch, tiny_config, tmp_path):
    monkeypatch.setitem(ATTENTIONS, "tempered", Tempered)
    chosen = {"model.attention": "tempered", "model.attention.temperature": "2"}
    config = tiny_config({**MUON, **chosen, "total_steps": "2"})
    run = open_run(config)
    family = FAMILIES["vit"]
    rates = parameter_groups.rate_multipliers(config.optim, run.shapes.params, family)
    assert rates["blocks_0/attn/temperature"] == rates["blocks_0/attn/qkv/kernel"] == 0.75
    results = train_lib.train(resolved(config), epath.Path(tmp_path))
    assert (results["step"], results["skipped"]) == (2, 0)
    params = restore_state(tmp_path, run).params
    learned = params["blocks_0"]["attn"]["temperature"]
    assert (learned != 2).all() and np.allclose(learned, 2, atol=0.1)
