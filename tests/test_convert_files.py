"""The convert command on real-world files: precisions, averages, labels and paths."""

import json
import os
import pathlib

import flax
import ml_dtypes
import numpy as np
import pytest
from conftest import TINY
from etils import epath
from golden_cases import FIXTURES, Case
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import convert, predict, train
from vit_jax.checkpoints import from_pretrained
from vit_jax.console import cli
from vit_jax.conversion.plain_copy import plain_copy
from vit_jax.errors import ConfigError
from vit_jax.weights import files
from vit_jax.weights.folder import open_weights

GIVEN = Case(FIXTURES / "timm_vit_eps.json")


def run(capsys, *argv):
    command = ["convert", *map(str, argv)]
    code = cli.run(convert.main, convert._flags(), "", command, convert.parse_overrides)
    return code, *capsys.readouterr()


def read(path):
    file, _ = open_weights(path)
    with file:
        return {name: file.read(name) for name in file.headers}


def write(path, arrays):
    headers = {name: files.Header(a.shape, a.dtype) for name, a in arrays.items()}
    path.parent.mkdir(exist_ok=True)
    files.write_file(path, headers, arrays.__getitem__)
    return path


@pytest.fixture
def arrays():
    """The weights of a tiny ViT under timm's names."""
    return read(GIVEN.weights)


@pytest.fixture
def bring(tmp_path, capsys):
    """Returns a function that imports arrays with flags to `tmp_path/run`."""

    def bring(arrays, *flags, name="w.safetensors"):
        path = write(tmp_path / "in" / name, arrays)
        fields = {**GIVEN.model}
        argv = ["--source=timm", f"--input={path}", f"--model={fields.pop('name')}"]
        argv += [f"--{key}={value}" for key, value in fields.items()]
        return run(capsys, *argv, f"--output={tmp_path / 'run'}", *flags)

    return bring


def head_bias(directory, **options):
    params = from_pretrained(str(directory), **options).variables["params"]
    return np.asarray(flax.traverse_util.flatten_dict(params, sep="/")["head/bias"])


# --- Precision.


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [("float16", ".safetensors"), ("bfloat16", ".npz"), ("float64", ".safetensors")],
)
def test_other_precisions_go_back_as_they_came(dtype, suffix, arrays, bring, tmp_path, capsys):
    given = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    given = {name: a if "norm" in name else a.astype(given) for name, a in arrays.items()}
    code, out, err = bring(given, name=f"w{suffix}")
    assert (code, err) == (0, "") and f"arrays of {dtype} were converted to float32" in out
    back = tmp_path / f"back{suffix}"
    assert run(capsys, "--to=timm", f"--input={tmp_path / 'run'}", f"--output={back}")[0] == 0
    found = read(back)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in given.items()}
    assert all(found[name].tobytes() == given[name].tobytes() for name in given)


def test_what_float32_does_not_hold_is_said(arrays, bring, tmp_path):
    given = {name: a.astype(np.float64) for name, a in arrays.items()}
    given["head.bias"] = given["head.bias"] / 3
    code, out, _ = bring(given)
    assert code == 0 and "1 arrays of float64 were rounded to float32" in out
    origin = json.loads((tmp_path / "run" / "origin.json").read_text())
    assert "head.bias" not in origin["dtypes"] and origin["dtypes"]["norm.bias"] == "float64"


def test_a_precision_that_is_none_is_refused(arrays, bring, tmp_path, capsys):
    assert bring(arrays)[0] == 0
    path = tmp_path / "run" / "origin.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtypes": {"a": "object"}}))
    code, _, err = run(capsys, "--to=timm", f"--input={tmp_path / 'run'}", "--output=x.npz")
    assert code == 65 and "origin.json: dtypes: expected one of float64, float16, bfloat16" in err


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("blocks.0.mlp.fc1.weight", lambda a: a * [np.nan], "is not finite"),
        ("head.bias", lambda a: a * 0 + np.inf, "head.bias is not finite (10 of 10 values)"),
        (
            "head.bias",
            lambda a: a.astype("f8") + 1e300,
            "head.bias has values out of the range of float32",
        ),
        ("head.bias", lambda a: a.astype("i8"), "expected floating-point numbers, got int64"),
        ("extra", lambda _: np.zeros(3, bool), "extra (3) is an unexpected key"),
    ],
)
def test_values_that_are_no_parameters_are_refused(name, change, said, arrays, bring, tmp_path):
    arrays[name] = np.asarray(change(arrays.get(name)))
    if arrays[name].dtype == np.float64 and "1e" not in said and "out of the range" not in said:
        arrays[name] = arrays[name].astype(np.float32)
    code, _, err = bring(arrays)
    assert (code, err.count("\n")) == (65, 1) and said in err and name in err
    assert not (tmp_path / "run").exists()


# --- Which of two sets of weights.


@pytest.mark.parametrize(
    ("flags", "value", "said"),
    [
        ([], 1, "using the average of the weights (ema_model)"),
        (["--weights=ema"], 1, "using the average of the weights (ema_model)"),
        (["--weights=raw"], 0, "using the raw weights (model)"),
    ],
)
def test_the_average_of_a_file_is_taken_and_said(flags, value, said, arrays, bring, tmp_path):
    arrays["head.bias"] *= 0
    both = {f"model.{name}": a for name, a in arrays.items()}
    both |= {f"ema_model.{n}": a + 1 if n == "head.bias" else a for n, a in arrays.items()}
    code, out, _ = bring(both, *flags)
    assert code == 0 and f"note      {said}" in out
    assert (head_bias(tmp_path / "run") == value).all()


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--weights=ema", "--weights: "),
        ("--weights=average", "--weights=average: value should be one of <ema|raw>"),
    ],
)
def test_weights_that_are_not_there_are_a_wrong_flag(flag, said, arrays, bring):
    code, _, err = bring(arrays, flag)
    assert (code, err.count("\n")) == (64, 1) and said in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with an average (`both`), and one without (`raw`)."""
    tree = config_lib.to_config_dict(config_lib.Config())
    base = tmp_path_factory.mktemp("runs")
    for name, decay in (("both", "0.9"), ("raw", "0")):
        grey = {"data.channels": "3", "data.mean": ".5,.5,.5", "data.std": ".2,.2,.2"}
        flags = {**TINY, **grey, "optim.ema_decay": decay, "total_steps": "2"}
        train.train(config_lib.resolve(tree, flags), epath.Path(base / name))
    return base


def test_the_average_of_a_run_goes_out_unless_told_otherwise(trained, tmp_path, capsys):
    biases = {}
    for flag, said in (
        ("", "the average of the weights (EMA); --weights=raw"),
        ("ema", "the average of the weights"),
        ("raw", "the raw weights, not their average"),
    ):
        argv = [
            "--to=timm",
            f"--input={trained / 'both'}",
            *([f"--weights={flag}"] if flag else []),
        ]
        code, out, _ = run(capsys, *argv, f"--output={tmp_path / f'{flag}.npz'}")
        assert code == 0 and f"note      {said}" in out
        biases[flag] = read(tmp_path / f"{flag}.npz")["head.bias"]
        expected = head_bias(trained / "both", weights=flag)
        np.testing.assert_array_equal(biases[flag], expected)
    np.testing.assert_array_equal(biases[""], biases["ema"])
    assert (biases["raw"] != biases["ema"]).any()


def test_a_run_without_an_average_has_its_weights_only(trained, tmp_path, capsys):
    argv = ["--to=timm", f"--input={trained / 'raw'}", f"--output={tmp_path / 'a.npz'}"]
    code, _, err = run(capsys, *argv, "--weights=ema")
    assert code == 64 and "--weights: the run has no average (optim.ema_decay is 0)" in err
    code, out, _ = run(capsys, *argv, "--weights=raw")
    assert code == 0 and "average of" not in out and "their average" not in out
    for make in (from_pretrained, predict.Predictor):
        with pytest.raises(ConfigError, match="--weights: the run has no average"):
            make(str(trained / "raw"), weights="ema")
        with pytest.raises(ConfigError, match="--weights: unknown 'eam'; did you mean 'ema'"):
            make(str(trained / "raw"), weights="eam")


# --- Labels.


def test_labels_of_the_same_name_are_kept_apart(arrays, bring, tmp_path):
    names = ["tench", "crane", *(f"k{i}" for i in range(7)), "crane"]
    (tmp_path / "labels.txt").write_bytes(("\ufeff" + "\r\n".join(names) + "\r\n\r\n").encode())
    code, out, _ = bring(arrays, f"--labels={tmp_path / 'labels.txt'}")
    assert code == 0 and "note      1 name occurs more than once; 'crane' became" in out
    found = from_pretrained(str(tmp_path / "run")).class_names
    assert found == ("tench", "crane (1)", *names[2:9], "crane (9)")


def test_another_number_of_labels_names_both(arrays, bring, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    code, _, err = bring(arrays, f"--labels={tmp_path / 'labels.txt'}")
    assert code == 65 and "2 class names, but the model has 10 classes" in err


# --- Places.


@pytest.mark.parametrize("name", ["vit_base_patch16_224.augreg2_in21k_ft_in1k", "export_v1.0"])
def test_a_folder_may_have_a_dot_in_its_name(name, trained, tmp_path, capsys):
    argv = ["--to=timm", f"--input={trained / 'raw'}", f"--output={tmp_path / 'new' / name}"]
    code, _, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert (tmp_path / "new" / name / "model.safetensors").is_file()
    assert os.listdir(tmp_path / "new") == [name]


@pytest.mark.parametrize(
    ("name", "said"),
    [("w.safetensor", ".safetensors"), ("w.pht", ".pth"), ("w.npy", ".npz"), ("w.pth.tar", ".pth")],
)
def test_a_slip_of_a_suffix_is_refused(name, said, trained, tmp_path, capsys):
    argv = ["--to=timm", f"--input={trained / 'raw'}", f"--output={tmp_path / name}"]
    code, _, err = run(capsys, *argv)
    assert code == 64 and f"did you mean '{said}'?" in err
    assert not os.listdir(tmp_path)


def test_a_home_directory_is_one(arrays, bring, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bring(arrays)[0] == 0
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "--to=timm", "--input=~/run", "--output=~/w.npz")[0] == 0
    assert (tmp_path / "w.npz").is_file() and not pathlib.Path("~").exists()


def test_a_folder_that_looks_temporary_stays(arrays, bring, tmp_path):
    (tmp_path / ".run.tmp").mkdir()
    (tmp_path / ".run.tmp" / "mine").write_text("mine")
    assert bring(arrays)[0] == 0
    assert (tmp_path / ".run.tmp" / "mine").read_text() == "mine"


# --- What the library itself reads, for --check.


def test_a_library_reads_what_was_chosen(arrays, tmp_path):
    plain = write(tmp_path / "in" / "model.safetensors", arrays)
    with plain_copy(plain.parent, "") as path:
        assert path == plain.parent
    both = {f"model.{name}": a for name, a in arrays.items()}
    both |= {f"ema_model.{name}": a + 1 for name, a in arrays.items()}
    write(tmp_path / "both" / "w.safetensors", both)
    (tmp_path / "both" / "config.json").write_text('{"architecture": "vit"}')
    for weights, more in (("", 1), ("raw", 0)):
        with plain_copy(tmp_path / "both" / "w.safetensors", weights) as path:
            found = read(path / "model.safetensors")
            assert found.keys() == arrays.keys()
            np.testing.assert_array_equal(found["head.bias"], arrays["head.bias"] + more)
            assert (path / "config.json").is_file()
    assert not path.exists()


def test_predict_says_its_choice_beside_the_output(trained, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    argv = ["predict", f"--workdir={trained / 'both'}", str(tmp_path / "a.png"), "--json"]
    found = {}
    for weights in ("ema", "raw"):
        command = [*argv, f"--weights={weights}"]
        assert cli.run(predict.main, predict._flags(), "", command, cli.parse_operands) == 0
        out, err = capsys.readouterr()
        assert "weights   the " in err and ("not their average" in err) == (weights == "raw")
        found[weights] = json.loads(out)["predictions"]
    assert found["ema"] != found["raw"]
