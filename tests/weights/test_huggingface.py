"""Every entry of transformers' documents is read, or refused by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_jax import models
from vit_jax.config import flatten
from vit_jax.errors import DataError
from vit_jax.weights import huggingface
from vit_jax.weights.huggingface import keys, preprocessing

WIDTH = 48
VIT = {
    "model_type": "vit",
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
DINOV2 = {**VIT, "model_type": "dinov2", "image_size": 64}
SWIN = {"model_type": "swin", "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
SWIN |= {"image_size": 56, "patch_size": 4, "window_size": 7}
PIXELS = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
BIT = {**PIXELS, "image_processor_type": "BitImageProcessor"}


def arrays(document, classes=10, head="classifier", pooler=0, channels=3):
    """The shapes that tell a head, a pooler and positions."""
    prefix = f"{document['model_type']}." if classes else ""
    patch = document["patch_size"]
    shapes = {
        f"{prefix}embeddings.patch_embeddings.projection.weight": (WIDTH, channels, patch, patch),
        f"{prefix}embeddings.patch_embeddings.projection.bias": (WIDTH,),
    }
    if "hidden_size" in document:
        tokens = 1 + (document["model_type"] == "deit")
        rows = tokens + (document["image_size"] // patch) ** 2
        shapes[f"{prefix}embeddings.position_embeddings"] = (1, rows, WIDTH)
    if classes:
        shapes |= {f"{head}.weight": (classes, WIDTH), f"{head}.bias": (classes,)}
    if pooler:
        shapes[f"{prefix}pooler.dense.bias"] = (pooler,)
    return shapes


def read(document, processor=None, **kwargs):
    documents = {"config.json": document}
    if processor is not None:
        documents["preprocessor_config.json"] = processor
    library = huggingface.SWIN if "swin" in document["model_type"] else huggingface.VIT
    series = document["model_type"].split("_")[0]
    return library.describe(arrays(document, **kwargs), documents, series)


def refusal(*args, **kwargs):
    with pytest.raises(DataError) as caught:
        read(*args, **kwargs)
    return str(caught.value)


# --- config.json: the model.


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gelu", "gelu"),
        ("gelu_python", "gelu"),
        *((name, "gelu_tanh") for name in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")),
        *(("swish", "silu"), ("silu", "silu"), ("relu", "relu"), ("quick_gelu", "quick_gelu")),
    ],
)
def test_an_activation_is_read(theirs, ours):
    assert read({**VIT, "hidden_act": theirs}).fields["mlp.activation"] == ours
    pooled = read({**VIT, "pooler_act": theirs}, classes=0, pooler=20).fields
    assert pooled["representation_activation"] == ours
    assert (pooled["representation_size"], pooled["mlp.activation"]) == (20, "gelu")


@pytest.mark.parametrize("key", ["hidden_act", "pooler_act"])
def test_an_activation_that_we_do_not_have_is_refused(key):
    found = refusal({**VIT, key: "mish"}, classes=0, pooler=8)
    assert found.startswith(f"config.json: {key}: expected one of gelu") and "'mish'" in found


def test_a_pooler_has_no_part_in_logits_and_its_activation_is_not_asked_for():
    spec = read({**VIT, "pooler_act": "mish"}, pooler=48)
    assert spec.fields["representation_size"] == 0
    assert any("the logits do not depend on the pooler" in note for note in spec.notes)
    names = huggingface.VIT.placeholders(arrays(VIT, pooler=48))
    assert (names["pooler"], names["unused"]) == ("none", "pooler.dense")


@pytest.mark.parametrize(("model_type", "eps"), [("vit", 1e-12), ("dinov2", 1e-6)])
def test_a_key_that_is_not_there_has_the_default_of_its_model(model_type, eps):
    fields = read({**VIT, "model_type": model_type}).fields
    assert (fields["norm_eps"], fields["attention.qkv_bias"]) == (eps, True)


def test_biases_that_the_document_denies_are_refused():
    assert not read({**VIT, "qkv_bias": False}).fields["attention.qkv_bias"]
    shapes = arrays(VIT) | {"vit.encoder.layer.0.attention.attention.query.bias": (48,)}
    documents = {"config.json": {**VIT, "qkv_bias": False}}
    with pytest.raises(DataError, match=r"config\.json: qkv_bias: expected true"):
        huggingface.VIT.describe(shapes, documents, "vit")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"head_dim": 8}, "head_dim: expected 48 / 3"),
        ({"num_channels": 1}, "num_channels: expected the 3 channels of the weights, got 1"),
        ({"image_size": 40}, "image_size: 40x40 needs 26 positions, the weights have 17"),
        ({"image_size": 30}, "image_size: expected whole patches of 8x8, got 30x30"),
        ({"architectures": ["ViTMAEForPreTraining"]}, "architectures: expected ViTModel or"),
        ({"architectures": ["ViTModel"]}, "architectures: ViTModel has no head, the weights have"),
        ({"problem_type": "regression"}, "problem_type: expected single_label"),
        ({"num_labels": 7}, "num_labels: expected the 10 classes of the head, got 7"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label: expected the 10 classes of the head"),
        ({"model_type": "beit"}, "model_type: expected vit, deit, dinov2 or"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps: expected"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: expected float | int, got nan"),
    ],
)
def test_what_makes_another_model_is_refused_by_name(change, problem):
    shapes = arrays(VIT)
    with pytest.raises(DataError) as caught:
        huggingface.VIT.describe(shapes, {"config.json": {**VIT, **change}}, "vit")
    assert str(caught.value).startswith(f"config.json: {problem}")


def test_a_head_that_the_document_names_must_be_there():
    found = refusal({**VIT, "architectures": ["ViTForImageClassification"]}, classes=0)
    assert "has the head classifier, the weights have none" in found
    spec = read({**VIT, "architectures": ["ViTForImageClassification"], "id2label": {}}, classes=0)
    assert spec.fields["num_classes"] == 0


def test_keys_that_nothing_reads_are_said_and_harmless_ones_are_not():
    harmless = dict.fromkeys((*keys.BASE_KEYS, *keys.TRAINING_KEYS, *keys.DERIVED_KEYS), "x")
    spec = read(VIT | {k: v for k, v in harmless.items() if k not in VIT} | {"my_rope": 3})
    ignored = [note for note in spec.notes if "unknown keys" in note]
    assert ignored == ["config.json: unknown keys, ignored: my_rope"]


def test_deit_has_the_heads_of_its_weights():
    deit = {**VIT, "model_type": "deit"}
    one = read(deit)
    assert (one.fields["distilled"], one.fields["distilled_head"]) == (True, False)
    shapes = arrays(deit, head="cls_classifier") | {"distillation_classifier.bias": (10,)}
    two = huggingface.VIT.describe(shapes, {"config.json": deit}, "deit")
    assert two.fields["distilled_head"]
    pooled = read(deit, classes=0, pooler=48)
    assert (pooled.fields["distilled_head"], pooled.fields["representation_size"]) == (False, 48)
    assert any("outputs of the pooler" in note for note in pooled.notes)


# --- config.json: the classes.


@pytest.mark.parametrize(
    ("change", "classes", "loss"),
    [
        ({}, 10, "softmax"),
        ({"problem_type": "single_label_classification"}, 10, "softmax"),
        ({"problem_type": "multi_label_classification"}, 10, "sigmoid"),
        ({}, 1, "sigmoid"),
        ({"problem_type": "single_label_classification"}, 1, "sigmoid"),
    ],
)
def test_the_problem_says_what_logits_mean(change, classes, loss):
    spec = read({**VIT, **change}, classes=classes)
    assert spec.objective == {"loss": loss}
    assert any("loss=sigmoid" in note for note in spec.notes) == (loss == "sigmoid")
    assert read({**VIT, **change}, classes=0).objective == {}


def test_names_that_occur_twice_are_kept_apart_and_said():
    labels = {"2": "crane", "0": "crane", "1": "cat"}
    spec = read({**VIT, "id2label": labels}, classes=3)
    assert spec.class_names == ("crane (0)", "cat", "crane (2)")
    assert any("made unique: crane (0), crane (2)" in note for note in spec.notes)


@pytest.mark.parametrize(
    ("labels", "noted"),
    [({"0": "LABEL_0", "1": "LABEL_1"}, False), ({"1": "a", "2": "b"}, True)],
)
def test_names_that_are_made_up_or_out_of_step_are_left_out(labels, noted):
    spec = read({**VIT, "id2label": labels}, classes=2)
    assert spec.class_names == ()
    assert any("the names are ignored" in note for note in spec.notes) == noted


# --- preprocessor_config.json.


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"mean": (0.5,) * 3, "fit": "squash", "interpolation": "bilinear"}),
        ({"do_rescale": False}, {"mean": (0.5 / 255,) * 3, "std": (0.5 / 255,) * 3}),
        ({"rescale_factor": 1 / 127.5}, {"mean": (0.25,) * 3, "std": (0.25,) * 3}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"do_normalize": False, "do_rescale": False}, {"std": (1 / 255,) * 3}),
        ({"image_mean": 0.25}, {"mean": (0.25,) * 3}),
        ({"resample": 1}, {"interpolation": "lanczos"}),
        ({"size": 32}, {"fit": "squash"}),
        ({"size": [32, 32], "do_convert_rgb": None}, {"fit": "squash"}),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 32},
            {"fit": "crop", "crop_fraction": 0.5},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}},
            {"fit": "crop", "crop_fraction": 0.875},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            {"fit": "squash"},
        ),
        ({"feature_extractor_type": "ViTFeatureExtractor"}, {"fit": "squash"}),
    ],
)
def test_a_step_of_the_processor_is_read(change, expected):
    data = read(VIT, {**PIXELS, **change}).data
    for key, value in expected.items():
        assert data[key] == (value if isinstance(value, str) else pytest.approx(value))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"do_resize": False}, "do_resize: expected true"),
        ({"do_resize": None}, "do_resize: expected true"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order: this step is not supported"),
        ({"do_pad": True}, "do_pad: this step is not supported"),
        ({"rescale_offset": True}, "rescale_offset: this step is not supported"),
        ({"rescale_factor": 0}, "rescale_factor: expected a positive number"),
        ({"resample": 4}, "resample: expected one of 0 (nearest)"),
        ({"resample": True}, "resample: expected one of 0 (nearest)"),
        ({"size": {"longest_edge": 32}}, "size: expected a number, height and width"),
        ({"size": {"shortest_edge": 32}}, "size: expected height and width, or do_center_crop"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "size: expected a number"),
        ({"size": 32, "do_center_crop": True, "crop_size": 40}, "crop_size: expected at most"),
        ({"image_mean": [0.5]}, "image_mean: expected 3 numbers"),
        ({"image_processor_type": "LevitImageProcessor"}, "image_processor_type: expected one of"),
    ],
)
def test_a_step_that_we_do_not_have_is_refused_by_name(change, problem):
    assert refusal(VIT, {**PIXELS, **change}).startswith(f"preprocessor_config.json: {problem}")


@pytest.mark.parametrize(("crop", "short"), [(224, 256), (9, 14), (224, 354), (192, 225), (7, 7)])
def test_a_share_gives_the_resized_side_back(crop, short):
    document = {**BIT, "size": {"shortest_edge": short}, "crop_size": crop}
    data = preprocessing.read({preprocessing.FILE: document}, {}, "vit", "Bit", 3).data
    assert int(crop / data["crop_fraction"]) == short


def test_dinov2_takes_the_images_of_its_processor():
    processor = {**BIT, "size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    spec = read(DINOV2, processor)
    assert (spec.data["image_size"], spec.trained_size) == ((32, 32), (64, 64))
    assert any("the run uses 32x32" in note for note in spec.notes)
    alone = read(DINOV2)
    assert (alone.data["image_size"], alone.trained_size) == ((64, 64), (64, 64))
    assert not any("the run uses" in note for note in alone.notes)


def test_dinov2_has_a_square_of_positions_whatever_its_images():
    shapes = arrays(DINOV2) | {"dinov2.embeddings.position_embeddings": (1, 17, WIDTH)}
    documents = {"config.json": {**DINOV2, "image_size": [16, 64]}}
    spec = huggingface.VIT.describe(shapes, documents, "dinov2")
    assert (spec.data["image_size"], spec.trained_size) == ((16, 64), (32, 32))
    documents["config.json"]["image_size"] = [16, 24]
    with pytest.raises(DataError, match="needs a square grid, got 6 patches"):
        huggingface.VIT.describe(shapes, documents, "dinov2")


def test_vit_takes_images_of_its_own_size_and_says_so():
    spec = read(VIT, {**PIXELS, "size": 48})
    assert spec.data["image_size"] == (32, 32)
    assert any("makes images of 48x48" in note and "uses 32x32" in note for note in spec.notes)


def test_one_channel_has_the_mean_of_what_is_usual():
    data = read({**VIT, "num_channels": 1}, channels=1).data
    assert (data["channels"], data["mean"], data["std"]) == (1, (0.5,), (0.5,))


# --- Swin.


def test_swin_has_the_rules_of_transformers():
    fields = read({**SWIN, "layer_norm_eps": 1e-3}).fields
    assert (fields["attention.limit"], fields["norm_eps"], fields["merge_eps"]) == (
        "shorter",
        1e-3,
        1e-5,
    )
    fields = read({**SWIN, "model_type": "swinv2"}).fields
    assert (fields["attention.limit"], fields["merge_eps"]) == ("height", 0.0)


@pytest.mark.parametrize(
    ("model_type", "change", "problem"),
    [
        ("swin", {"image_size": 24}, "window_size: expected at most the 6 tokens"),
        ("swin", {"image_size": [56, 24]}, "window_size: expected at most the 6 tokens"),
        ("swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings: expected false"),
        ("swinv2", {"image_size": 60}, "image_size: transformers counts 7 rows of tokens"),
        ("swin", {"mlp_ratio": float("inf")}, "mlp_ratio: expected float | int, got inf"),
        ("swin", {"depths": [2, "2"]}, "depths: expected one number per stage"),
        ("swin", {"architectures": ["SwinBackbone"]}, "architectures: expected SwinModel or"),
    ],
)
def test_a_swin_that_transformers_computes_otherwise_is_refused(model_type, change, problem):
    found = refusal({**SWIN, "model_type": model_type, **change})
    assert found.startswith(f"config.json: {problem}")


# --- Names, and the way back.

NAMED = ("vit_b16", "vit_l32", "vit_ti7", "vit_G14", "deit_s16_distilled", "dinov2_g14")
NAMED += ("dinov2_b14_reg4", "swin_t_w7", "swin_s_w7", "swin_l_w12", "swinv2_b_w16")


def written(name, **fields):
    """The documents of a model with a name, and its fields."""
    own = {**flatten(models.spec(name, **fields).to_dict()), "objective.loss": "softmax"}
    library = models.family(name).libraries()["huggingface"]
    side = 16 * own["attention.window"][0] * 4 if "swin" in name else 28 * own["stem.patch"][0]
    data = {"image_size": (side, side), "channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    data |= {"interpolation": "bicubic", "fit": "crop", "crop_fraction": 0.875}
    return library, own, data


@pytest.mark.parametrize("name", NAMED)
def test_a_model_is_named_by_the_document_that_is_written_for_it(name):
    library, fields, data = written(name, num_classes=5)
    documents = library.documents_for(fields, data, ())
    found = library.infer({}, documents)
    assert found.pop("name") == name
    assert found == {key: fields[key] for key in found}
    assert set(documents["config.json"]) <= keys.DEFAULTS[
        documents["config.json"]["model_type"]
    ].keys() | {*keys.OPTIONAL_KEYS, *keys.TRAINING_KEYS, *keys.DERIVED_KEYS, *keys.BASE_KEYS}


def test_what_is_written_about_classes_and_numerics_is_all_that_the_library_needs():
    options = {"mlp.activation": "quick_gelu", "attention.qkv_bias": False, "norm_eps": 1e-5}
    library, fields, data = written("vit_b16", num_classes=2, **options)
    fields["objective.loss"] = "sigmoid"
    document = library.documents_for(fields, data, ("cat", "dog"))["config.json"]
    expected = {
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "qkv_bias": False,
        "problem_type": "multi_label_classification",
        "id2label": {"0": "cat", "1": "dog"},
        "label2id": {"cat": 0, "dog": 1},
        "architectures": ["ViTForImageClassification"],
    }
    assert {key: document[key] for key in expected} == expected


def test_dinov2_of_a_grid_that_is_no_square_cannot_be_written():
    library, fields, data = written("dinov2_b14", num_classes=2)
    with pytest.raises(DataError, match=r"config\.data\.image_size: .* needs a square grid"):
        library.documents_for(fields, {**data, "image_size": (28, 56)}, ())


@pytest.mark.parametrize("pool", [{"pool": "cls"}, {"pool": "gap", "keep_class_token": True}])
def test_a_head_on_one_of_the_two_pools_becomes_one_on_both_with_the_same_logits(pool):
    sizes = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "num_classes": 3}
    spec = models.spec("dinov2_s4", **sizes, **pool)
    model = models.create(**spec)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    shapes = nn.unbox(models.abstract_variables(model, (8, 8, 3))["params"])
    rng = np.random.default_rng(1)
    flat = {
        name: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        for name, leaf in flatten_dict(shapes, sep="/").items()
    }
    before = models.forward(model, {"params": unflatten_dict(flat, sep="/")}, images).logits
    fields, notes = huggingface.VIT.rewrite(flatten(spec.to_dict()), flat)
    assert (fields["pool.name"], len(notes)) == ("cls_gap", 1)
    other = models.create(**models.spec("dinov2_s4", **sizes, pool="cls_gap"))
    after = models.forward(
        other, {"params": jax.tree.map(jnp.asarray, unflatten_dict(flat, sep="/"))}, images
    ).logits
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)
