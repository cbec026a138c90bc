"""Every entry of timm's `config.json` is in the model, or refused by name."""

import json

import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax import convert
from vit_jax.console import cli
from vit_jax.errors import ConfigError, DataError
from vit_jax.weights import files
from vit_jax.weights.foreign_names import translate
from vit_jax.weights.timm import architectures

WIDTH = 48
CLASSES = 5
SIZES = {"width": "48", "depth": "2", "num_heads": "3", "mlp_dim": "96", "stem.patch": "8,8"}
FLAGS = {f"model.{key}": value for key, value in SIZES.items()}
PREPROCESSING = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
}
HUB = {
    "architecture": "vit_base_patch16_224",
    "num_classes": CLASSES,
    "num_features": WIDTH,
    "pretrained_cfg": PREPROCESSING,
}
ARGS = {"embed_dim": WIDTH, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "patch_size": 8}


def vit(rows=17, norm="norm", **more):
    """Returns the arrays of a ViT in timm's names; None takes one away."""
    rng = np.random.default_rng(0)
    shapes = {"patch_embed.proj.weight": (WIDTH, 3, 8, 8), "patch_embed.proj.bias": (WIDTH,)}
    shapes |= {"cls_token": (1, 1, WIDTH), "pos_embed": (1, rows, WIDTH)}
    layers = {
        "attn.qkv": (144, 48),
        "attn.proj": (48, 48),
        "mlp.fc1": (96, 48),
        "mlp.fc2": (48, 96),
    }
    norms = [norm, *(f"blocks.{i}.norm{k}" for i in range(2) for k in "12")]
    shapes |= {f"{name}.{kind}": (WIDTH,) for name in norms for kind in ("weight", "bias")}
    for i in range(2):
        for name, shape in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    shapes |= {"head.weight": (CLASSES, WIDTH), "head.bias": (CLASSES,)} | more
    made = {name: shape for name, shape in shapes.items() if shape is not None}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in made.items()}


def attention_pool():
    latent = {"attn_pool.latent": (1, 1, WIDTH)}
    layers = {"q": (48, 48), "kv": (96, 48), "proj": (48, 48), "mlp.fc1": (96, 48)}
    layers |= {"mlp.fc2": (48, 96), "norm": (48,)}
    shapes = {f"attn_pool.{name}.weight": shape for name, shape in layers.items()}
    return latent | shapes | {f"attn_pool.{name}.bias": s[:1] for name, s in layers.items()}


NO_TOKEN = {"cls_token": None, "rows": 16}
SCALES = {f"blocks.{i}.ls{k}.gamma": (WIDTH,) for i in range(2) for k in "12"}


@pytest.fixture
def save(tmp_path):
    """Returns a function from arrays and a document to their folder."""

    def write(arrays, document=None):
        headers = {name: files.Header(a.shape, a.dtype) for name, a in arrays.items()}
        (tmp_path / "in").mkdir()
        files.write_file(tmp_path / "in" / "model.safetensors", headers, arrays.__getitem__)
        if document:
            (tmp_path / "in" / "config.json").write_text(json.dumps(document))
        return tmp_path / "in"

    return write


def bring_in(folder, name="vit_b8", **flags):
    imported = convert.import_weights("timm", folder, name, {**FLAGS, **flags} if name else flags)
    return config_lib.flatten(imported.config.model), imported


HONOURED = [
    ({"model_args": {"act_layer": "relu"}}, {}, {"mlp.activation": "relu"}),
    ({"model_args": {"act_layer": "gelu_tanh"}}, {}, {"mlp.activation": "gelu_tanh"}),
    ({"model_args": {"act_layer": "gelu"}}, {}, {"mlp.activation": "gelu"}),
    ({"model_args": {"act_layer": "quick_gelu"}}, {}, {"mlp.activation": "quick_gelu"}),
    ({"model_args": {"drop_path_rate": 0.1, "norm_layer": None}}, {}, {"pool.name": "cls"}),
    (
        {"global_pool": "avg", "model_args": {"fc_norm": False}},
        {},
        {"pool.name": "gap", "pool.fc_norm": False, "keep_class_token": True},
    ),
    ({"model_args": {"global_pool": "avg"}}, {"norm": "fc_norm"}, {"pool.fc_norm": True}),
    ({"model_args": {"fc_norm": True}}, {"norm": "fc_norm"}, {"pool.name": "cls"}),
    (
        {"architecture": "vit_so400m_patch16_siglip_256"},
        NO_TOKEN | attention_pool(),
        {"pool.name": "map", "mlp.activation": "gelu_tanh", "pool.activation": "gelu_tanh"},
    ),
    (
        {"architecture": "vit_base_patch16_siglip_224.webli"},
        NO_TOKEN | attention_pool(),
        {"pool.name": "map", "mlp.activation": "gelu", "pool.activation": "gelu"},
    ),
    (
        {"architecture": "vit_giantopt_patch16_siglip_gap_256"},
        NO_TOKEN,
        {"pool.name": "gap", "pool.fc_norm": False, "mlp.activation": "gelu_tanh"},
    ),
    ({"architecture": "flexivit_small"}, {"rows": 16}, {"posemb.prefix": False}),
]


@pytest.mark.parametrize(("words", "arrays", "fields"), HONOURED)
def test_a_word_of_the_document_is_in_the_model(words, arrays, fields, save):
    model, _ = bring_in(save(vit(**arrays), {**HUB, **words}))
    assert {key: model[key] for key in fields} == fields


REFUSED = [
    ({"model_args": {"act_layer": "hard_swish"}}, "act_layer: expected one of gelu, gelu_tanh"),
    ({"model_args": {"global_pool": "avgmax"}}, "global_pool: expected token, avg, map, got"),
    ({"model_args": {"global_pool": ""}}, "global_pool: expected token, avg, map, got ''"),
    ({"global_pool": "max"}, "global_pool: expected token, avg, map, got 'max'"),
    ({"global_pool": "map"}, "global_pool: 'map' does not match the arrays"),
    ({"global_pool": "avg", "model_args": {"global_pool": "token"}}, "model_args has 'token'"),
    ({"model_args": {"fc_norm": True}}, "fc_norm: the document has True, the arrays have False"),
    ({"model_args": {"pool_include_prefix": True}}, "pool_include_prefix: expected False"),
    ({"model_args": {"pre_norm": True}}, "pre_norm: expected False, got True"),
    ({"model_args": {"attn_layer": "diff"}}, "attn_layer: expected 'attn', got 'diff'"),
    ({"model_args": {"mlp_layer": "swiglu"}}, "mlp_layer: the document has 'swiglu'"),
    ({"model_args": {"norm_layer": "rmsnorm"}}, "norm_layer: expected 'layernorm'"),
    ({"model_args": {"window_sise": 7}}, "window_sise: unknown argument"),
    ({"model_args": {"reg_tokens": 4}}, "reg_tokens: the document has 4, the arrays have 0"),
    ({"model_args": {"class_token": False}}, "class_token: the document has False"),
    ({"model_args": {"qk_norm": True}}, "qk_norm: the document has True, the arrays have False"),
    ({"model_args": {"mlp_ratio": 3}}, "mlp_ratio: the document has 144, the arrays have 96"),
    ({"num_features": 64}, "num_features: the document has 64, the arrays have 48"),
    ({"num_classes": 9}, "num_classes: the document has 9, the arrays have 5"),
    ({"architecture": "vit_base_patch16_clip_224"}, "is not supported: it has a norm before"),
    ({"architecture": "vit_base_patch16_rope_224"}, "rotary positions"),
    ({"architecture": "resnet50"}, "is not a ViT, DeiT, DINOv2, hybrid or Swin of timm"),
    ({"architecture": "swin_tiny_patch4_window7_224"}, "is a swin; give a --model of this family"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_a_word_that_makes_another_model_is_refused_by_name(words, said, save):
    with pytest.raises(DataError) as error:
        bring_in(save(vit(), {**HUB, **words}))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_other_heads_than_the_documents_are_refused(save):
    folder = save(vit(), {**HUB, "model_args": {"num_heads": 6}})
    with pytest.raises(ConfigError, match=r"--model.num_heads: .* has 6, the model has 3"):
        bring_in(folder)


def test_a_flag_counts_before_the_document_and_a_note_says_so(save):
    folder = save(vit(), {**HUB, "model_args": {"act_layer": "relu"}})
    model, imported = bring_in(folder, **{"model.mlp.activation": "gelu"})
    assert model["mlp.activation"] == "gelu"
    assert any("has mlp.activation=relu; --model.mlp.activation " in n for n in imported.notes)


# --- Preprocessing and classes.

NAMES = ["tench", "crane", "maillot", "cat", "crane"]
APART = ("tench", "crane (1)", "maillot", "cat", "crane (4)")


@pytest.mark.parametrize(
    "document",
    [
        {"architecture": "vit_base_patch16_224", **PREPROCESSING, "labels": NAMES},
        {**HUB, "label_names": NAMES},
        {**HUB, "pretrained_cfg": {**PREPROCESSING, "label_names": NAMES}},
        {**HUB, "label_names": {str(i): name for i, name in enumerate(NAMES)}},
    ],
)
def test_preprocessing_and_names_are_read_wherever_they_stand(document, save):
    _, imported = bring_in(save(vit(), document))
    assert imported.config.data.mean == (0.4, 0.5, 0.6)
    assert imported.class_names == APART


def test_names_of_other_classes_are_left_out_and_a_note_says_so(save):
    _, imported = bring_in(save(vit(), {**HUB, "label_names": NAMES[:3]}))
    assert imported.class_names == ()
    assert any("3 names for 5 classes; ignored" in note for note in imported.notes)


@pytest.mark.parametrize("document", [(), ({**HUB, "model_args": ARGS},)], ids=["none", "states"])
def test_a_number_of_heads_that_nothing_states_is_noted(document, save):
    _, imported = bring_in(save(vit(), *document))
    noted = "the arrays do not show the number of heads; check --model.num_heads"
    assert (noted in imported.notes) == (not document)


def test_channels_are_those_of_the_file(save):
    arrays = vit(**{"patch_embed.proj.weight": (WIDTH, 1, 8, 8)})
    _, imported = bring_in(save(arrays))
    assert (imported.config.data.channels, imported.config.data.mean) == (1, (0.5,))


# --- Tokens and positions.


@pytest.mark.parametrize(
    ("registers", "rows", "document", "registers_too"),
    [
        (4, 16, False, (False, False)),
        (4, 21, False, (True, True)),
        (4, 16, {"no_embed_class": True, "reg_tokens": 4}, (False, False)),
        (9, 26, False, (True, True)),
        (9, 26, {"reg_tokens": 9}, (True, True)),
    ],
)
def test_positions_of_registers_are_recognised(registers, rows, document, registers_too, save):
    arrays = vit(rows=rows, reg_token=(1, registers, WIDTH))
    folder = save(arrays, {**HUB, "model_args": document} if document else None)
    flags = {"model.num_registers": str(registers)}
    model, imported = bring_in(folder, **flags)
    assert (model["posemb.prefix"], model["posemb.registers"]) == registers_too
    assert imported.config.data.image_size == (32, 32)
    if rows > 16:
        assert imported.params["posemb/prefix"].shape == (1 + registers, WIDTH)


def test_a_size_of_the_user_is_not_overruled_and_a_guess_is_said(save):
    folder = save(vit(rows=9, reg_token=(1, 4, WIDTH)))
    flags = {"model.num_registers": "4"}
    model, imported = bring_in(folder, **flags)
    assert imported.params["posemb/grid"].shape == (3, 3, WIDTH)
    assert any("for 2x2 and 5, give --data.image_size=16,16" in n for n in imported.notes)
    model, imported = bring_in(folder, **flags, **{"data.image_size": "16,16"})
    assert model["posemb.registers"] and imported.params["posemb/grid"].shape == (2, 2, WIDTH)


def test_metas_names_are_read_and_what_has_no_part_is_noted(save):
    more = {"register_tokens": (1, 4, WIDTH), "mask_token": (1, WIDTH), **SCALES}
    more |= {"decoder_blocks.0.norm1.bias": (8,), "decoder_pred.bias": (8,)}
    flags = {"model.num_registers": "4", "model.block.layer_scale": "1"}
    model, imported = bring_in(save(vit(**more)), **flags)
    assert (model["posemb.prefix"], model["posemb.registers"]) == (True, False)
    notes = " ".join(imported.notes)
    assert "mask_token is not part of the model" in notes
    assert "decoder_* (2 arrays) is not part of the model" in notes


def test_a_distilled_model_without_its_teachers_head_is_read(save):
    arrays = vit(rows=18, dist_token=(1, 1, WIDTH))
    model, imported = bring_in(save(arrays), "deit_b8_distilled")
    assert (model["distilled"], model["num_registers"], model["posemb.registers"]) == (
        False,
        1,
        True,
    )
    np.testing.assert_array_equal(imported.params["registers"], arrays["dist_token"][0])
    assert any("no head_dist" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"norm_pre.weight": (WIDTH,)}, "a norm before the blocks"),
        ({"rope.freqs": (2, 3)}, "rotary positions"),
        (
            {"cls_token": None} | {f"blocks.{i}.attn.qkv.bias": None for i in range(2)},
            "norms may come after attention and MLP",
        ),
        ({f"blocks.{i}.norm1.bias": None for i in range(2)}, "norms without biases"),
        ({"norm.weight": None, "norm.bias": None}, "no norm after the blocks"),
    ],
)
def test_other_models_are_refused_with_the_reason(more, said, save):
    with pytest.raises(DataError, match=said):
        bring_in(save(vit(**more)))


def test_attention_may_have_no_biases(save):
    model, _ = bring_in(save(vit(**{f"blocks.{i}.attn.qkv.bias": None for i in range(2)})))
    assert not model["attention.qkv_bias"]


# --- The name of our model.


@pytest.mark.parametrize(
    ("document", "arrays", "name"),
    [
        ({"model_args": ARGS}, {}, "vit_mu8"),
        (
            {"architecture": "vit_small_patch14_dinov2", "model_args": ARGS},
            SCALES,
            "dinov2_mu8",
        ),
        (
            {"architecture": "deit3_small_patch16_224", "model_args": ARGS},
            {**SCALES, "rows": 16},
            "deit3_mu8",
        ),
    ],
)
def test_the_model_is_inferred_from_the_document(document, arrays, name, save):
    model, imported = bring_in(save(vit(**arrays), {**HUB, **document}), "")
    assert (model["name"], model["width"], model["num_heads"]) == (name, 48, 3)
    assert imported.config.data.image_size == (32, 32)


def test_what_is_missing_for_it_is_said(save):
    with pytest.raises(DataError, match="num_heads: unknown for width 48; give --model"):
        bring_in(save(vit(), HUB), "")


def test_without_a_document_the_model_is_asked_for(save):
    with pytest.raises(ConfigError, match="--model: expected the name of a model"):
        bring_in(save(vit()), "")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("vit_base_patch16_224", "vit_b16"),
        ("google/vit-base-patch16-224", "vit_b16"),
        ("facebook/dinov2-with-registers-small", "dinov2_s14_reg4"),
        ("deit_tiny_distilled_patch16_224", "deit_ti16_distilled"),
        ("deit3_large_patch16_224", "deit3_l16"),
        ("microsoft/swinv2-base-patch4-window12to16-192to256", "swinv2_b_w16"),
        ("swin_tiny_patch4_window7_224", "swin_t_w7"),
        ("resnet50", ""),
    ],
)
def test_their_names_are_hints(theirs, ours):
    assert translate(theirs) == ours


def test_the_hint_is_in_the_message(save, tmp_path, capsys):
    argv = ["convert", "--source=timm", f"--input={save(vit(), HUB)}", f"--output={tmp_path / 'o'}"]
    argv.append("--model=vit_base_patch16_224")
    code = cli.run(convert.main, convert._flags(), "", argv, convert.parse_overrides)
    assert code == 64 and "did you mean vit_b16?" in capsys.readouterr().err


# --- The table of names.


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_base_patch32_siglip_256", {"act_layer": "gelu_tanh"}),
        ("vit_large_patch16_siglip_512", {"act_layer": "gelu_tanh"}),
        ("vit_so150m_patch16_reg4_map_256", {"reg_tokens": 4, "global_pool": "map"}),
        ("vit_giant_patch14_reg4_dinov2", {"mlp_layer": "swiglu", "no_embed_class": True}),
        ("swinv2_base_window12to24_192to384", {"pretrained_window_sizes": (12, 12, 12, 6)}),
        ("eva_large_patch14_196", {"global_pool": "avg"}),
    ],
)
def test_names_say_what_arrays_do_not(name, kind):
    assert kind.items() <= architectures.find(name).kind.items()


def test_names_without_such_facts_have_none():
    for name in ("vit_base_patch16_224", "vit_large_patch16_siglip_384", "swinv2_base_window8_256"):
        assert not architectures.find(name).kind.keys() & {"act_layer", "pretrained_window_sizes"}
