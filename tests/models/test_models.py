"""The registry: parameter counts, fields and outputs of every model name."""

import dataclasses
import functools
import re

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.config import flatten
from vit_jax.console import cli
from vit_jax.errors import ConfigError
from vit_jax.models import __main__ as command
from vit_jax.models import transformer
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.kernels import POLICIES
from vit_jax.models.layers.attention.window import LIMITS, PAD_ORDERS, WindowAttention
from vit_jax.models.layers.blocks import BLOCKS, DROP_PATH_SCHEDULES
from vit_jax.models.layers.encoder import REMATS
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.mlp import ACTIVATIONS, MLPS, Mlp, SwiGlu
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.posemb.absolute import INTERPOLATIONS
from vit_jax.models.layers.posemb.interpolation import POSEMB_INTERPOLATIONS
from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS
from vit_jax.models.layers.stems import NORMS, STEMS
from vit_jax.models.parts import Part, name_of

KEY = jax.random.key(0, impl="unsafe_rbg")  # compiles faster than the default
TINY = {
    "width": 8,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 16,
    "stem.patch": (4, 4),
    "num_classes": 3,
}


# Exact numbers of parameters for 224x224 pixels and 1000 classes: models_test.py of
# google-research's vision_transformer, and DeiT as counted by torch. TIMM has the other models.
PARAMETERS = {
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_s32": 22_878_952,
    "vit_b8": 86_576_872,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_b16_textbook": 86_567_656,
    "vit_l16": 304_326_632,
    "vit_l32": 306_535_400,
    "vit_h14": 632_045_800,
    "vit_r_ti16": 6_337_704,
    "vit_r26_s32": 36_431_912,
    "vit_r26_b32": 101_383_976,
    "vit_r50_b16": 98_659_112,
    "vit_r50_l32": 328_994_856,
    "deit_ti16": 5_717_416,
    "deit_s16": 22_050_664,
    "deit_b16": 86_567_656,
    "deit_ti16_distilled": 5_910_800,
    "deit_s16_distilled": 22_436_432,
    "deit_b16_distilled": 87_338_192,
}

# From the same models_test.py, with global average pooling.
PARAMETERS_OF_GAP = {
    "vit_s16": 22_049_896,
    "vit_s32": 22_878_184,
    "vit_b16": 86_566_120,
    "vit_b32": 88_222_696,
}

# Millions of parameters and billions of multiply-adds, both to 0.01, by image size: param_count and
# infer_gmacs in timm's results/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv. Its model names
# differ; the fields here describe its models.
HEADLESS = {"num_classes": 0}
NO_PREFIX = {"posemb.prefix": False}
TIMM = [
    ("vit_ti16", 224, {}, 5.72, 1.26),
    ("vit_s16", 224, {}, 22.05, 4.61),
    ("vit_s32", 224, {}, 22.88, 1.15),
    ("vit_m16", 224, {**NO_PREFIX, "block.layer_scale": 1e-4}, 38.85, 8.0),  # deit3_medium
    ("vit_b8", 224, {}, 86.58, 78.22),
    ("vit_b16", 224, {}, 86.57, 17.58),
    ("vit_b32", 224, {}, 88.22, 4.41),
    ("vit_b16_textbook", 224, {}, 86.57, 17.58),  # vit_base: the order of the norms has no cost
    ("vit_l16", 224, {}, 304.33, 61.6),
    ("vit_l32", 224, HEADLESS, 305.51, 15.39),
    ("vit_so400m14", 224, {**HEADLESS, "pool": "gap"}, 412.44, 109.57),  # siglip_gap
    ("vit_h14", 224, HEADLESS, 630.76, 167.4),
    ("vit_g14", 224, {}, 1012.61, 267.18),
    ("vit_G14", 224, {}, 1844.44, 483.95),
    ("vit_r_ti16", 224, {}, 6.34, 0.44),
    ("vit_r26_s32", 224, {}, 36.43, 3.56),
    ("vit_r26_b32", 224, {}, 101.38, 6.81),
    ("vit_r50_b16", 384, {}, 98.95, 67.43),
    ("vit_r50_l32", 224, {}, 328.99, 19.58),
    ("deit_ti16", 224, {}, 5.72, 1.26),
    ("deit_s16", 224, {}, 22.05, 4.61),
    ("deit_b16", 224, {}, 86.57, 17.58),
    ("deit_ti16_distilled", 224, {}, 5.91, 1.27),
    ("deit_s16_distilled", 224, {}, 22.44, 4.63),
    ("deit_b16_distilled", 224, {}, 87.34, 17.68),
    ("deit3_s16", 224, {}, 22.06, 4.61),
    ("deit3_m16", 224, {}, 38.85, 8.0),
    ("deit3_b16", 224, {}, 86.59, 17.58),
    ("deit3_l16", 224, {}, 304.37, 61.6),
    ("deit3_h14", 224, {}, 632.13, 167.4),
    ("dinov2_s14", 518, HEADLESS, 22.06, 46.76),
    ("dinov2_b14", 518, HEADLESS, 86.58, 151.71),
    ("dinov2_l14", 518, HEADLESS, 304.37, 507.15),
    ("dinov2_g14", 518, HEADLESS, 1136.48, 1784.2),
    ("dinov2_s14_reg4", 518, {**HEADLESS, **NO_PREFIX}, 22.06, 46.95),
    ("dinov2_b14_reg4", 518, {**HEADLESS, **NO_PREFIX}, 86.58, 152.25),
    ("dinov2_l14_reg4", 518, {**HEADLESS, **NO_PREFIX}, 304.37, 508.9),
    ("dinov2_g14_reg4", 518, {**HEADLESS, **NO_PREFIX}, 1136.48, 1790.08),
]

# Models without published numbers.
BY_HAND = ["vit_mu16"]

# Liu et al. 2021 and 2022, and timm's model cards: millions of parameters to 0.01, and billions of
# multiply-adds to 1 %, because timm also counts the elements of norms.
SWIN = [
    ("swin_t_w7", 224, 28.29, 4.51),
    ("swin_s_w7", 224, 49.61, 8.77),
    ("swin_b_w7", 224, 87.77, 15.47),
    ("swin_b_w12", 384, 87.90, 47.19),
    ("swin_l_w7", 224, 196.53, 34.53),
    ("swin_l_w12", 384, 196.74, 104.08),
    ("swinv2_t_w8", 256, 28.35, 5.96),
    ("swinv2_t_w16", 256, 28.35, 6.68),
    ("swinv2_s_w8", 256, 49.73, 11.58),
    ("swinv2_s_w16", 256, 49.73, 12.82),
    ("swinv2_b_w8", 256, 87.92, 20.37),
    ("swinv2_b_w16", 256, 87.92, 22.02),
]


def count_by_hand(model, height, width):
    """Parameters and multiply-adds of a ViT with a class token, from the paper's equations."""
    cell_height, cell_width = model.stem["patch"]
    pixels = cell_height * cell_width * 3
    d = model.width
    classes = model.num_classes
    patches = height * width // (cell_height * cell_width)
    n = patches + 1
    attention = 4 * d * d
    mlp = 2 * d * model.mlp_dim
    block = attention + 4 * d + mlp + d + model.mlp_dim + 2 * 2 * d
    others = pixels * d + d + d + n * d + 2 * d + d * classes + classes
    products = n * attention + 2 * n * n * d + n * mlp
    return others + model.depth * block, patches * pixels * d + model.depth * products + d * classes


@functools.cache
def shapes(model, image_size=(224, 224)):
    """Shapes of the boxed parameters, of the output arrays and of the outputs of norms."""

    def init(key, images):
        output, variables = model.init_with_output(
            key,
            images,
            train=False,
            mutable=["params", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, nn.LayerNorm | nn.GroupNorm),
        )
        arrays = {name: value for name, value in vars(output).items() if name != "grid"}
        return variables["params"], arrays, variables["intermediates"]

    return jax.eval_shape(init, KEY, jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32))


def num_params(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(tree)))


def dimension_names(model):
    specs = jax.tree.leaves(nn.get_partition_spec(shapes(model)[0]))
    return {name for spec in specs for name in spec if name is not None}


@functools.cache
def cost(name, image_size=(224, 224), **overrides):
    """Parameters, multiply-adds, and the further operations that timm counts.

    The difference of models with two blocks and with one gives the cost of each further block.
    """
    further = models.create(name).depth - 1
    short, long = (models.create(name, **overrides, depth=depth) for depth in (1, 2))
    profiles = [models.profile(model, image_size) for model in (short, long)]
    one, two = (np.array([p.parameters, round(p.gflops * 1e9)]) for p in profiles)
    # timm counts with fvcore: 5 operations per element of a norm, and 4 per standardized weight,
    # because timm standardizes with a norm without scale.
    params, output, norms = shapes(short, image_size)
    elements = (num_params(norms) + further * 2 * output["tokens"].size) // 2  # of two images
    leaves = flax.traverse_util.flatten_dict(nn.unbox(params), sep="/").items()
    weights = sum(leaf.size for path, leaf in leaves if "resnet/" in path and leaf.ndim == 4)
    return *(int(n) for n in one + further * (two - one)), 5 * elements + 4 * weights


@pytest.fixture(scope="module")
def tiny():
    """A model, its parameters and two images."""
    model = models.create("vit_s16", **TINY)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    params = jax.jit(lambda: model.init(KEY, images, train=False)["params"])()
    return model, nn.unbox(params), images


def test_every_registered_name_has_expected_numbers():
    named = {name for name, *_ in (*TIMM, *SWIN)} | {*BY_HAND}
    assert named == set(models.list_models())
    assert set(PARAMETERS) <= set(models.list_models())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_number_of_parameters_is_the_published_one(name):
    assert cost(name)[0] == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS_OF_GAP)
def test_the_number_of_parameters_without_class_token_is_the_published_one(name):
    params, _, _ = shapes(models.create(name, pool="gap"))
    assert num_params(params) == PARAMETERS_OF_GAP[name]


@pytest.mark.parametrize(("name", "size", "fields", "millions", "gmacs"), TIMM)
def test_parameters_and_multiply_adds_are_those_of_timm(name, size, fields, millions, gmacs):
    parameters, multiply_adds, extra = cost(name, (size, size), **fields)
    assert round(parameters / 1e6, 2) == millions
    assert round((multiply_adds + extra) / 1e9, 2) == gmacs


@pytest.mark.parametrize(("name", "size", "millions", "gmacs"), SWIN)
def test_parameters_and_multiply_adds_of_swin_are_the_published_ones(name, size, millions, gmacs):
    profile = models.profile(models.create(name), (size, size))
    assert round(profile.parameters / 1e6, 2) == millions
    assert profile.gflops == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [*((name, (224, 224)) for name in BY_HAND), ("vit_ti16", (224, 224)), ("vit_mu16", (32, 48))],
)
def test_profile_equals_the_sum_by_hand(name, image_size):
    model = models.create(name)
    profile = models.profile(model, image_size)
    expected = count_by_hand(model, *image_size)
    assert (profile.parameters, round(profile.gflops * 1e9)) == expected


def test_the_cost_of_a_block_is_the_difference_of_two_models():
    profile = models.profile(models.create("vit_s32"))
    assert (profile.parameters, round(profile.gflops * 1e9)) == cost("vit_s32")[:2]


def test_profile_counts_nested_jaxprs():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            x = nn.Conv(6, (3, 3), feature_group_count=3, use_bias=False)(images)
            x = jax.jit(lambda x: jnp.einsum("bhwc,cd->bhwd", x, jnp.ones((6, 5))))(x)
            return jax.checkpoint(lambda x: x @ jnp.ones((5, 7)))(x)

    profile = models.profile(Twice(), (8, 4))
    assert profile.parameters == 3 * 3 * 6  # in three groups of one channel
    assert profile.gflops * 1e9 == pytest.approx(8 * 4 * (9 * 6 + 6 * 5 + 5 * 7))


def test_profile_of_a_size_that_the_stride_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="is not a multiple of the stride"):
        models.profile(models.create("vit_mu16"), (224, 225))


def value_of(model, path):
    """The value of a field such as `width`, `stem.patch` or `stem.name`."""
    key, _, inner = path.partition(".")
    value = getattr(model, key)
    if inner == "name":
        return name_of(value, models.part_choices("vit_s16")[key].table)
    return value[inner] if inner else value


def shallow(name):
    """A model of the name with one block, or one block per stage."""
    if models.family(name).name == "swin":
        return models.create(name, depths=(1,) * len(models.spec(name).depths))
    return models.create(name, depth=1)


@pytest.mark.parametrize("name", models.list_models())
def test_shapes_and_dtypes_of_every_model(name):
    model = shallow(name)
    params, output, _ = shapes(model)
    if models.family(name).name == "swin":
        width = 8 * model.width
        num_tokens = 7 * 7
        heads = 0
    else:
        num_patches = (224 // model.stride[0]) * (224 // model.stride[1])
        width = model.width
        num_tokens = num_patches + 1 + model.distilled + model.num_registers
        heads = int(model.distilled)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), output) == {
        "logits": ((2, 1000), "float32"),
        "features": ((2, width), "float32"),
        "tokens": ((2, num_tokens, width), "float32"),
        "aux_logits": (((2, 1000), "float32"),) * heads,
    }
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("dtype", transformer.DTYPES)
@pytest.mark.parametrize(
    "fields",
    [
        {
            "distilled": True,
            "num_registers": 1,
            "attention.qk_norm": True,
            "block.layer_scale": 0.1,
        },
        {"pool": "cls_gap", "mlp": "swiglu", "stem": "resnet", "stem.layers": (1, 1)},
        {"pool": "map", "pool.fc_norm": True, "block": "post", "posemb": "sincos2d"},
    ],
)
def test_tokens_have_the_compute_dtype_and_logits_and_features_no_less_than_float32(dtype, fields):
    with jax.enable_x64(dtype == "float64"):
        model = models.create("vit_s16", **{**TINY, **fields}, dtype=dtype)
        params, output, _ = shapes(model, (32, 32))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert output.pop("tokens").dtype == dtype
    least = "float64" if dtype == "float64" else "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(output)} == {least}


@pytest.mark.parametrize("name", models.list_models())
def test_every_dimension_name_of_a_parameter_has_a_sharding_rule(name):
    names = dimension_names(shallow(name))
    assert {"embed", "mlp", "heads", "classes"} <= names <= set(dict(sharding.RULES))


@pytest.mark.parametrize("pool", POOLS)
def test_every_dimension_name_of_an_optional_parameter_has_a_sharding_rule(pool):
    options = {"num_registers": 2, "block.layer_scale": 0.1, "representation_size": 5}
    options["attention.qk_norm"] = True
    model = models.create("vit_s32", **{**TINY, "pool": pool}, **options)
    assert dimension_names(model) <= set(dict(sharding.RULES))


@pytest.mark.parametrize(
    ("name", "fields", "stride"),
    [
        ("vit_b14", {}, (14, 14)),
        ("vit_b16", {"stem.patch": (8, 12)}, (8, 12)),
        ("vit_r_ti16", {}, (32, 32)),
        ("vit_r26_s32", {}, (32, 32)),
        ("vit_r50_b16", {}, (16, 16)),
        ("vit_r50_b16", {"stem.layers": (1,), "stem.patch": (2, 3)}, (8, 12)),
    ],
)
def test_a_token_covers_the_stride(name, fields, stride):
    model = models.create(name, **fields, depth=1)
    assert model.stride == stride
    _, output, _ = shapes(model, (2 * stride[0], 3 * stride[1]))
    assert output["tokens"].shape[1] == 1 + 2 * 3


def test_list_models_takes_a_shell_pattern():
    assert models.list_models("vit_l*") == ["vit_l16", "vit_l32"]
    assert models.list_models("vit_r50*") == ["vit_r50_b16", "vit_r50_l32"]
    assert models.list_models("*_textbook") == ["vit_b16_textbook"]
    assert models.list_models("resnet*") == []


def test_a_registered_name_is_listed_once():
    assert len(set(models.list_models())) == len(models.list_models())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_ti14", {"stem.patch": (14, 14), "width": 192, "distilled": False}),
        ("deit_l14_distilled", {"stem.patch": (14, 14), "width": 1024, "distilled": True}),
        ("deit3_ti8", {"stem.patch": (8, 8), "width": 192, "posemb.prefix": False}),
        ("dinov2_h16_reg4", {"stem.patch": (16, 16), "width": 1280, "num_registers": 4}),
    ],
)
def test_create_takes_any_size_of_a_family_with_any_patch(name, expected):
    model = models.create(name)
    assert {path: value_of(model, path) for path in expected} == expected


def test_sizes_are_case_sensitive():
    assert (models.create("vit_g14").width, models.create("vit_G14").width) == (1408, 1664)


def test_a_family_may_have_a_size_of_its_own():
    assert models.create("vit_g14").mlp == Part(Mlp, FrozenDict(activation="gelu"))
    assert models.create("dinov2_g14").mlp == Part(SwiGlu)
    assert (models.create("vit_g14").width, models.create("dinov2_g14").width) == (1408, 1536)


def test_an_override_sets_the_field_of_the_model():
    assert value_of(models.create("vit_s16", pool="map", dropout=0.25), "pool.name") == "map"


@pytest.mark.parametrize("name", models.list_models())
def test_spec_holds_the_name_and_every_field(name):
    fields = models.spec(name).to_dict()
    module = models.family(name).module
    model_fields = {field.name for field in dataclasses.fields(module)} - {"parent"}
    assert set(fields) == model_fields | {"name"}
    assert fields["name"] == name
    model = models.create(name)
    for key in models.part_choices(name):
        part = getattr(model, key)
        own = {field.name for field in dataclasses.fields(part.module) if "help" in field.metadata}
        assert set(fields[key]) == {"name", *own} == {"name", *part.fields}


def test_spec_is_what_create_makes():
    fields = flatten(models.spec("vit_b16_textbook", pool="gap").to_dict())
    model = models.create("vit_b16_textbook", pool="gap")
    assert fields.pop("name") == "vit_b16_textbook"
    assert {path: value_of(model, path) for path in fields} == fields


def test_spec_overrides_a_field():
    assert models.spec("vit_s16", posemb="sincos2d").posemb.to_dict() == {"name": "sincos2d"}


@pytest.mark.parametrize("make", [models.spec, models.create, models.preset, models.family])
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("vitb16", "vit_b16"),
        ("vit_b16_textbok", "vit_b16_textbook"),
        ("vit_b16_distilled", "deit_b16_distilled"),
        ("deit3_b16_reg4", "deit3_b16"),
        ("vit_r26_l32", "vit_r26_s32"),
        ("dinov2_s014", "dinov2_s14"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_right_one(make, name, nearest):
    with pytest.raises(ConfigError, match=rf"config\.model\.name: unknown '{name}'.*'{nearest}'"):
        make(name)


@pytest.mark.parametrize("make", [models.spec, models.create])
def test_an_unknown_field_is_an_error_with_the_nearest_right_one(make):
    message = r"config\.model\.pol: vit_s16 has no such field; did you mean 'pool'"
    with pytest.raises(ConfigError, match=message):
        make("vit_s16", pol="gap")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"attention.window": (4, 4)},
            "attention.window: auto has no such field; it belongs to "
            "model.attention=window or dilated",
        ),
        (
            {"attention": {"name": "linear", "landmarks": 4}},
            "attention.landmarks: linear has no such field; it belongs to "
            "model.attention=linformer or nystrom",
        ),
        ({"stem.patc": (4, 4)}, "stem.patc: vit_s16 has no such field; did you mean 'stem.patch'?"),
        (
            {"attention": "window", "attention.name": "full"},
            "attention.name: expected one value, got 'window' and 'full'",
        ),
        (
            {"stem": {"patch": (8, 8)}, "stem.patch": (4, 4)},
            "stem.patch: expected one value, got (8, 8) and (4, 4)",
        ),
        ({"attention": 3}, "attention.name: expected a name, got 3"),
        ({"attention": None}, "attention.name: expected a name, got None"),
        ({"depth": {"of": 3}}, "depth.of: vit_s16 has no such field; did you mean 'depth'?"),
    ],
)
@pytest.mark.parametrize("make", [models.spec, models.create])
def test_a_field_that_a_part_does_not_have_and_two_values_are_errors(make, fields, problem):
    with pytest.raises(ConfigError) as error:
        make("vit_s16", **fields)
    assert str(error.value) == f"config.model.{problem}"


WINDOWED = Part(
    WindowAttention,
    FrozenDict(
        qk_norm=False,
        cosine=False,
        qkv_bias=True,
        dropout=0.0,
        window=(4, 4),
        kernel="auto",
        pad_order="shift_pad",
        limit="each",
        mask_padding=False,
    ),
)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": {"name": "window", "window": (4, 4)}},
        {"attention": "window", "attention.window": (4, 4)},
        {"attention.window": (4, 4), "attention": "window"},
        {"attention.window": (4, 4), "attention.name": "window"},
        {"attention": {"window": (4, 4)}, "attention.name": "window"},
        {"attention": models.spec("swin_t_w4").attention},
    ],
)
def test_a_part_is_set_by_a_name_a_section_or_paths_in_any_order(fields):
    assert models.create("vit_s16", **fields).attention == WINDOWED


@pytest.mark.parametrize("field", ["base", "parent"])
def test_internal_attributes_are_not_fields(field):
    with pytest.raises(ConfigError, match=rf"config\.model\.{field}: vit_s16 has no such field"):
        models.spec("vit_s16", **{field: "vit_b16"})


def test_declarations_have_the_type_of_every_field():
    declared = models.declarations("vit_s16", models.part_names("vit_s16"))
    types = {path: setting.type for path, setting in declared.items()}
    assert set(types) == set(flatten(models.spec("vit_s16").to_dict())) - {"name"}
    assert (types["pool.name"], types["width"], types["dropout"]) == (str, int, float)
    assert (types["stem.patch"], types["dropout_sites"]) == (tuple[int, int], tuple[str, ...])


@pytest.mark.parametrize("name", models.list_models())
def test_every_registered_model_is_created_from_its_spec(name):
    spec = models.spec(name)
    assert models.create(**spec) == models.create(**spec.to_dict()) == models.create(name)


# Every field with a table of names, with the part that has it.
CHOICES = {
    "stem.name": (STEMS, {}),
    "posemb.name": (POSEMBS, {}),
    "block.name": (BLOCKS, {}),
    "remat": (REMATS, {}),
    "attention.name": (ATTENTIONS, {}),
    "mlp.name": (MLPS, {}),
    "pool.name": (POOLS, {}),
    "stem.weight_standardization": (WEIGHT_STANDARDIZATIONS, {"stem": "resnet"}),
    "stem.norm": (dict.fromkeys(NORMS), {"stem": "conv"}),
    "posemb.interpolation": (INTERPOLATIONS, {}),
    "block.drop_path_schedule": (DROP_PATH_SCHEDULES, {}),
    "attention.kernel": (POLICIES, {"attention": "window"}),
    "attention.pad_order": (PAD_ORDERS, {"attention": "window"}),
    "attention.limit": (LIMITS, {"attention": "window"}),
    "mlp.activation": (ACTIVATIONS, {}),
    "representation_activation": (ACTIVATIONS, {}),
    "pool.activation": (ACTIVATIONS, {"pool": "map"}),
    "dropout_sites": (dict.fromkeys(transformer.DROPOUT_SITES), {}),
    "dtype": (transformer.DTYPES, {}),
    "grad_dtype": (transformer.GRAD_DTYPES, {}),
}


# Fields of at least 1, by the attention that has them.
SIZES = [("linformer", "landmarks"), ("nystrom", "landmarks"), ("reduced", "reduction")]


def test_choices_lists_all_fields_with_a_table_of_names():
    fields = {
        path
        for path, declared in models.all_declarations("vit_s16").items()
        if declared.field.metadata.get("choices") or path.endswith(".name")
    }
    assert fields == set(CHOICES)


@pytest.mark.parametrize("field", CHOICES)
def test_create_accepts_every_choice_of_a_table(field):
    table, parts = CHOICES[field]
    for choice in table:
        value = (choice,) if field == "dropout_sites" else choice
        with jax.enable_x64(choice == "float64"):
            model = models.create("vit_s16", **parts, **{field: value})
        assert value_of(model, field) == value


@pytest.mark.parametrize("choice", POSEMB_INTERPOLATIONS)
def test_a_table_of_offsets_is_resampled_by_every_method(choice):
    fields = {"posemb": "relative_bias", "posemb.interpolation": choice}
    assert models.create("vit_s16", **fields).posemb["interpolation"] == choice


def test_create_rejects_float64_if_jax_does_not_enable_it():
    with pytest.raises(ConfigError, match=r"^config\.model\.dtype: float64 needs .*JAX_ENABLE_X64"):
        models.create("vit_s16", dtype="float64")


@pytest.mark.parametrize(
    ("field", "value", "parts"),
    [
        *((field, "unheard_of", parts) for field, (_, parts) in CHOICES.items() if "." in field),
        ("dtype", "unheard_of", {}),
        ("dropout_sites", ("mlp", "head"), {}),
        *((field, 0, {}) for field in ("width", "depth", "num_heads", "mlp_dim")),
        *((field, -1, {}) for field in ("num_classes", "num_registers", "representation_size")),
        ("block.layer_scale", -1e-4, {}),
        ("block.layer_scale", float("nan"), {}),
        *(("stem.norm_eps", value, {"stem": "resnet"}) for value in (0.0, -1e-6)),
        *(("stem.width_factor", value, {"stem": "resnet"}) for value in (0.0, -1.0)),
        *(("stem.layers", value, {"stem": "resnet"}) for value in ((0,), (3, 0), (-1, 2))),
        *(("norm_eps", value, {}) for value in (0.0, -1e-6)),
        *((field, 1.0, {}) for field in ("dropout", "attention.dropout", "block.drop_path")),
        *((field, -0.1, {}) for field in ("dropout", "attention.dropout", "block.drop_path")),
        *((f"attention.{key}", 0, {"attention": name}) for name, key in SIZES),
        ("attention.window", (0, 7), {"attention": "dilated"}),
        ("num_heads", 5, {}),
        ("stem.patch", (0, 16), {}),
        ("stem.patch", (16, -1), {}),
    ],
)
def test_create_rejects_an_impossible_value(field, value, parts):
    with pytest.raises(ConfigError, match=rf"^config\.model\.{re.escape(field)}: "):
        models.create("vit_s16", **parts, **{field: value})


@pytest.mark.parametrize(
    "fields", [{"pool": "gap"}, {"pool": "map"}, {"representation_size": 8}, {"pool.fc_norm": True}]
)
def test_create_rejects_fields_that_a_second_head_does_not_support(fields):
    with pytest.raises(ConfigError, match=r"^config\.model\.distilled: needs pool=cls"):
        models.create("deit_s16_distilled", **fields)


@pytest.mark.parametrize("representation_size", [0, 8])
def test_a_distillation_token_without_a_head_is_attended_to(representation_size):
    sizes = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "num_classes": 3}
    fields = {**sizes, "distilled_head": False, "representation_size": representation_size}
    model = models.create("deit_ti4_distilled", **fields)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = nn.unbox(model.init(jax.random.key(0), images, train=False))
    params = variables["params"]
    assert "dist_token" in params and "head_dist" not in params
    other = {**params, "dist_token": params["dist_token"] + jnp.arange(8)}
    first, second = (models.forward(model, {"params": p}, images) for p in (params, other))
    assert first.aux_logits == ()
    assert np.abs(first.features - second.features).max() > 1e-4


@pytest.mark.parametrize("width", [0.001, 0.25, 0.75, 1.1])
def test_create_rejects_a_root_that_group_norm_cannot_divide(width):
    with pytest.raises(
        ConfigError, match=r"^config\.model\.stem\.width_factor: .*a multiple of 32"
    ):
        models.create("vit_r26_s32", **{"stem.width_factor": width})


@pytest.mark.parametrize("width", [4, 18])
def test_create_rejects_a_width_that_sincos2d_does_not_support(width):
    with pytest.raises(ConfigError, match=r"^config\.model\.width: sincos2d needs"):
        models.create("vit_s16", width=width, num_heads=2, posemb="sincos2d")


def test_create_names_the_nearest_choice():
    with pytest.raises(ConfigError, match="unknown 'gpa'; did you mean 'gap'"):
        models.create("vit_s16", pool="gpa")


def test_forward_is_evaluation(tiny):
    model, params, images = tiny
    variables = {"params": params}
    expected = model.apply(variables, images, train=False)
    chex.assert_trees_all_equal(models.forward(model, variables, images), expected)


def test_forward_train_is_training(tiny):
    model, params, images = tiny
    noisy = model.clone(dropout=0.5)
    variables = {"params": params}
    expected = noisy.apply(variables, images, train=True, rngs={"dropout": KEY})
    output, collections = models.forward_train(noisy, variables, images, KEY)
    chex.assert_trees_all_equal(output, expected)
    assert collections == {}
    assert not jnp.allclose(output.tokens, models.forward(noisy, variables, images).tokens)


@pytest.mark.parametrize(
    ("name", "fields", "grid"),
    [
        ("vit_mu4", {"pool": "cls", "num_registers": 2}, (2, 3, 3)),
        ("vit_mu4", {"pool": "gap", "num_classes": 0}, (2, 3, 0)),
        ("swin_t_w7", {"depths": (1, 1), "num_heads": (1, 2), "width": 8}, (1, 2, 0)),
    ],
)
def test_an_output_has_the_layout_of_its_tokens(name, fields, grid):
    model = models.create(name, **fields)
    images = jnp.zeros((1, 8, 12, 3))
    output = jax.jit(lambda: model.init_with_output(KEY, images, train=False)[0])()
    assert output.grid == Grid(*grid)
    assert output.tokens.shape[1] == grid[0] * grid[1] + grid[2]


def test_features_are_the_outputs_of_submodules_by_name(tiny):
    model, params, images = tiny
    names = ["stem", "blocks_0", "blocks_1/norm1", "blocks_1/attn", "norm", "head"]
    features = models.features(model, {"params": params}, images, names)
    output = models.forward(model, {"params": params}, images)
    assert list(features) == names
    chex.assert_shape(features["stem"], (2, 2, 2, 8))
    norm = nn.LayerNorm(epsilon=model.norm_eps)
    normalized = norm.apply({"params": params["blocks_1"]["norm1"]}, features["blocks_0"])
    chex.assert_trees_all_equal(features["blocks_1/norm1"], normalized)
    chex.assert_shape(features["blocks_1/attn"], (2, 5, 8))
    chex.assert_trees_all_equal(features["norm"], output.tokens)
    chex.assert_trees_all_equal(features["head"], output.logits)


def test_features_reach_into_the_stem_of_a_hybrid():
    fields = {"stem.layers": (1,), "stem.width_factor": 0.5, "stem.patch": (1, 1), "depth": 1}
    model = models.create("vit_r26_s32", **{**TINY, **fields})
    names = ["stem/resnet", "stem/resnet/stages_0_0/conv2", "stem"]

    def find(images):
        variables = model.init(KEY, images, train=False)
        return models.features(model, variables, images, names)

    found = jax.eval_shape(find, jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    assert [found[name].shape for name in names] == [(1, 2, 2, 128), (1, 2, 2, 32), (1, 2, 2, 8)]


# --- The command.


def run_command(capsys, *argv):
    code = cli.run(command.main, command._flags(), "", ["models", *argv], cli.parse_operands)
    return code, *capsys.readouterr()


def test_the_command_prints_one_line_per_model(capsys):
    code, out, err = run_command(capsys, "vit_mu*", "--image_size=32,40", "vit_mu4", "vit_mu16")
    assert (code, err) == (0, "")
    head, *lines = (line.split(maxsplit=3) for line in out.splitlines())
    assert head == ["model", "parameters", "GFLOPs", "image size"]
    sizes = {"vit_mu16": ((32, 32), "32x32, stride 16x16"), "vit_mu4": ((32, 40), "32x40")}
    for line, (name, (size, note)) in zip(lines, sizes.items(), strict=True):
        profile = models.profile(models.create(name), size)
        assert line == [name, f"{profile.parameters:,}", f"{profile.gflops:.4g}", note]


def test_the_command_takes_the_side_of_a_square_and_at_least_one_patch(capsys):
    _, out, _ = run_command(capsys, "vit_mu16", "--image_size=5")
    assert out.splitlines()[1].endswith("  16x16, stride 16x16")


def test_the_command_without_names_lists_all_models(capsys, monkeypatch):
    monkeypatch.setattr(models, "profile", lambda model, size: models.Profile(1, 1.0))
    _, out, _ = run_command(capsys)
    assert [line.split()[0] for line in out.splitlines()[1:]] == models.list_models()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["vit_mu16", "vit_x16"], "config.model.name: unknown 'vit_x16'; did you mean 'vit_"),
        (["vit_mu16", "--image_size=0"], "--image_size: expected pixels, as in 224 or 224,320, go"),
        (["vit_mu16", "--image_size=1,2,3"], "--image_size: expected pixels, as in 224 or 224,320"),
        (["vit_mu16", "--image_size=a"], "--image_size: expected pixels, as in 224 or 224,320, go"),
        (["--image=8"], "--image: no such flag; did you mean '--image_size'?"),
    ],
)
def test_an_error_of_the_command_is_one_line_and_exit_code_64(capsys, argv, message):
    code, out, err = run_command(capsys, *argv)
    assert (code, out) == (64, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_features_of_an_unknown_name_is_an_error_with_the_nearest_right_one(tiny):
    model, params, images = tiny
    with pytest.raises(ConfigError, match="unknown 'block_1'; did you mean 'blocks_1'"):
        models.features(model, {"params": params}, images, ["blocks_0", "block_1"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": "64"}, "width: expected an integer, got '64'"),
        ({"width": 64.0}, "width: expected an integer, got 64.0"),
        ({"num_classes": None}, "num_classes: expected an integer, got None"),
        ({"dtype": jnp.bfloat16}, "dtype: expected text, got <class 'jax.numpy.bfloat16'>"),
        ({"stem": {"patch": 8}}, "stem.patch: expected 2 values (each an integer), got 8"),
    ],
)
def test_create_checks_types(fields, message):
    with pytest.raises(ConfigError) as error:
        models.create("vit_s16", **fields)
    assert str(error.value) == f"config.model.{message}"
