"""Random models of timm 1.0.31 against their documents."""

import dataclasses
import json

import pytest
from compiled_models import shared_shapes  # noqa: F401 - a fixture
from timm_models import import_timm

from vit_jax import config as config_lib
from vit_jax import convert, models
from vit_jax.conversion import importing
from vit_jax.errors import CheckpointError, DataError
from vit_jax.weights import reference
from vit_jax.weights.timm import architectures, arguments, vit

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("shared_shapes")]


@pytest.fixture(scope="module")
def timm():
    """timm, without torchvision; on one thread, as its threads would mostly wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield import_timm()
    torch.set_num_threads(before)


VIT_ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SWIN_ARGS = {"img_size": 64, "embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [2, 4, 4, 8]}
CASES = {
    "plain": ("vit_base_patch16_224", {}),
    "relu": ("vit_base_patch16_224", {"act_layer": "relu"}),
    "average_after_the_norm": ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "token_before_the_norm": ("vit_base_patch16_224", {"fc_norm": True}),
    "tanh_by_name": ("vit_so400m_patch16_siglip_256", {}),
    "registers_with_positions": ("vit_base_patch16_224", {"reg_tokens": 3}),
    "registers_and_the_attention_pool": ("vit_so150m_patch16_reg4_map_256", {}),
    "class_token_and_attention_pool": ("vit_base_patch16_224", {"global_pool": "map"}),
    "registers_without": ("vit_small_patch14_reg4_dinov2", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "scales_and_no_position": ("deit3_small_patch16_224", {}),
    "qk_norm": ("vit_base_patch16_224", {"qk_norm": True, "mlp_ratio": 2.6, "in_chans": 1}),
    "hybrid": ("vit_tiny_r_s16_p8_224", {"patch_size": 2}),
    "swiglu": ("vit_giant_patch14_dinov2", {}),
    "swin": ("swin_tiny_patch4_window7_224", {"window_size": 4}),
    "pretrained_windows_by_name": (
        "swinv2_base_window12to16_192to256",
        {"window_size": 8},
    ),
}


@pytest.fixture(scope="module")
def save(timm, tmp_path_factory):
    """Returns a function from a case to the folder of a random model, as timm writes it."""
    import torch

    base = tmp_path_factory.mktemp("timm")

    def write(name):
        folder = base / name
        if folder.exists():
            return folder
        architecture, more = CASES[name]
        sizes = SWIN_ARGS if architecture.startswith("swin") else VIT_ARGS
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=5, **{**sizes, **more})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        channels = more.get("in_chans", 3)
        document = {
            "architecture": architecture,
            "num_classes": 5,
            "num_features": model.num_features,
            "model_args": {**sizes, **more},
            "pretrained_cfg": {
                "input_size": [channels, *[sizes["img_size"]] * 2],
                "interpolation": "bicubic",
                "crop_pct": 0.875,
                "mean": [0.5] * channels,
                "std": [0.25] * channels,
            },
            "label_names": list("abcde"),
        }
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(document))
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        return folder

    return write


def check(imported, folder):
    """Compares with timm's own model; raises if the outputs differ."""
    original = reference.find_original(
        models.family(imported.config.model["name"]).libraries()["timm"], "timm"
    )
    convert._check_outputs(imported, folder, "timm", original)


@pytest.mark.parametrize("name", CASES)
def test_live_models_are_inferred_and_keep_every_fact_there_and_back(name, save, tmp_path):
    folder = save(name)
    imported = convert.import_weights("timm", folder, "", {})
    convert.write_run(imported, "timm", tmp_path / "run")
    assert not convert.export_weights(tmp_path / "run", "timm", tmp_path / "back")
    back = convert.import_weights("timm", tmp_path / "back", "", {})
    ours, again = (config_lib.flatten(i.config.model) for i in (imported, back))
    free = {"name", "block.layer_scale"}  # another series, and an initial value
    assert {k: v for k, v in ours.items() if k not in free} == {
        k: v for k, v in again.items() if k not in free
    }
    assert back.class_names == imported.class_names == tuple("abcde")
    assert config_lib.as_dict(back.config.data) == config_lib.as_dict(imported.config.data)
    check(back, tmp_path / "back")


SILENT = {
    "relu": {"mlp.activation": "gelu"},
    "tanh_by_name": {"mlp.activation": "gelu", "pool.activation": "gelu"},
    "average_after_the_norm": {"pool.name": "cls", "keep_class_token": False},
    "pretrained_windows_by_name": {"posemb.pretrained_window": ()},
    "plain": {"num_heads": 6},
}


@pytest.mark.parametrize("name", SILENT)
def test_the_check_finds_what_a_reading_of_the_document_leaves_out(name, save, monkeypatch):
    folder = save(name)
    find = importing.find_library

    def find_library(*args):
        library = find(*args)

        def wrong(*given):
            spec = library.describe(*given)
            sizes = {k: v for k, v in spec.sizes.items() if k not in SILENT[name]}
            return dataclasses.replace(spec, fields={**spec.fields, **SILENT[name]}, sizes=sizes)

        return dataclasses.replace(library, describe=wrong)

    monkeypatch.setattr(importing, "find_library", find_library)
    imported = convert.import_weights("timm", folder, "", {})
    with pytest.raises(CheckpointError, match="outputs differ from those of timm; nothing"):
        check(imported, folder)


def test_the_attention_pool_of_every_token_is_found(save, monkeypatch):
    from vit_jax.models.layers.pools import MultiheadAttention

    folder = save("registers_and_the_attention_pool")
    imported = convert.import_weights("timm", folder, "", {})
    call = MultiheadAttention.__call__
    monkeypatch.setattr(
        MultiheadAttention,
        "__call__",
        lambda self, tokens, num_prefix, *, train: call(self, tokens, 0, train=train),
    )
    with pytest.raises(CheckpointError, match="the outputs differ from those of"):
        check(imported, folder)


# --- The names of timm's registry.

STATED = {**vit.DEFAULTS, "act_layer": None, "fc_norm": None, "pretrained_window_sizes": None}
MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid")
MODULES += ("swin_transformer", "swin_transformer_v2")


def constructions(timm, monkeypatch):
    """Returns the arguments with which timm constructs each of its models, by name."""
    import torch
    from timm.models import _registry, deit, swin_transformer, swin_transformer_v2
    from timm.models import vision_transformer as plain

    class MadeError(Exception):
        pass

    def stop(self, *args, **kwargs):
        raise MadeError(type(self).__name__, kwargs)

    for made in (
        deit.VisionTransformerDistilled,
        plain.VisionTransformer,
        swin_transformer.SwinTransformer,
        swin_transformer_v2.SwinTransformerV2,
    ):
        monkeypatch.setattr(made, "__init__", stop)
    found = {}
    for module in MODULES:
        for name in _registry._module_to_models[module]:
            try:
                with torch.device("meta"):
                    timm.create_model(name)
            except MadeError as error:
                found[name] = error.args
            except RuntimeError:  # an old name, whose tag no longer exists
                continue
    return found


@pytest.mark.filterwarnings("ignore")
def test_every_name_of_timm_says_what_its_constructor_gets_or_is_refused(timm, monkeypatch):
    found = constructions(timm, monkeypatch)
    assert len(found) > 150
    known = 0
    for name, (made, given) in found.items():
        given = {k: v for k, v in given.items() if v is not None}
        unusual = [
            key
            for key, usual in arguments.SUPPORTED_VALUES.items()
            if given.get(key, usual[0]) not in (*usual, None)
        ]
        try:
            named = architectures.find(name)
        except DataError:
            continue
        known += 1
        assert not unusual and not given.keys() & {"block_fn", "norm_layer"}, name
        given["distilled"] = made == "VisionTransformerDistilled"
        given["mlp_layer"] = "swiglu" if "mlp_layer" in given else "mlp"
        if not isinstance(given.get("act_layer", ""), str):
            given["act_layer"] = "silu"
        ours = {**STATED, **named.kind}
        theirs = {key: given.get(key, usual) for key, usual in STATED.items()}
        if named.family == "swin":
            assert ours["pretrained_window_sizes"] == theirs["pretrained_window_sizes"], name
        else:
            assert ours == theirs, name
        for key, value in named.sizes.items():
            assert given[key] == value, (name, key)
    assert known > 100
