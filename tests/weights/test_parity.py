"""Random models of transformers give the same outputs after import and after export."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from vit_jax import config as config_lib
from vit_jax import convert, models
from vit_jax.console import cli
from vit_jax.weights import files

pytestmark = pytest.mark.parity

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {**SIZES, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
DINO = {**SIZES, "mlp_ratio": 2, "image_size": 42, "patch_size": 14}
MODEL_FLAGS = {
    "model.width": "32",
    "model.depth": "2",
    "model.num_heads": "2",
    "model.mlp_dim": "64",
}
SWIN = {
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "image_size": 32,
    "patch_size": 4,
}
SWIN_FLAGS = {
    "model.width": "16",
    "model.depths": "2,2",
    "model.num_heads": "2,4",
    "model.attention.window": "4,4",
    "model.mlp_ratio": "2",
}
SWIGLU_FLAGS = {"model.mlp.name": "swiglu", "model.mlp_dim": "88"}


class Live(NamedTuple):
    """A model of transformers, and ours."""

    model: str  # the name of its class, without what its task adds
    task: str
    config: dict  # fields of its config
    name: str  # ours
    flags: Mapping[str, str] = MappingProxyType({})

    @property
    def model_class(self):
        return f"{self.model}{self.task}"


CLASSIFIER = "ForImageClassification"
CASES = {
    "vit": Live("ViT", CLASSIFIER, {**PLAIN, "num_labels": 5}, "vit_ti8"),
    "vit_relu": Live(
        "ViT",
        CLASSIFIER,
        {**PLAIN, "num_labels": 5, "hidden_act": "relu", "layer_norm_eps": 1e-3},
        "vit_ti8",
    ),
    "vit_pooler": Live("ViT", "Model", {**PLAIN, "pooler_output_size": 24}, "vit_ti8"),
    "vit_gelu_tanh_rect": Live(
        "ViT",
        CLASSIFIER,
        {**PLAIN, "num_labels": 5, "hidden_act": "gelu_pytorch_tanh", "image_size": [32, 48]},
        "vit_ti8",
    ),
    "deit": Live(
        "DeiT", f"{CLASSIFIER}WithTeacher", {**PLAIN, "num_labels": 5}, "deit_ti8_distilled"
    ),
    "dinov2": Live("Dinov2", "Model", DINO, "dinov2_ti14"),
    "dinov2_classes": Live("Dinov2", CLASSIFIER, {**DINO, "num_labels": 5}, "dinov2_ti14"),
    "dinov2_swiglu": Live(
        "Dinov2",
        "Model",
        {**DINO, "use_swiglu_ffn": True, "mlp_ratio": 4},
        "dinov2_ti14",
        SWIGLU_FLAGS,
    ),
    "dinov2_registers": Live(
        "Dinov2WithRegisters",
        CLASSIFIER,
        {**DINO, "num_labels": 5, "num_register_tokens": 3},
        "dinov2_ti14",
        {"model.num_registers": "3"},
    ),
    "swin": Live("Swin", CLASSIFIER, {**SWIN, "num_labels": 5}, "swin_t_w7"),
    "swin_features": Live("Swin", "Model", {**SWIN, "image_size": 48}, "swin_t_w7"),
    "swin_rect": Live(
        "Swin", CLASSIFIER, {**SWIN, "num_labels": 5, "image_size": [44, 52]}, "swin_t_w7"
    ),
    "swinv2": Live(
        "Swinv2",
        CLASSIFIER,
        {**SWIN, "num_labels": 5, "pretrained_window_sizes": [3, 3]},
        "swinv2_t_w8",
    ),
    "swinv2_pad": Live(
        "Swinv2", CLASSIFIER, {**SWIN, "num_labels": 5, "image_size": 44}, "swinv2_t_w8"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """transformers and torch warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns a function from a case to the folder of a random model, and its name and flags."""
    base = tmp_path_factory.mktemp("transformers")

    def make(name):
        import torch
        import transformers

        live = CASES[name]
        if not (base / name).exists():
            torch.manual_seed(0)
            config = getattr(transformers, f"{live.model}Config")(**live.config)
            model = getattr(transformers, live.model_class)(config)
            with torch.no_grad():
                for parameter in model.parameters():  # also those that are 0 or 1 at first
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(base / name)
        sizes = SWIN_FLAGS if live.name.startswith("swin") else MODEL_FLAGS
        return base / name, live.name, {**sizes, **live.flags}

    return make


def theirs(folder, name, images, **kwargs):
    """The output of transformers: logits, or pooled features."""
    import torch
    import transformers

    model = getattr(transformers, CASES[name].model_class).from_pretrained(folder).eval()
    with torch.inference_mode():
        output = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **kwargs)
    return (output.logits if "num_labels" in CASES[name].config else output.pooler_output).numpy()


def ours(config, params, images):
    tree = flax.traverse_util.unflatten_dict(params, sep="/")
    model = models.create(**config.model)
    forward = jax.jit(lambda p, x: models.forward(model, {"params": p}, x))
    output = forward(tree, jnp.asarray(images))
    return np.asarray(output.logits if config.model["num_classes"] else output.features)


def random_images(size):
    return np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_live_models_agree_and_come_back(name, saved, tmp_path):
    folder, model, flags = saved(name)
    imported = convert.import_weights("huggingface", folder, model, flags)
    images = random_images(imported.config.data.image_size)
    expected = theirs(folder, name, images)
    np.testing.assert_allclose(
        ours(imported.config, imported.params, images), expected, atol=1e-5, rtol=1e-5
    )
    convert.write_run(imported, "huggingface", tmp_path / "run")
    convert.export_weights(tmp_path / "run", "huggingface", tmp_path / "back")
    np.testing.assert_array_equal(theirs(tmp_path / "back", name, images), expected)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2_classes", "dinov2_registers"])
@pytest.mark.parametrize("factor", [2, 0.5, (2, 1)])
def test_live_models_agree_at_other_sizes(name, factor, saved):
    folder, model, flags = saved(name)
    imported = convert.import_weights("huggingface", folder, model, flags)
    side = imported.config.data.image_size[0]
    cell = 14 if name.startswith("dinov2") else 8
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    images = random_images([round(side * f / cell) * cell for f in factors])
    kwargs = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    expected = theirs(folder, name, images, **kwargs)
    found = ours(imported.config, imported.params, images)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", ["google", "timm"])
def test_weights_from_elsewhere_load_in_transformers(source, tmp_path):
    from golden_cases import FIXTURES, Case

    names = {"google": "google_vit_token_linen.json", "timm": "timm_vit_eps.json"}
    given = Case(FIXTURES / names[source])
    flags = given.model
    imported = convert.import_weights(given.source, given.weights, flags.pop("name"), flags)
    convert.write_run(imported, given.source, tmp_path / "run")
    convert.export_weights(tmp_path / "run", "huggingface", tmp_path / "out")
    images = np.ascontiguousarray(given.images)
    import torch
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()
    off = np.abs(logits - given.arrays["logits"]).max()
    assert off <= given.tolerance("logits", "float32")


def check(capsys, *argv):
    code = cli.run(convert.main, convert._flags(), "", ["convert", *argv], convert.parse_overrides)
    return code, *capsys.readouterr()


def arguments(saved, name, output):
    folder, model, flags = saved(name)
    fields = [f"--{key}={value}" for key, value in flags.items()]
    common = ["--source=huggingface", f"--input={folder}", f"--model={model}", *fields, "--check"]
    return [*common, f"--output={output}"]


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_the_check_finds_the_same_outputs(name, saved, tmp_path, capsys):
    code, out, _ = check(capsys, *arguments(saved, name, tmp_path / "run"))
    assert code == 0 and "check     outputs differ by at most" in out
    assert (tmp_path / "run" / "config.json").is_file()


def test_the_check_finds_other_outputs_and_nothing_is_written(saved, tmp_path, capsys):
    argv = arguments(saved, "vit", tmp_path / "run")
    code, _, err = check(capsys, *argv, "--model.mlp.activation=relu")
    assert code == 74 and "the outputs differ from those of huggingface; nothing was written" in err
    assert not (tmp_path / "run").exists()


def test_torch_files_come_in_and_go_out(tmp_path):
    import torch
    from golden_cases import FIXTURES, Case

    given = Case(FIXTURES / "timm_deit_distilled.json")
    with files.open_file(given.weights) as file:
        tensors = {name: torch.from_numpy(file.read(name)) for name in file.headers}
    torch.save({"model": tensors}, tmp_path / "w.pth")
    flags = given.model
    imported = convert.import_weights("timm", tmp_path / "w.pth", flags.pop("name"), flags)
    convert.write_run(imported, "timm", tmp_path / "run")
    convert.export_weights(tmp_path / "run", "timm", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert config_lib.read_config(epath.Path(tmp_path / "run")).model["distilled"]


def test_a_torch_file_with_more_than_tensors_is_refused_and_not_run(tmp_path, capsys):
    import torch

    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self):
            return sentinel.write_text, ("run",)

    torch.save({"w": Evil()}, tmp_path / "w.pth")
    argv = ["--source=timm", f"--input={tmp_path / 'w.pth'}", "--model=vit_ti16"]
    code, _, err = check(capsys, *argv, f"--output={tmp_path / 'run'}")
    assert (code, err.count("\n")) == (65, 1)
    assert "no code in it was run" in err
    assert not sentinel.exists() and not (tmp_path / "run").exists()
