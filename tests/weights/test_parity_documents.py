"""Random models of transformers: their documents, `--check`, and fine-tuned runs."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolved
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import convert, models
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.train import train
from vit_jax.weights.huggingface import documents, keys, preprocessing, swin, vit_document

pytestmark = pytest.mark.parity

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {**SIZES, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
DINO = {**SIZES, "mlp_ratio": 2, "image_size": 64, "patch_size": 8}
SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "patch_size": 4, "mlp_ratio": 2.0}
SWIN |= {"image_size": [40, 72], "window_size": 5, "num_labels": 3}
FLAGS = {"model.width": "32", "model.depth": "1", "model.num_heads": "2", "model.mlp_dim": "64"}
SWIN_FLAGS = {"model.width": "16", "model.depths": "2,2", "model.num_heads": "2,4"}
SWIN_FLAGS |= {"model.mlp_ratio": "2"}
PIXELS = {"size": {"height": 32, "width": 32}, "image_mean": [0.4] * 3, "image_std": [0.3] * 3}


def save(folder, model_class, config, processor=None):
    """Saves a random model of transformers, of which no parameter is 0 or 1."""
    import torch
    import transformers

    torch.manual_seed(0)
    made_by = getattr(transformers, model_class)
    model = made_by(made_by.config_class(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if processor is not None:
        (folder / preprocessing.FILE).write_text(json.dumps(processor))
    return folder


def check(capsys, folder, name, output, **flags):
    argv = ["--source=huggingface", f"--input={folder}", f"--model={name}", "--check"]
    argv += [f"--output={output}", *(f"--{key}={value}" for key, value in flags.items())]
    code = cli.run(convert.main, convert._flags(), "", ["convert", *argv], convert.parse_overrides)
    return code, *capsys.readouterr()


# --- The check builds its reference from the document: each misread entry is found.

WRONG = {
    "hidden_act": ("ViTForImageClassification", {**VIT, "hidden_act": "relu"}, "vit_ti8"),
    "layer_norm_eps": ("ViTForImageClassification", {**VIT, "layer_norm_eps": 0.1}, "vit_ti8"),
    "pooler_act": ("ViTModel", {**VIT, "pooler_act": "relu"}, "vit_ti8"),
    "merge_eps": ("SwinForImageClassification", {**SWIN, "layer_norm_eps": 0.1}, "swin_t_w5"),
    "limit": ("SwinForImageClassification", SWIN, "swin_t_w5"),
    "do_rescale": ("ViTForImageClassification", VIT, "vit_ti8"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_check_finds_a_document_that_is_not_honoured(kind, tmp_path, monkeypatch, capsys):
    model_class, config, name = WRONG[kind]
    processor = {**PIXELS, "do_rescale": False} if "ViT" in model_class else None
    folder = save(tmp_path / "theirs", model_class, config, processor)
    flags = SWIN_FLAGS if "swin" in name else FLAGS
    code, out, err = check(capsys, folder, name, tmp_path / "right", **flags)
    assert (code, err.count("Error")) == (0, 0) and "check     outputs differ by at most" in out
    if kind == "limit":
        monkeypatch.setitem(swin.LIMITS, "swin", "each")
    elif kind == "merge_eps":
        monkeypatch.setattr(swin, "MERGE_EPS", 0.1)
    elif kind == "do_rescale":
        stated = preprocessing._read_moments
        ignored = {"do_rescale": True}
        monkeypatch.setattr(
            preprocessing, "_read_moments", lambda d, channels: stated({**d, **ignored}, channels)
        )
    else:
        real = documents.read_activation if kind.endswith("act") else documents.read_number
        default = {kind: keys.DEFAULTS["vit"][kind]}
        monkeypatch.setattr(
            vit_document.hf_documents,
            real.__name__,
            lambda document, *key: real({**document, **default}, *key),
        )
    code, _, err = check(capsys, folder, name, tmp_path / "wrong", **flags)
    assert code == 74 and "nothing was written" in err
    assert not (tmp_path / "wrong").exists()


# --- Processors.

PROCESSORS = {
    "vit": ({}, "vit"),
    "no_rescale": ({"do_rescale": False}, "vit"),
    "factor": ({"rescale_factor": 1 / 127.5}, "vit"),
    "no_normalize": ({"do_normalize": False}, "vit"),
    "bicubic": ({"resample": 3, "size": 32}, "vit"),
    "crop": ({"size": {"shortest_edge": 36}, "crop_size": 32}, "dinov2"),
    "deit": ({"size": 36, "crop_size": 32}, "deit"),
    "convnext": (
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}},
        "vit",
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(name, tmp_path):
    import transformers

    change, model_type = PROCESSORS[name]
    document = {**PIXELS, "resample": 2, **change}
    model_class = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2"}[model_type] + "Model"
    sizes = DINO if model_type == "dinov2" else VIT
    folder = save(tmp_path / "theirs", model_class, sizes, document)
    ours = {"vit": "vit_ti8", "deit": "deit_ti8_distilled", "dinov2": "dinov2_ti8"}[model_type]
    imported = convert.import_weights("huggingface", folder, ours, FLAGS)
    convert.write_run(imported, "huggingface", tmp_path / "run")
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((80, 80))
    given = Image.fromarray(np.asarray(smooth))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = processor(given, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    found = np.asarray(from_pretrained(str(tmp_path / "run")).preprocess([np.asarray(given)]))
    assert found.shape == expected.shape
    step = 1 / 255 / min(imported.config.data.std)  # of a pixel's value
    assert np.abs(found - expected).max() <= 2.01 * step


def test_dinov2_is_run_on_the_images_of_its_processor(tmp_path, capsys):
    crop = {**PIXELS, "size": {"shortest_edge": 36}, "crop_size": 32}
    config = {**DINO, "num_labels": 3}
    folder = save(tmp_path / "theirs", "Dinov2ForImageClassification", config, crop)
    code, out, _ = check(capsys, folder, "dinov2_ti8", tmp_path / "run", **FLAGS)
    assert code == 0 and "the run uses 32x32" in out and "resampled from 8x8 to 4x4" in out


# --- Runs that were fine-tuned here, opened by transformers.

SOURCES = {
    "vit": ("ViTModel", {**VIT, "qkv_bias": False}, "vit_ti8", {}),
    "deit_one_head": ("DeiTModel", VIT, "deit_ti8_distilled", {}),
    "deit": (
        "DeiTForImageClassificationWithTeacher",
        {**VIT, "num_labels": 3},
        "deit_ti8_distilled",
        {},
    ),
    "dinov2": ("Dinov2Model", DINO, "dinov2_ti8", {"data.image_size": "40,40"}),
    "dinov2_both_pools": (
        "Dinov2WithRegistersForImageClassification",
        {**DINO, "num_labels": 3, "num_register_tokens": 2},
        "dinov2_ti8_reg4",
        {"objective.loss": "sigmoid"},
    ),
    "dinov2_one_channel": ("Dinov2Model", {**DINO, "num_channels": 1}, "dinov2_ti8", {}),
    "swin": ("SwinForImageClassification", SWIN, "swin_t_w5", {}),
    "swinv2": ("Swinv2Model", {**SWIN, "image_size": 40}, "swinv2_t_w5", {}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_fine_tuned_run_is_opened_by_transformers_with_the_same_logits(name, tmp_path):
    import torch
    import transformers

    model_class, config, ours, flags = SOURCES[name]
    folder = save(tmp_path / "theirs", model_class, config)
    sizes = SWIN_FLAGS if "swin" in ours else FLAGS
    imported = convert.import_weights("huggingface", folder, ours, sizes)
    convert.write_run(imported, "huggingface", tmp_path / "source")
    given = {
        "init_from": str(tmp_path / "source"),
        "model.num_classes": "4",
        "data.name": "synthetic",
        "data.synthetic.num_classes": "4",
        "data.synthetic.train_examples": "16",
        "data.synthetic.test_examples": "8",
        "data.threads": "1",
        "batch_size": "8",
        "total_steps": "2",
        "optim.learning_rate": "0.01",
        "log.tensorboard": "false",
        **flags,
    }
    made = config_lib.resolve(None, given).config
    train(resolved(made), epath.Path(tmp_path / "run"))
    convert.export_weights(tmp_path / "run", "huggingface", tmp_path / "out")
    run = from_pretrained(str(tmp_path / "run"))
    images = np.random.default_rng(0).normal(size=(2, *made.data.image_shape)).astype(np.float32)
    expected = np.asarray(models.forward(run.model, run.variables, jnp.asarray(images)).logits)
    opened, loading = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    # DINOv2 with registers always has one in memory, for the pre-training.
    assert all(key.endswith("mask_token") for key in loading["missing_keys"])
    assert not loading["unexpected_keys"]
    with torch.inference_mode():
        logits = opened.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-5)
    multi = flags.get("objective.loss") == "sigmoid"
    kind = "multi_label_classification" if multi else "single_label_classification"
    assert opened.config.problem_type == kind
