"""Every block gives the outputs of the original libraries, in float32 and float64.

The repository has the smallest set of cases that uses every rule. `python -m pytest -m goldens`
reads all cases from the folder VIT_JAX_GOLDENS.
"""

import functools
import os
import pathlib
import re

import flax
import jax
import numpy as np
import pytest
from golden_cases import FIXTURES, Case, cases

from vit_jax import convert, models
from vit_jax.config import flatten
from vit_jax.models.layers.posemb import resample
from vit_jax.weights import adapt, files, rules, swin
from vit_jax.weights.folder import open_weights

DTYPES = ("float32", "float64")
# The cases that also run in float32: between them they have every part of a model, see below.
FLOAT32 = (
    "bv_siglip_scan",
    "google_r26_vit",
    "hf_deit",
    "hf_dinov2_cls",
    "hf_swin_pad",
    "hf_swinv2",
    "timm_dinov2_reg_swiglu",
    "timm_hybrid_r50",
    "timm_swin_pad",
    "timm_swinv2_pretrained_window",
    "timm_vit_gap_cls",
    "timm_vit_map",
    "timm_vit_qknorm",
)


@functools.cache
def load(path):
    """Returns a case and its imported weights."""
    case = Case(path)
    flags = case.model
    return case, convert.import_weights(case.source, case.weights, flags.pop("name"), flags)


COMPILED = {}


def compiled(model):
    """Returns what runs a model and all others with the same fields."""
    key = repr(model)
    if key not in COMPILED:
        run = functools.partial(
            model.apply,
            train=False,
            capture_intermediates=lambda _, method: method == "__call__",
            mutable=["intermediates"],
        )
        COMPILED[key] = jax.jit(run)
    return COMPILED[key]


def results(config, params, images, dtype):
    """Returns all outputs and intermediate values of our model, by name."""
    with jax.enable_x64(dtype == "float64"):
        model = models.create(**{**config.model, "dtype": dtype})
        tree = flax.traverse_util.unflatten_dict(
            {name: jax.numpy.asarray(value, dtype) for name, value in params.items()}, sep="/"
        )
        run = compiled(model)
        output, state = run({"params": tree}, jax.numpy.asarray(images, dtype))
        calls = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
        found = {
            key.removesuffix("/__call__"): value[0] for key, value in calls.items() if "/" in key
        }
        found |= {"tokens": output.tokens, "features": output.features, "logits": output.logits}
        if output.aux_logits:
            (aux_logits,) = output.aux_logits
            found |= {"logits_dist": aux_logits, "logits_cls": 2 * output.logits - aux_logits}
            found["dist_token"] = output.tokens[:, 1]
        return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def check(path, dtype):
    case, imported = load(path)
    found = results(imported.config, imported.params, case.images, dtype)
    assert {"block0", "logits"} & case.outputs.keys()
    for theirs, ours in case.outputs.items():
        expected = case.arrays[theirs]
        off = np.abs(found[ours].reshape(expected.shape) - expected).max()
        assert off <= case.tolerance(theirs, dtype), (theirs, off)


def check_round_trip(path):
    """An export has every name and every byte of the file."""
    case, imported = load(path)
    shapes = {name: array.shape for name, array in imported.params.items()}
    table = rules.Table(case.library.rules, imported.placeholders)
    written, make = rules.export_params(table, shapes, imported.params.__getitem__, "")
    file, _ = open_weights(case.weights)
    with file:
        assert written.keys() | imported.extra_tensors.keys() == file.headers.keys()
        for name in file.headers:
            array = imported.extra_tensors[name] if name in imported.extra_tensors else make(name)
            assert array.shape == file.headers[name].shape
            assert array.tobytes() == file.read(name).tobytes()


@pytest.mark.parametrize("path", cases(), ids=lambda path: path.stem)
def test_outputs_are_those_of_the_library(path):
    check(path, "float64")


@pytest.mark.parametrize("name", FLOAT32)
def test_outputs_in_float32_are_those_of_the_library(name):
    check(FIXTURES / f"{name}.json", "float32")


def facts(path):
    """Returns the fields of a model that are no sizes: its parts, switches and epsilons."""
    _, imported = load(path)
    fields = flatten(imported.config.model)
    del fields["name"]
    return {
        (key, value)
        for key, value in fields.items()
        if isinstance(value, str | bool) or key.endswith("eps")
    }


def test_the_cases_in_float32_have_every_part():
    every = set().union(*map(facts, cases()))
    assert set().union(*(facts(FIXTURES / f"{name}.json") for name in FLOAT32)) == every


@pytest.mark.parametrize("path", cases(), ids=lambda path: path.stem)
def test_import_followed_by_export_is_the_same_bytes(path):
    check_round_trip(path)


TABLES = [
    (family, source) for family in models.FAMILIES for source in models.FAMILIES[family].libraries()
]


@pytest.mark.parametrize(("family", "source"), TABLES)
def test_the_cases_use_every_rule(family, source):
    library = models.FAMILIES[family].libraries()[source]
    used = set()
    for path in cases():
        case, imported = load(path)
        if case.library == library:
            shapes = {name: array.shape for name, array in imported.params.items()}
            for rule in library.rules:
                table = rules.Table((rule,), imported.placeholders)
                if table.bind(shapes) or table.extra_tensors(imported.extra_tensors):
                    used.add(rule)
    missing = set(library.rules) - used
    # No case is a whole ViTModel with a representation layer. Extra tensors come only with old
    # files or with other tasks.
    is_vit = (family, source) == ("vit", "huggingface")
    allowed = {"representation/kernel", "representation/bias"} if is_vit else set()
    extra = ("mask_token", "decoder_*", "decoder.0.weight", "decoder.0.bias")
    extra += ("{unused}.weight", "{unused}.bias")
    extra += (*swin.BUFFERS, "attn_mask") if family == "swin" else ()
    missing = {rule for rule in missing if not rule.source.endswith(extra)}
    assert {rule.target for rule in missing} <= allowed


def test_positions_resampled_at_import_or_in_the_model_are_those_of_google():
    path = next(path for path in cases() if path.stem == "google_resize_up")
    case = Case(path)
    expected = case.arrays["pos_embedding_resized"][0]
    tolerance = 1e-6
    flags = {**case.model, "data.image_size": "48,48"}
    imported = convert.import_weights(case.source, case.weights, flags.pop("name"), flags)
    assert any("resampled from 4x4 to 6x6" in note for note in imported.notes)
    grid = imported.params["posemb/grid"].reshape(36, -1)
    np.testing.assert_allclose(grid, expected[1:], atol=tolerance)
    np.testing.assert_array_equal(imported.params["posemb/prefix"], expected[:1])
    logits = results(imported.config, imported.params, case.images, "float32")["logits"]
    assert np.abs(logits - case.arrays["logits"]).max() <= case.tolerance("logits", "float32")


def test_files_of_microsoft_come_in_with_their_buffers_and_go_out_as_they_came(tmp_path):
    case = Case(next(path for path in cases() if path.stem == "timm_swin_eps"))
    arrays = {}
    with files.open_file(case.weights) as file:
        for name in file.headers:
            stage = re.sub(r"layers\.(\d+)\.down", lambda m: f"layers.{int(m[1]) - 1}.down", name)
            arrays[stage.replace("head.fc", "head")] = file.read(name)
    arrays["layers.0.blocks.1.attn_mask"] = np.ones((4, 49, 49), np.float32)
    arrays["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((49, 49), np.int64)
    headers = {name: files.Header(a.shape, a.dtype) for name, a in arrays.items()}
    files.write_file(tmp_path / "swin.safetensors", headers, arrays.__getitem__)
    flags = case.model
    arguments = (tmp_path / "swin.safetensors", flags.pop("name"), flags)
    imported = convert.import_weights("timm", *arguments)
    assert len(imported.extra_tensors) == 2
    logits = results(imported.config, imported.params, case.images, "float32")["logits"]
    assert np.abs(logits - case.arrays["logits"]).max() <= case.tolerance("logits", "float32")
    convert.write_run(imported, "timm", tmp_path / "run")
    convert.export_weights(tmp_path / "run", "timm", tmp_path / "back.safetensors")
    with files.open_file(tmp_path / "back.safetensors") as file:
        assert file.headers.keys() == arrays.keys()
        for name, array in arrays.items():
            assert file.read(name).tobytes() == array.tobytes()


# --- All cases, from elsewhere.

FOLDER = pathlib.Path(os.environ.get("VIT_JAX_GOLDENS", "."))


def all_cases():
    return cases(FOLDER) if "VIT_JAX_GOLDENS" in os.environ else []


@pytest.mark.goldens
def test_there_are_cases_elsewhere():
    assert len(all_cases()) >= 40, "VIT_JAX_GOLDENS: expected the folder of all cases"


@pytest.mark.goldens
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", all_cases(), ids=lambda path: path.stem)
def test_outputs_elsewhere_are_those_of_the_library(path, dtype):
    check(path, dtype)


@pytest.mark.goldens
@pytest.mark.parametrize("path", all_cases(), ids=lambda path: path.stem)
def test_import_followed_by_export_elsewhere_is_the_same_bytes(path):
    check_round_trip(path)


@pytest.mark.goldens
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_new_head_without_the_representation_gives_googles_logits(dtype):
    case, imported = load(FOLDER / "google_21k_head.json")
    arrays = case.arrays
    model = {**imported.config.model, "num_classes": 5}
    shapes = {name: array.shape for name, array in imported.params.items()}
    wanted = {name: shape for name, shape in shapes.items() if "representation" not in name}
    wanted |= {"head/kernel": arrays["new_head_kernel"].shape, "head/bias": (5,)}
    params, notes = adapt.replace_heads(imported.params, wanted)
    assert notes == ("head new (5 outputs)", "representation left out")
    params |= {"head/kernel": arrays["new_head_kernel"], "head/bias": arrays["new_head_bias"]}
    config = imported.config.__class__(model={**model, "representation_size": 0})
    found = results(config, params, case.images, dtype)
    for key in ("features", "logits"):
        assert np.abs(found[key] - arrays[key]).max() <= case.tolerance(key, dtype)


@pytest.mark.goldens
@pytest.mark.parametrize("name", ["google_resize_up", "google_resize_down"])
def test_every_resampled_table_is_that_of_google(name):
    case, imported = load(FOLDER / f"{name}.json")
    side = case.image_size[0] // 8
    grid = resample(jax.numpy.asarray(imported.params["posemb/grid"]), side, side, "spline")
    expected = case.arrays["pos_embedding_resized"][0, 1:]
    np.testing.assert_allclose(grid.reshape(side * side, -1), expected, atol=1e-6)
