"""The Vision Transformer, against an independent one in NumPy, and each of its choices."""

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
from vit_jax.models import vit

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
SIZE = {"width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16, "patch": (4, 4), "num_classes": 3}
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)


def create(name="vit_s16", **overrides):
    return models.create(name, **{**SIZE, **overrides})


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
    return models.forward(model, params, images, key)


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
    return linear(activation(linear(x, layer["fc1"])), layer["fc2"])


def post_norm(x, block, activation, eps):
    x = layer_norm(x + attend(x, block["attn"], eps), block["norm1"], eps)
    return layer_norm(x + feed_forward(x, block["mlp"], activation), block["norm2"], eps)


def pre_norm(x, block, activation, eps):
    scale1, scale2 = (block.get(name, {"scale": 1})["scale"] for name in ("scale1", "scale2"))
    x = x + scale1 * attend(layer_norm(x, block["norm1"], eps), block["attn"], eps)
    return x + scale2 * feed_forward(layer_norm(x, block["norm2"], eps), block["mlp"], activation)


def embed(image, params):
    """Patches row by row, projected, after the class token; plus the positions."""
    kernel = params["stem"]["proj"]["kernel"]
    height, width = kernel.shape[:2]
    rows, columns = image.shape[0] // height, image.shape[1] // width
    cuts = [np.hsplit(row, columns) for row in np.vsplit(image, rows)]
    patches = np.array([cut.ravel() for cut in itertools.chain(*cuts)])
    patches = patches @ kernel.reshape(len(patches[0]), -1) + params["stem"]["proj"]["bias"]
    positions = params["posemb"]["grid"].reshape(len(patches), -1)
    positions = np.concatenate([params["posemb"]["prefix"], positions])
    return np.concatenate([params["cls_token"], patches]) + positions


def reference(image, params, block, activation, eps):
    """The logits of one image: the class token, normalized and mapped to the classes."""
    x = embed(image, params)
    for i in range(sum(name.startswith("blocks_") for name in params)):
        x = block(x, params[f"blocks_{i}"], activation, eps)
    return linear(layer_norm(x, params["norm"], eps)[0], params["head"])


def relu(x):
    return np.where(x > 0, x, 0)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("name", "overrides", "block", "activation", "eps"),
    [
        ("vit_b16_textbook", {}, post_norm, relu, 1e-5),
        ("vit_b16", {}, pre_norm, gelu, 1e-6),
        ("vit_b16", {"activation": "gelu_tanh"}, pre_norm, gelu_tanh, 1e-6),
        ("vit_b16", {"norm_eps": 0.1, "qk_norm": True, "layer_scale": 1.0}, pre_norm, gelu, 0.1),
    ],
)
def test_equals_the_reference_in_numpy(name, overrides, block, activation, eps):
    model = create(name, **overrides)
    params = random_params(model)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = [reference(np.float64(image), exact, block, activation, eps) for image in IMAGES]
    logits = run(model, params).logits
    chex.assert_trees_all_close(logits, np.float32(expected), rtol=1e-5, atol=1e-5)


def test_the_textbook_variant_differs_in_these_fields_only():
    textbook, published = models.spec("vit_b16_textbook"), models.spec("vit_b16")
    different = {key for key in published if textbook[key] != published[key]} - {"name", "base"}
    assert {key: textbook[key] for key in different} == {
        "norm_order": "post",
        "activation": "relu",
        "norm_eps": 1e-5,
        "dropout": 0.1,
        "dropout_sites": ("mlp",),
        "attn_dropout": 0.1,
    }


# --- Gradients.

CHOICES = list(itertools.product(vit.POOLS, vit.POSEMBS, vit.BLOCKS))


@functools.cache
def gradients():
    """The gradients for every choice of parts, in one compiled function.

    All parameters are random: the head's kernel, which is zero at first, would hide the others.
    """
    fields = {"depth": 1, "num_registers": 1}
    built = {
        (pool, posemb, order): create(pool=pool, posemb=posemb, norm_order=order, **fields)
        for pool, posemb, order in CHOICES
    }

    def loss(params):
        outputs = [models.forward(built[choice], params[choice], IMAGES) for choice in CHOICES]
        return sum(nn.log_softmax(output.logits)[:, 1].sum() for output in outputs)

    params = {choice: random_params(model) for choice, model in built.items()}
    return jax.jit(jax.grad(loss))(params)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_parameter_has_a_finite_gradient_that_is_not_zero(choice):
    for path, leaf in flax.traverse_util.flatten_dict(gradients()[choice], sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-6, path


# --- Names.

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


@pytest.mark.parametrize("norm_order", vit.BLOCKS)
@pytest.mark.parametrize("pool", vit.POOLS)
def test_names_and_shapes_of_the_parameters_are_the_checkpoint_format(pool, norm_order):
    options = {"qk_norm": True, "layer_scale": 0.1, "num_registers": 2, "representation_size": 5}
    model = create(pool=pool, norm_order=norm_order, **options)
    leaves = flax.traverse_util.flatten_dict(param_shapes(model), sep="/")
    assert {name: leaf.shape for name, leaf in leaves.items()} == EVERYTHING | POOL[pool]


def test_sincos2d_has_no_parameters():
    names = set(param_shapes(create())) - set(param_shapes(create(posemb="sincos2d")))
    assert names == {"posemb"}


# --- Tokens before the encoder: without blocks, the model returns them after one norm.


def encoderless(**fields):
    """A model without blocks, its random parameters, and the tokens it returns."""
    model = vit.ViT(**{**SIZE, "depth": 0, **fields})
    params = random_params(model)
    return params, run(model, params).tokens


def expected_tokens(params, *parts):
    """The tokens as the sum and order of the parts say, each the same for the two images."""
    tokens = np.concatenate([np.broadcast_to(part, (2, *part.shape[-2:])) for part in parts], 1)
    return layer_norm(tokens, jax.tree.map(np.asarray, params["norm"]), 1e-6)


def patches(params):
    """The projected patches without positions."""
    kernel, images = np.asarray(params["stem"]["proj"]["kernel"]), np.asarray(IMAGES)
    cuts = images.reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(2, 4, -1)
    return cuts @ kernel.reshape(-1, 8) + params["stem"]["proj"]["bias"]


def test_class_token_and_patches_have_positions():
    params, tokens = encoderless()
    grid = params["posemb"]["grid"].reshape(4, 8)
    token = params["cls_token"] + params["posemb"]["prefix"]
    expected = expected_tokens(params, token, patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_without_posemb_prefix_the_class_token_has_no_position():
    params, tokens = encoderless(posemb_prefix=False)
    assert set(params["posemb"]) == {"grid"}
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, params["cls_token"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_only_the_pool_cls_has_a_class_token(pool):
    params, tokens = encoderless(pool=pool)
    assert "cls_token" not in params and set(params["posemb"]) == {"grid"}
    expected = expected_tokens(params, patches(params) + params["posemb"]["grid"].reshape(4, 8))
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_registers_lie_between_class_token_and_patches_and_have_no_position():
    params, tokens = encoderless(num_registers=3)
    token = params["cls_token"] + params["posemb"]["prefix"]
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, token, params["registers"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_registers_come_first_where_there_is_no_class_token():
    params, tokens = encoderless(num_registers=3, pool="gap")
    grid = params["posemb"]["grid"].reshape(4, 8)
    expected = expected_tokens(params, params["registers"], patches(params) + grid)
    chex.assert_trees_all_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_gap_is_the_mean_of_the_patches_without_the_registers():
    model = create(pool="gap", num_registers=3)
    output = run(model, random_params(model))
    expected = output.tokens[:, 3:].mean(axis=1)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


def test_the_pool_map_has_the_models_heads_activation_and_epsilon():
    fields = {"num_heads": 4, "mlp_dim": 12, "activation": "relu", "norm_eps": 0.1}
    model = create(pool="map", depth=1, **fields)
    params = random_params(model)
    output = run(model, params)
    pool = vit.POOLS["map"](**fields)
    expected = pool.apply({"params": params["pool"]}, output.tokens, 0, train=False)
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("posemb", vit.POSEMBS)
def test_images_of_another_size_than_the_first_give_finite_logits(posemb):
    model = create(posemb=posemb)
    params = random_params(model, jnp.zeros((1, 16, 16, 3)))
    for height, width in [(24, 16), (8, 8)]:
        output = run(model, params, jnp.ones((1, height, width, 3)))
        assert output.tokens.shape == (1, height * width // 16 + 1, 8)
        assert np.isfinite(output.logits).all()


def test_positions_of_another_grid_are_resampled_as_the_fields_say():
    fields = {"posemb_interpolation": "bilinear", "posemb_antialias": False, "pool": "gap"}
    model = vit.ViT(**{**SIZE, "depth": 0, **fields})
    params = random_params(model, jnp.zeros((1, 16, 16, 3)))
    grid = jax.image.resize(params["posemb"]["grid"], (2, 2, 8), "bilinear", antialias=False)
    expected = expected_tokens(params, patches(params) + grid.reshape(4, 8))
    chex.assert_trees_all_close(run(model, params).tokens, expected, rtol=1e-5, atol=1e-5)


# --- The head.


def test_without_classes_there_are_features_and_empty_logits():
    model, headless = create(), create(num_classes=0)
    params = random_params(model)
    expected, output = run(model, params), run(headless, {**params, "head": {}})
    assert set(params) - set(param_shapes(headless)) == {"head"}
    assert (output.logits.shape, output.logits.dtype) == ((2, 0), jnp.float32)
    chex.assert_trees_all_close(output.features, expected.features, rtol=1e-6, atol=1e-6)


def test_representation_is_a_tanh_layer_before_the_head():
    model = create(representation_size=5)
    params = random_params(model)
    output = run(model, params)
    expected = np.tanh(linear(output.tokens[:, 0], params["representation"]))
    chex.assert_trees_all_close(output.features, expected, rtol=1e-6, atol=1e-6)
    logits = linear(output.features, params["head"])
    chex.assert_trees_all_close(output.logits, logits, rtol=1e-6, atol=1e-6)


def test_a_new_model_answers_with_the_heads_initial_bias():
    model = create(head_bias=-6.5, depth=1)
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
        ({"attn_dropout": 0.5}, "attn"),
        ({"drop_path": 0.5, "drop_path_schedule": "constant"}, "norm2"),
        ({"dropout": 0.5, "dropout_sites": ("mlp",)}, "mlp"),
        ({"dropout": 0.5, "dropout_sites": ()}, None),
        ({"drop_path": 0.5, "drop_path_schedule": "linear"}, None),  # nothing in the first block
    ],
)
def test_dropout_acts_at_its_sites(fields, first_changed):
    model = create(depth=1, **fields)
    after = ORDER[ORDER.index(first_changed) :] if first_changed else ()
    assert changed_by_training(model, random_params(model)) == set(after)


def test_linear_drop_path_spares_the_first_block_and_drops_the_last():
    model, one_block = create(drop_path=0.999), create(depth=1)
    params = random_params(model)
    expected = run(one_block, {name: params[name] for name in params if name != "blocks_1"})
    chex.assert_trees_all_close(run(model, params, key=KEY), expected, rtol=1e-6, atol=1e-6)


def test_dropout_needs_a_key():
    model = create(depth=1, dropout=0.1)
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply({"params": random_params(model)}, IMAGES, train=True)
