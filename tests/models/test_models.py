"""The registry: every name, its parameter count, its fields, and what its model returns."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models, sharding
from vit_jax.errors import ConfigError
from vit_jax.models import vit

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
TINY = {"width": 8, "depth": 2, "num_heads": 2, "mlp_dim": 16, "patch": (4, 4), "num_classes": 3}


def count_by_hand(width, depth, mlp_dim, patch, classes=1000):
    """The parameters of a ViT with a class token for 224x224x3, from the paper's equations."""
    stem = patch * patch * 3 * width + width
    positions = ((224 // patch) ** 2 + 1) * width
    attention = 4 * (width * width + width)
    mlp = width * mlp_dim + mlp_dim + mlp_dim * width + width
    norms = 2 * 2 * width
    head = width * classes + classes
    return stem + width + positions + depth * (attention + mlp + norms) + 2 * width + head


# An integer is exact, a float is in millions and rounded to 0.01. From models_test.py of
# google-research/vision_transformer, and from timm's results where rounded. Nobody publishes mu/16,
# M/16 and So400m/14 in this form (a class token that has a position, 1000 classes): by hand.
COUNTS = {
    "vit_mu16": count_by_hand(32, 1, 128, 16),
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_s32": 22_878_952,
    "vit_m16": count_by_hand(512, 12, 2048, 16),
    "vit_b8": 86_576_872,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_b16_textbook": 86_567_656,
    "vit_l16": 304_326_632,
    "vit_l32": 306_535_400,
    "vit_so400m14": count_by_hand(1152, 27, 4304, 14),
    "vit_h14": 632_045_800,
    "vit_g14": 1012.61,
    "vit_G14": 1844.44,
}

# The same sources.
COUNTS_WITH_OVERRIDES = [
    ("vit_s16", {"pool": "gap"}, 22_049_896),
    ("vit_s32", {"pool": "gap"}, 22_878_184),
    ("vit_b16", {"pool": "gap"}, 86_566_120),
    ("vit_b32", {"pool": "gap"}, 88_222_696),
    ("vit_so400m14", {"pool": "gap", "num_classes": 0}, 412.44),
    ("vit_m16", {"posemb_prefix": False, "layer_scale": 1e-4}, 38.85),  # DeiT III
]


@functools.cache
def shapes(model):
    """The boxed parameters and the output's fields for two images; nothing is computed."""

    def init(key, images):
        output, variables = model.init_with_output(key, images, train=False)
        return variables["params"], vars(output)

    return jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))


def num_params(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes(model)[0])))


def dimension_names(model):
    specs = jax.tree.leaves(nn.get_partition_spec(shapes(model)[0]))
    return {name for spec in specs for name in spec if name is not None}


def assert_count(count, expected):
    assert (count if isinstance(expected, int) else round(count / 1e6, 2)) == expected


@pytest.fixture(scope="module")
def tiny():
    """A model, its parameters and two images."""
    model = models.create("vit_s16", **TINY)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params = jax.jit(lambda: model.init(KEY, images, train=False)["params"])()
    return model, nn.unbox(params), images


def test_every_registered_name_has_an_expected_count():
    assert set(models.list_models()) == set(COUNTS)


@pytest.mark.parametrize("name", models.list_models())
def test_the_number_of_parameters_is_the_published_one(name):
    assert_count(num_params(models.create(name)), COUNTS[name])


@pytest.mark.parametrize(("name", "overrides", "expected"), COUNTS_WITH_OVERRIDES)
def test_the_number_of_parameters_with_overrides_is_the_published_one(name, overrides, expected):
    assert_count(num_params(models.create(name, **overrides)), expected)


@pytest.mark.parametrize("dtype", vit.DTYPES)
@pytest.mark.parametrize("name", models.list_models())
def test_shapes_and_dtypes_of_every_model(name, dtype):
    model = models.create(name, depth=1, num_classes=7, dtype=dtype)
    params, output = shapes(model)
    num_tokens = (224 // model.patch[0]) ** 2 + 1
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), output) == {
        "logits": ((2, 7), "float32"),
        "features": ((2, model.width), "float32"),
        "tokens": ((2, num_tokens, model.width), dtype),
        "aux_logits": (),
    }
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("name", models.list_models())
def test_every_dimension_name_of_a_parameter_has_a_sharding_rule(name):
    names = dimension_names(models.create(name, depth=1, num_classes=7))
    assert {"embed", "mlp", "heads", "classes"} <= names <= set(dict(sharding.RULES))


@pytest.mark.parametrize("pool", vit.POOLS)
def test_every_dimension_name_of_an_optional_parameter_has_a_sharding_rule(pool):
    options = {"num_registers": 2, "layer_scale": 0.1, "qk_norm": True, "representation_size": 5}
    model = models.create("vit_s32", **{**TINY, "pool": pool}, **options)
    assert dimension_names(model) <= set(dict(sharding.RULES))


def test_list_models_takes_a_shell_pattern():
    assert models.list_models("vit_l*") == ["vit_l16", "vit_l32"]
    assert models.list_models("*_textbook") == ["vit_b16_textbook"]
    assert models.list_models("resnet*") == []


def test_a_registered_name_is_listed_once():
    assert len(set(models.list_models())) == len(models.list_models())


def test_create_takes_any_size_with_any_patch():
    model = models.create("vit_ti14")
    assert (model.patch, model.width) == ((14, 14), 192)


def test_sizes_are_told_by_their_case():
    assert (models.create("vit_g14").width, models.create("vit_G14").width) == (1408, 1664)


def test_an_override_sets_the_field_of_the_model():
    assert models.create("vit_s16", pool="map", dropout=0.25).pool == "map"


@pytest.mark.parametrize("name", models.list_models())
def test_spec_holds_the_name_its_base_and_every_field(name):
    fields = models.spec(name).to_dict()
    model_fields = {field.name for field in dataclasses.fields(vit.ViT)} - {"parent"}
    assert set(fields) == model_fields | {"name", "base"}
    assert (fields["name"], fields["base"]) == (name, name)


def test_spec_is_what_create_makes():
    fields = models.spec("vit_b16_textbook", pool="gap").to_dict()
    model = models.create("vit_b16_textbook", pool="gap")
    assert {key: getattr(model, key) for key in fields if key not in ("name", "base")} == {
        key: value for key, value in fields.items() if key not in ("name", "base")
    }


def test_spec_overrides_a_field():
    assert models.spec("vit_s16", posemb="sincos2d").posemb == "sincos2d"


@pytest.mark.parametrize("make", [models.spec, models.create, models.field_types])
@pytest.mark.parametrize(
    ("name", "nearest"), [("vitb16", "vit_b16"), ("vit_b16_textbok", "vit_b16_textbook")]
)
def test_an_unknown_name_is_an_error_with_the_nearest_right_one(make, name, nearest):
    with pytest.raises(ConfigError, match=rf"config\.model\.name: unknown '{name}'.*'{nearest}'"):
        make(name)


@pytest.mark.parametrize("make", [models.spec, models.create])
def test_an_unknown_field_is_an_error_with_the_nearest_right_one(make):
    message = r"config\.model\.pol: vit_s16 has no such field; did you mean 'pool'"
    with pytest.raises(ConfigError, match=message):
        make("vit_s16", pol="gap")


@pytest.mark.parametrize("field", ["base", "parent"])
def test_what_is_not_the_users_to_set_is_no_field(field):
    with pytest.raises(ConfigError, match=rf"config\.model\.{field}: vit_s16 has no such field"):
        models.spec("vit_s16", **{field: "vit_b16"})


def test_field_types_has_the_type_of_every_field():
    types = models.field_types("vit_s16")
    assert set(types) == set(models.spec("vit_s16")) - {"name", "base"}
    assert (types["pool"], types["width"], types["dropout"]) == (str, int, float)
    assert (types["patch"], types["dropout_sites"]) == (tuple[int, int], tuple[str, ...])


@pytest.mark.parametrize("name", models.list_models())
def test_check_accepts_every_registered_model(name):
    models.check(models.spec(name).to_dict())


@pytest.mark.parametrize("field", vit.CHOICES)
def test_check_accepts_every_choice_of_a_table(field):
    for choice in vit.CHOICES[field]:
        models.check(models.spec("vit_s16", **{field: choice}).to_dict())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "unheard_of") for field in vit.CHOICES),
        ("dropout_sites", ("mlp", "head")),
        *((field, 0) for field in ("width", "depth", "num_heads", "mlp_dim")),
        *((field, -1) for field in ("num_classes", "num_registers", "representation_size")),
        ("layer_scale", -1e-4),
        *(("norm_eps", value) for value in (0.0, -1e-6)),
        *((field, 1.0) for field in ("dropout", "attn_dropout", "drop_path")),
        *((field, -0.1) for field in ("dropout", "attn_dropout", "drop_path")),
        ("num_heads", 5),
        ("patch", (0, 16)),
        ("patch", (16, -1)),
    ],
)
def test_check_rejects_an_impossible_value(field, value):
    fields = models.spec("vit_s16", **{field: value}).to_dict()
    with pytest.raises(ConfigError, match=rf"^config\.model\.{field}: "):
        models.check(fields)


@pytest.mark.parametrize("width", [4, 18])
def test_check_rejects_a_width_that_sincos2d_cannot_quarter(width):
    fields = models.spec("vit_s16", width=width, num_heads=2, posemb="sincos2d").to_dict()
    with pytest.raises(ConfigError, match=r"^config\.model\.width: sincos2d needs"):
        models.check(fields)


def test_check_names_the_nearest_choice():
    with pytest.raises(ConfigError, match="unknown 'gpa'; did you mean 'gap'"):
        models.create("vit_s16", pool="gpa")


def test_forward_without_a_key_is_evaluation(tiny):
    model, params, images = tiny
    expected = model.apply({"params": params}, images, train=False)
    chex.assert_trees_all_equal(models.forward(model, params, images), expected)


def test_forward_with_a_key_is_training(tiny):
    model, params, images = tiny
    noisy = model.clone(dropout=0.5)
    rngs = {"dropout": KEY}
    expected = noisy.apply({"params": params}, images, train=True, rngs=rngs)
    output = models.forward(noisy, params, images, key=KEY)
    chex.assert_trees_all_equal(output, expected)
    assert not jnp.allclose(output.tokens, models.forward(noisy, params, images).tokens)


def test_features_are_the_outputs_of_submodules_by_name(tiny):
    model, params, images = tiny
    names = ["stem", "blocks_0", "blocks_1/norm1", "blocks_1/attn", "norm", "head"]
    features = models.features(model, params, images, names)
    output = models.forward(model, params, images)
    assert list(features) == names
    chex.assert_shape(features["stem"], (2, 2, 2, 8))
    norm = nn.LayerNorm(epsilon=model.norm_eps)
    normalized = norm.apply({"params": params["blocks_1"]["norm1"]}, features["blocks_0"])
    chex.assert_trees_all_equal(features["blocks_1/norm1"], normalized)
    chex.assert_shape(features["blocks_1/attn"], (2, 5, 8))
    chex.assert_trees_all_equal(features["norm"], output.tokens)
    chex.assert_trees_all_equal(features["head"], output.logits)


def test_features_of_an_unknown_name_is_an_error_with_the_nearest_right_one(tiny):
    with pytest.raises(ConfigError, match="unknown 'block_1'; did you mean 'blocks_1'"):
        models.features(*tiny, ["blocks_0", "block_1"])
