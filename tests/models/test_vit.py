"""The Vision Transformer against an independent implementation in NumPy, and each of its fields."""

import functools
import itertools
import math

import chex
import flax
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.errors import ConfigError
from vit_jax.models.layers.blocks import BLOCKS
from vit_jax.models.layers.mlp import MLPS
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS
from vit_jax.models.layers.stems import STEMS, HybridEmbed
from vit_jax.models.parts import name_of

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
SIZE = {"width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16, "num_classes": 3}
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)


def create(name="vit_s16", **overrides):
    return models.create(name, **{**SIZE, "stem.patch": (4, 4), **overrides})


def param_shapes(model, images=IMAGES):
    init = functools.partial(model.init, train=False)
    return nn.unbox(jax.eval_shape(init, KEY, images))["params"]


def random_params(model, images=IMAGES, scale=0.5):
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32),
        param_shapes(model, images),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, images=IMAGES, key=None):
    if key is None:
        return models.forward(model, {"params": params}, images)
    output, _ = models.forward_train(model, {"params": params}, images, key)
    return output


# --- The Vision Transformer in NumPy.


def linear(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(x, layer, eps):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred / deviation * layer["scale"] + layer["bias"]


def attend(x, layer, eps):
    """Multi-head self-attention of the tokens (n, d) of one image."""
    kernel, bias = layer["qkv"]["kernel"], layer["qkv"]["bias"]
    joined = []
    for head in range(kernel.shape[2]):
        q, k, v = (x @ kernel[:, i, head] + bias[i, head] for i in range(3))
        if "q_norm" in layer:
            q, k = layer_norm(q, layer["q_norm"], eps), layer_norm(k, layer["k_norm"], eps)
        weights = np.exp(q @ k.T / math.sqrt(q.shape[1]))
        joined.append(weights / weights.sum(1, keepdims=True) @ v)
    out = layer["out"]["kernel"].reshape(-1, x.shape[1])
    return np.concatenate(joined, axis=1) @ out + layer["out"]["bias"]


def feed_forward(x, layer, activation):
    x = linear(x, layer["fc1"])
    if activation is silu:
        gate, x = np.split(x, 2, axis=1)
        return linear(silu(gate) * x, layer["fc2"])
    return linear(activation(x), layer["fc2"])


def post_norm(x, block, activation, eps):
    x = layer_norm(x + attend(x, block["attn"], eps), block["norm1"], eps)
    return layer_norm(x + feed_forward(x, block["mlp"], activation), block["norm2"], eps)


def pre_norm(x, block, activation, eps):
    scale1, scale2 = (block.get(name, {"scale": 1})["scale"] for name in ("scale1", "scale2"))
    x = x + scale1 * attend(layer_norm(x, block["norm1"], eps), block["attn"], eps)
    return x + scale2 * feed_forward(layer_norm(x, block["norm2"], eps), block["mlp"], activation)


def embed(image, params):
    """Prefix tokens, then the projected patches row by row.

    Class and distillation token and patches have positions; registers have none."""
    kernel = params["stem"]["proj"]["kernel"]
    height, width = kernel.shape[:2]
    rows, columns = image.shape[0] // height, image.shape[1] // width
    cuts = [np.hsplit(row, columns) for row in np.vsplit(image, rows)]
    patches = np.array([cut.ravel() for cut in itertools.chain(*cuts)])
    patches = patches @ kernel.reshape(len(patches[0]), -1) + params["stem"]["proj"]["bias"]
    patches = patches + params["posemb"]["grid"].reshape(len(patches), -1)
    nothing = np.zeros((0, len(patches[0])))
    tokens = [params.get(name, nothing) for name in ("cls_token", "dist_token")]
    tokens = np.concatenate(tokens) + params["posemb"].get("prefix", 0)
    return np.concatenate([tokens, params.get("registers", nothing), patches]), len(patches)


def pool(x, num_patches, name):
    parts = {"cls": x[0], "gap": x[-num_patches:].mean(axis=0)}
    return np.concatenate([parts[part] for part in name.split("_")])


def reference(image, params, block, activation, eps, pool_name="cls"):
    """The logits of one image; the final norm is before or after the pool."""
    x, num_patches = embed(image, params)
    for i in range(sum(name.startswith("blocks_") for name in params)):
        x = block(x, params[f"blocks_{i}"], activation, eps)
    if "norm" in params:
        x = layer_norm(x, params["norm"], eps)
    features = pool(x, num_patches, pool_name)
    if "fc_norm" in params:
        features = layer_norm(features, params["fc_norm"], eps)
    logits = linear(features, params["head"])
    if "head_dist" in params:
        logits = (logits + linear(x[1], params["head_dist"])) / 2
    return logits


def relu(x):
    return np.where(x > 0, x, 0)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("name", "overrides", "block", "activation", "eps"),
    [
        ("vit_b16_textbook", {}, post_norm, relu, 1e-5),
        ("vit_b16", {}, pre_norm, gelu, 1e-6),
        ("vit_b16", {"mlp.activation": "gelu_tanh"}, pre_norm, gelu_tanh, 1e-6),
        (
            "vit_b16",
            {"norm_eps": 0.1, "attention.qk_norm": True, "block.layer_scale": 1.0},
            pre_norm,
            gelu,
            0.1,
        ),
        ("vit_b16", {"pool": "gap", "keep_class_token": True}, pre_norm, gelu, 1e-6),
        (
            "vit_b16",
            {"pool": "cls_gap", "pool.fc_norm": True, "norm_eps": 0.1},
            pre_norm,
            gelu,
            0.1,
        ),
        ("deit_b16_distilled", {}, pre_norm, gelu, 1e-6),
        ("deit3_b16", {}, pre_norm, gelu, 1e-6),
        ("dinov2_g14_reg4", {}, pre_norm, silu, 1e-6),
    ],
)
def test_equals_the_reference_in_numpy(name, overrides, block, activation, eps):
    model = create(name, **overrides)
    params = random_params(model)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    arguments = (exact, block, activation, eps, name_of(model.pool, POOLS))
    expected = [reference(np.float64(image), *arguments) for image in IMAGES]
    logits = run(model, params).logits
    chex.assert_trees_all_close(logits, np.float32(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation"), [("deit_b16_distilled", gelu), ("dinov2_g14_reg4", silu)]
)
def test_float64_computes_in_float64(name, activation):
    with jax.enable_x64(True):
        model = create(
            name, **{"attention.qk_norm": True, "block.layer_scale": 1.0}, dtype="float64"
        )
        params = random_params(model)
        logits = run(model, params, jnp.float64(IMAGES)).logits
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = [reference(np.float64(x), exact, pre_norm, activation, 1e-6) for x in IMAGES]
    chex.assert_trees_all_close(logits, np.array(expected), rtol=1e-11, atol=1e-11)


def test_the_textbook_variant_differs_in_these_fields_only():
    textbook, published = models.preset("vit_b16_textbook"), models.preset("vit_b16")
    assert textbook.keys() == published.keys()
    different = {key for key in published if textbook[key] != published[key]}
    assert {key: textbook[key] for key in different} == {
        "block.name": "post",
        "mlp.activation": "relu",
        "norm_eps": 1e-5,
        "dropout": 0.1,
        "dropout_sites": ("mlp",),
        "attention.dropout": 0.1,
    }


# --- Gradients.

HYBRID = {
    "stem": "resnet",
    "stem.layers": (1,),
    "stem.width_factor": 0.5,
    "stem.patch": (1, 1),
}

# Every pool with every block, and every position embedding; then the other choices.
CHOICES = {
    f"{pool}, {order}": {"pool": pool, "block": order, "posemb": posemb}
    for (pool, order), posemb in zip(
        itertools.product(POOLS, BLOCKS),
        itertools.cycle(POSEMBS),
        strict=False,
    )
}
CHOICES |= {
    "hybrid of one stage": {**HYBRID, "stem.weight_standardization": "variance"},
    "hybrid of a root alone": {**HYBRID, "stem.layers": ()},
    "distilled": {"distilled": True},
    "swiglu": {"mlp": "swiglu", "pool": "gap", "keep_class_token": True, "pool.fc_norm": True},
    "scaled": {"attention.qk_norm": True, "block.layer_scale": 1.0, "representation_size": 5},
}


def test_every_choice_of_parts_has_its_gradients_checked():
    tables = {"pool": POOLS, "block": BLOCKS, "mlp": MLPS}
    tables["stem.weight_standardization"] = WEIGHT_STANDARDIZATIONS
    elsewhere = {"attention", "posemb", "stem"}  # test_gradients.py
    assert tables.keys() | elsewhere >= models.part_choices("vit_s16").keys()
    for field, table in tables.items():
        hybrid = {key: text for key, text in CHOICES.items() if text.get("stem") == "resnet"}
        models_with_field = hybrid if field.startswith("stem.") else CHOICES
        default = models.preset("vit_r26_s32")[field if "." in field else f"{field}.name"]
        checked = {fields.get(field, default) for fields in models_with_field.values()}
        assert checked == set(table), field


@functools.cache
def gradients():
    """The gradients for every choice of parts, in one compiled function.

    All parameters are random: the head's kernel, which is zero at first, would hide the others.
    """
    fields = {"depth": 1, "num_registers": 1}
    built = {name: create(**{**fields, **choice}) for name, choice in CHOICES.items()}
    # Larger images, so that a group of the last stage has more than one value.
    larger = jnp.asarray(np.random.default_rng(2).normal(size=(2, 16, 16, 3)), jnp.float32)
    images = {name: larger if built[name].stem.module is HybridEmbed else IMAGES for name in built}

    def loss(params):
        outputs = [
            models.forward(built[name], {"params": params[name]}, images[name]) for name in built
        ]
        return sum(nn.log_softmax(output.logits)[:, 1].sum() for output in outputs)

    params = {name: random_params(built[name], images[name]) for name in built}
    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(choice):
    for path, leaf in flax.traverse_util.flatten_dict(gradients()[choice], sep="/").items():
        assert np.isfinite(leaf).all(), path
        # A constant that is added to all keys does not change the softmax.
        assert np.abs(leaf).max() > 1e-6 or path.endswith("attn/k_norm/bias"), path


# --- Names of parameters.

BLOCK = {
    "norm1/scale": (8,),
    "norm1/bias": (8,),
    "attn/qkv/kernel": (8, 3, 2, 4),
    "attn/qkv/bias": (3, 2, 4),
    "attn/q_norm/scale": (4,),
    "attn/q_norm/bias": (4,),
    "attn/k_norm/scale": (4,),
    "attn/k_norm/bias": (4,),
    "attn/out/kernel": (2, 4, 8),
    "attn/out/bias": (8,),
    "scale1/scale": (8,),
    "norm2/scale": (8,),
    "norm2/bias": (8,),
    "mlp/fc1/kernel": (8, 16),
    "mlp/fc1/bias": (16,),
    "mlp/fc2/kernel": (16, 8),
    "mlp/fc2/bias": (8,),
    "scale2/scale": (8,),
}
EVERYTHING = {
    "stem/proj/kernel": (4, 4, 3, 8),
    "stem/proj/bias": (8,),
    "posemb/grid": (2, 2, 8),
    "registers": (2, 8),
    **{f"blocks_0/{name}": shape for name, shape in BLOCK.items()},
    **{f"blocks_1/{name}": shape for name, shape in BLOCK.items()},
    "norm/scale": (8,),
    "norm/bias": (8,),
    "representation/kernel": (8, 5),
    "representation/bias": (5,),
    "head/kernel": (5, 3),
    "head/bias": (3,),
}
POOL = {
    "cls": {"cls_token": (1, 8), "posemb/prefix": (1, 8)},
    "gap": {},
    "map": {
        "pool/probe": (1, 1, 8),
        "pool/attn/q/kernel": (8, 1, 2, 4),
        "pool/attn/q/bias": (1, 2, 4),
        "pool/attn/kv/kernel": (8, 2, 2, 4),
        "pool/attn/kv/bias": (2, 2, 4),
        "pool/attn/out/kernel": (2, 4, 8),
        "pool/attn/out/bias": (8,),
        "pool/norm/scale": (8,),
        "pool/norm/bias": (8,),
        "pool/mlp/fc1/kernel": (8, 16),
        "pool/mlp/fc1/bias": (16,),
        "pool/mlp/fc2/kernel": (16, 8),
        "pool/mlp/fc2/bias": (8,),
    },
}


POOL["cls_gap"] = {**POOL["cls"], "representation/kernel": (16, 5)}

NORM = {"norm/scale": (8,), "norm/bias": (8,)}
HEAD = {"head/kernel": (8, 3), "head/bias": (3,)}
PLAIN = {
    **{f"stem/proj/{name}": EVERYTHING[f"stem/proj/{name}"] for name in ("kernel", "bias")},
    "posemb/grid": (2, 2, 8),
    **POOL["cls"],
    **{name: shape for name, shape in EVERYTHING.items() if name.startswith("blocks_0/")},
    **NORM,
    **HEAD,
}
PLAIN = {
    name: shape
    for name, shape in PLAIN.items()
    if not any(part in name for part in ("q_norm", "k_norm", "scale1", "scale2"))
}
BOTTLENECK = {
    "conv1/kernel": (1, 1, 32, 32),
    "conv2/kernel": (3, 3, 32, 32),
    "conv3/kernel": (1, 1, 32, 128),
    "conv_proj/kernel": (1, 1, 32, 128),
    **{f"norm{i}/{part}": (32,) for i in (1, 2) for part in ("scale", "bias")},
    **{f"norm{i}/{part}": (128,) for i in ("3", "_proj") for part in ("scale", "bias")},
}
# (fields, parameters that they add to a plain model or change, parameters that they remove)
CHANGES = [
    ({}, {}, {}),
    (
        {"distilled": True},
        {
            "dist_token": (1, 8),
            "posemb/prefix": (2, 8),
            "head_dist/kernel": (8, 3),
            "head_dist/bias": (3,),
        },
        {},
    ),
    ({"distilled": True, "num_classes": 0}, {"dist_token": (1, 8), "posemb/prefix": (2, 8)}, HEAD),
    ({"pool.fc_norm": True}, {"fc_norm/scale": (8,), "fc_norm/bias": (8,)}, NORM),
    (
        {"pool.fc_norm": True, "pool": "cls_gap"},
        {"fc_norm/scale": (16,), "fc_norm/bias": (16,), "head/kernel": (16, 3)},
        NORM,
    ),
    ({"keep_class_token": True}, {}, {}),  # the pool reads it anyway
    ({"keep_class_token": True, "pool": "gap"}, {}, {}),
    ({"keep_class_token": True, "pool": "map"}, POOL["map"], {}),
    ({"posemb.prefix": False}, {}, {"posemb/prefix": (1, 8)}),
    ({"mlp": "swiglu"}, {"blocks_0/mlp/fc1/kernel": (8, 32), "blocks_0/mlp/fc1/bias": (32,)}, {}),
    (
        HYBRID,
        {
            "stem/proj/kernel": (1, 1, 128, 8),
            "stem/resnet/conv_root/kernel": (7, 7, 3, 32),
            "stem/resnet/norm_root/scale": (32,),
            "stem/resnet/norm_root/bias": (32,),
            **{f"stem/resnet/stages_0_0/{name}": shape for name, shape in BOTTLENECK.items()},
        },
        {},
    ),
]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("pool", POOLS)
def test_names_and_shapes_of_the_parameters_are_the_checkpoint_format(pool, block):
    options = {"attention.qk_norm": True, "block.layer_scale": 0.1, "num_registers": 2}
    model = create(pool=pool, block=block, **options, representation_size=5)
    leaves = flax.traverse_util.flatten_dict(param_shapes(model), sep="/")
    assert {name: leaf.shape for name, leaf in leaves.items()} == EVERYTHING | POOL[pool]


@pytest.mark.parametrize(("fields", "added", "removed"), CHANGES)
def test_how_a_field_changes_the_checkpoint_format(fields, added, removed):
    leaves = flax.traverse_util.flatten_dict(param_shapes(create(depth=1, **fields)), sep="/")
    kept = {name: shape for name, shape in PLAIN.items() if name not in removed}
    assert {name: leaf.shape for name, leaf in leaves.items()} == kept | added


def test_sincos2d_has_no_parameters():
    names = set(param_shapes(create())) - set(param_shapes(create(posemb="sincos2d")))
    assert names == {"posemb"}


# --- Tokens before the encoder: a model without blocks returns them after one norm.


def encoderless(**fields):
    """A model without blocks, its random parameters, and the tokens it returns."""
    model = create(**fields).clone(depth=0)
    params = random_params(model)
    return params, run(model, params).tokens


def expected_tokens(params, *parts):
    """The expected tokens, which are the same for both images."""
    tokens = np.concatenate([np.broadcast_to(part, (2, *part.shape[-2:])) for part in parts], 1)
    return layer_norm(tokens, jax.tree.map(np.asarray, params["norm"]), 1e-6)


def patches(params):
    """The projected patches without positions."""
    kernel = np.asarray(params["stem"]["proj"]["kernel"])
    images = np.asarray(IMAGES)
    cuts = images.reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(2, 4, -1)
    return cuts @ kernel.reshape(-1, 8) + params["stem"]["proj"]["bias"]


def test_class_token_and_patches_have_positions():
    params, tokens = encoderless()
    grid = params["posemb"]["grid"].reshape(4, 8)
    token = params["cls_token"] + params["posemb"]["prefix"]
    expected = expected_tokens(params, token, patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_without_posemb_prefix_the_class_token_has_no_position():
    params, tokens = encoderless(**{"posemb.prefix": False})
    assert set(params["posemb"]) == {"grid"}
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, params["cls_token"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_a_class_token_can_be_kept_even_if_the_pool_does_not_read_it(pool):
    params, tokens = encoderless(pool=pool, keep_class_token=True)
    grid = params["posemb"]["grid"].reshape(4, 8)
    token = params["cls_token"] + params["posemb"]["prefix"]
    expected = expected_tokens(params, token, patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_the_distillation_token_follows_the_class_token_and_has_its_own_position():
    params, tokens = encoderless(distilled=True, num_registers=3)
    first, second = params["posemb"]["prefix"]
    grid = params["posemb"]["grid"].reshape(4, 8)
    special = (params["cls_token"] + first, params["dist_token"] + second, params["registers"])
    expected = expected_tokens(params, *special, patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{"posemb.prefix": False}, {"posemb": "sincos2d"}])
def test_without_posemb_prefix_the_distillation_token_has_no_position(fields):
    params, tokens = encoderless(distilled=True, **fields)
    expected = expected_tokens(params, params["cls_token"], params["dist_token"])
    chex.assert_trees_all_close(tokens[:, :2], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_only_the_pools_that_read_a_class_token_have_one(pool):
    params, tokens = encoderless(pool=pool)
    assert "cls_token" not in params and set(params["posemb"]) == {"grid"}
    expected = expected_tokens(params, patches(params) + params["posemb"]["grid"].reshape(4, 8))
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_registers_come_between_class_token_and_patches_without_positions():
    params, tokens = encoderless(num_registers=3)
    token = params["cls_token"] + params["posemb"]["prefix"]
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, token, params["registers"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_registers_have_positions_after_those_of_the_other_tokens_if_enabled():
    params, tokens = encoderless(num_registers=3, **{"posemb.registers": True})
    first, *others = params["posemb"]["prefix"]
    grid = params["posemb"]["grid"].reshape(4, 8)
    special = (params["cls_token"] + first, params["registers"] + np.stack(others))
    expected = expected_tokens(params, *special, patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_positions_of_registers_without_those_of_other_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"model.posemb.registers: expected false"):
        create(num_registers=3, **{"posemb.registers": True, "posemb.prefix": False})


def test_registers_come_first_without_a_class_token():
    params, tokens = encoderless(num_registers=3, pool="gap")
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, params["registers"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_gap_is_the_mean_of_the_patches_without_the_registers():
    model = create(pool="gap", num_registers=3)
    output = run(model, random_params(model))
    expected = output.tokens[:, 3:].mean(axis=1)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


def test_gap_ignores_a_class_token_that_is_kept():
    model = create(pool="gap", num_registers=3, keep_class_token=True)
    output = run(model, random_params(model))
    expected = output.tokens[:, 4:].mean(axis=1)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


def test_cls_gap_ignores_the_registers():
    model = create(pool="cls_gap", num_registers=3)
    output = run(model, random_params(model))
    parts = [output.tokens[:, 0], output.tokens[:, 4:].mean(axis=1)]
    expected = np.concatenate(parts, axis=1)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


def test_with_fc_norm_the_tokens_are_the_output_of_the_last_block():
    params, tokens = encoderless(**{"pool.fc_norm": True})
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = patches(params) + grid
    chex.assert_trees_all_close(tokens[:, 1:], expected, rtol=1e-5, atol=1e-5)


def test_the_tokens_of_a_hybrid_are_those_of_its_stem():
    fields = {"width_factor": 0.5, "weight_standardization": "variance", "norm_eps": 0.1}
    stem = {"name": "resnet", "patch": (1, 1), **fields}
    model = models.create("vit_s16", **SIZE, stem=stem, pool="gap").clone(depth=0)
    params = random_params(model)
    params["stem"]["resnet"]["conv_root"]["kernel"] *= 1e-4  # where the two forms differ
    tokens = run(model, params).tokens
    stem = STEMS["resnet"](patch=(1, 1), width=8, **fields)
    cells = stem.apply({"params": params["stem"]}, IMAGES, train=False)
    cells = cells + params["posemb"]["grid"]
    expected = expected_tokens(params, np.asarray(cells).reshape(2, 4, 8))
    chex.assert_trees_all_close(tokens, expected, rtol=1e-4, atol=1e-4)


def test_the_pool_map_has_heads_and_epsilon_of_the_model_and_its_own_activation():
    fields = {"num_heads": 4, "mlp_dim": 12, "norm_eps": 0.1}
    model = create(pool={"name": "map", "activation": "relu"}, depth=1, **fields)
    params = random_params(model)
    output = run(model, params)
    pool = POOLS["map"](**fields, activation="relu")
    expected = pool.apply({"params": params["pool"]}, output.tokens, 0, train=False)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


def test_positions_of_another_grid_are_resampled_by_the_fields():
    fields = {"posemb.interpolation": "bilinear", "posemb.antialias": False, "pool": "gap"}
    model = create(**fields).clone(depth=0)
    params = random_params(model, jnp.zeros((1, 16, 16, 3)))
    grid = jax.image.resize(params["posemb"]["grid"], (2, 2, 8), "bilinear", antialias=False)
    expected = expected_tokens(params, patches(params) + grid.reshape(4, 8))
    chex.assert_trees_all_close(run(model, params).tokens, expected, rtol=1e-5, atol=1e-5)


# --- The head.


def test_a_model_without_classes_returns_features_and_empty_logits():
    model, headless = create(), create(num_classes=0)
    params = random_params(model)
    expected, output = run(model, params), run(headless, {**params, "head": {}})
    assert set(params) - set(param_shapes(headless)) == {"head"}
    assert (output.logits.shape, output.logits.dtype) == ((2, 0), jnp.float32)
    chex.assert_trees_all_close(output.features, expected.features, rtol=1e-6, atol=1e-6)


def test_a_distilled_model_trains_two_heads_and_predicts_with_their_mean():
    model = create("deit_s16_distilled", depth=1)
    params = random_params(model)
    forward = jax.jit(functools.partial(model.apply, {"params": params}), static_argnames="train")
    trained, evaluated = forward(IMAGES, train=True), forward(IMAGES, train=False)
    by_class = linear(evaluated.tokens[:, 0], params["head"])
    by_teacher = linear(evaluated.tokens[:, 1], params["head_dist"])
    assert not np.allclose(by_class, by_teacher, atol=0.1)
    chex.assert_trees_all_close(trained.logits, by_class, rtol=1e-5, atol=1e-5)
    mean = (by_class + by_teacher) / 2
    chex.assert_trees_all_close(evaluated.logits, mean, rtol=1e-5, atol=1e-5)
    for output in (trained, evaluated):
        chex.assert_trees_all_close(output.aux_logits, (by_teacher,), rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_equal(output.features, output.tokens[:, 0])


def test_a_distilled_model_without_classes_has_features_only():
    model = create(distilled=True, num_classes=0)
    output = jax.eval_shape(lambda: vars(run(model, random_params(model))))
    assert (output["logits"].shape, output["aux_logits"]) == ((2, 0), ())


@pytest.mark.parametrize("fields", [{}, {"num_classes": 0}, {"pool": "gap"}])
def test_other_models_have_one_head(fields):
    model = create(**fields)
    output = jax.eval_shape(lambda: vars(run(model, random_params(model))))
    assert output["aux_logits"] == ()


def test_representation_is_a_tanh_layer_before_the_head():
    model = create(representation_size=5)
    params = random_params(model)
    output = run(model, params)
    expected = np.tanh(linear(output.tokens[:, 0], params["representation"]))
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)
    logits = linear(output.features, params["head"])
    chex.assert_trees_all_close(output.logits, logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distilled", [False, True])
def test_a_new_model_returns_the_initial_bias_of_the_head(distilled):
    model = create(head_bias=-6.5, depth=1, distilled=distilled)
    logits = jax.jit(lambda: model.init_with_output(KEY, IMAGES, train=False)[0].logits)()
    chex.assert_trees_all_equal(logits, np.full((2, 3), -6.5, np.float32))


# --- Training.


ORDER = ("norm1", "attn", "norm2", "mlp")


def changed_by_training(model, params):
    """The parts of the first block whose outputs differ between training and evaluation."""

    def outputs(train):
        _, state = model.apply(
            {"params": params},
            IMAGES,
            train=train,
            rngs={"dropout": KEY},
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        parts = state["intermediates"]["blocks_0"]
        return {name: parts[name]["__call__"][0] for name in ORDER}

    trained, evaluated = outputs(True), outputs(False)
    return {name for name in ORDER if not np.allclose(trained[name], evaluated[name])}


@pytest.mark.parametrize(
    ("fields", "first_changed"),
    [
        ({"dropout": 0.5, "dropout_sites": ("embed",)}, "norm1"),
        ({"dropout": 0.5, "dropout_sites": ("attn",)}, "attn"),
        ({"attention.dropout": 0.5}, "attn"),
        ({"block.drop_path": 0.5, "block.drop_path_schedule": "constant"}, "norm2"),
        ({"dropout": 0.5, "dropout_sites": ("mlp",)}, "mlp"),
        ({"dropout": 0.5, "dropout_sites": ()}, None),
        (
            {"block.drop_path": 0.5, "block.drop_path_schedule": "linear"},
            None,
        ),  # rate 0 in the first block
    ],
)
def test_dropout_applies_at_its_sites(fields, first_changed):
    model = create(depth=1, **fields)
    after = ORDER[ORDER.index(first_changed) :] if first_changed else ()
    assert changed_by_training(model, random_params(model)) == set(after)


def test_linear_drop_path_keeps_the_first_block_and_drops_the_last():
    model, one_block = create(**{"block.drop_path": 0.999}), create(depth=1)
    params = random_params(model)
    expected = run(one_block, {name: params[name] for name in params if name != "blocks_1"})
    chex.assert_trees_all_close(run(model, params, key=KEY), expected, rtol=1e-6, atol=1e-6)


def test_dropout_needs_a_key():
    model = create(depth=1, dropout=0.1)
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply({"params": random_params(model)}, IMAGES, train=True)
