"""Tensors are read from torch's files of any training script, and no code is executed."""

import argparse
import collections
import datetime
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from small_weights import Trap, read_all, same, write, write_zip

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.files import open_file
from vit_jax.weights.files import torch as torch_files

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:torch.quantize")]
torch = pytest.importorskip("torch")

RAW = {"a": torch.zeros(2, 3), "b": torch.zeros(3)}
EMA = {name: tensor + 1 for name, tensor in RAW.items()}


def save(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    """Whether a file has the format of torch before 1.6."""
    return request.param


@pytest.mark.parametrize("name", ["w.bin", "w.pth.tar", "w.ckpt", "w.th", "w.pt", "w", "w.v2"])
def test_files_are_exchanged_with_torch_under_any_name(tmp_path, legacy, name):
    rng = np.random.default_rng(0)
    arrays = {
        "z/kernel": rng.normal(size=(3, 5)).astype(np.float32),
        "half": rng.normal(size=(7,)).astype(np.float16),
        "scalar": np.array(1.5, np.float32),
        "double": rng.normal(size=(3,)),
        "table": np.arange(6, dtype=np.int32).reshape(2, 3),
        "mask": np.array([True, False]),
        "empty": np.zeros((4, 0, 2), np.float32),
    }
    state = torch.load(write(tmp_path / "ours.pth", arrays), weights_only=True)
    assert list(state) == list(arrays)
    state["view"] = torch.nn.Parameter(state["z/kernel"]).T  # of the same storage
    state["brain"] = state["half"].to(torch.bfloat16)
    found = read_all(save(tmp_path / name, {"state_dict": state, "best": "yes"}, legacy))
    assert all(same(found[name], array) for name, array in arrays.items())
    assert same(found["view"], arrays["z/kernel"].T.copy())
    assert found["brain"].dtype.name == "bfloat16"


# Replaces yacs's dictionary of settings.
Settings = type("CfgNode", (dict,), {"__module__": "yacs.config"})


def settings():
    made = Settings(lr=1e-3, nested=Settings(depth=2))
    made.__dict__["__immutable__"] = False
    return made


def beside():
    """Entries that training scripts save beside the weights."""
    tensor = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([tensor])
    tensor.sum().backward()
    optimizer.step()
    return {
        "args": argparse.Namespace(lr=1e-3, out=pathlib.Path("out"), device=torch.device("cpu")),
        "epoch": 3,
        "best_acc1": torch.tensor(71.5),
        "best": np.float64(71.5),
        "last": np.array([1.0, 2.0]),
        "optimizer": optimizer.state_dict(),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "recent": collections.deque([1, 2]),
        "options": types.SimpleNamespace(a=1),
        "date": datetime.datetime(2024, 1, 1),
        "rng": torch.get_rng_state(),
        "config": settings(),
    }


def test_what_training_keeps_beside_the_weights_is_passed_over(tmp_path, legacy, monkeypatch):
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = Settings
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    path = save(tmp_path / "a.pth", {**beside(), "model": RAW}, legacy)
    monkeypatch.undo()
    assert read_all(path).keys() == RAW.keys()


@pytest.mark.parametrize(
    ("content", "weights", "said"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA}, "", "using the average .*state_dict_ema"),
        ({"model": RAW, "model_ema": EMA, "epoch": 1}, "", "using the average .*model_ema"),
        ({"model": RAW, "model_ema": EMA}, "raw", "using the raw weights .model."),
        ({"model": RAW, "model_ema": None}, "", ""),
        ({"model": RAW, "modelEMA": 3, "avg_model": EMA}, "", "using the average .*avg_model"),
        ({"model": RAW, "model_ema": {}}, "", ""),
        ({"params": RAW, "params_ema": EMA}, "ema", "using the average .*params_ema"),
        ({"net": RAW, "ema": {"module": EMA, "decay": 0.9}}, "", "using the average .*ema.module"),
        ({"ema_state_dict": EMA}, "", "the weights are an average .ema_state_dict."),
        ({"student": RAW, "teacher": EMA, "dino_loss": {"c": EMA["b"]}}, "", "average .*teacher"),
        ({"student": RAW, "teacher": EMA}, "raw", "using the raw weights .student."),
        ({"encoder": RAW, "target_encoder": EMA, "predictor": RAW}, "", "average .*target_encoder"),
        ({"model": {"state_dict": RAW}}, "", ""),
        ({"model_state_dict": RAW, "optimizer_state_dict": {"state": RAW}}, "", ""),
        ({"mine": RAW, "epoch": 3}, "", ""),
        ({"model": RAW, "discriminator": EMA}, "", "in model; ignored: discriminator"),
        (RAW, "raw", ""),
    ],
)
def test_one_set_of_weights_is_taken_and_said(tmp_path, content, weights, said):
    with open_file(save(tmp_path / "a.pth", content), weights) as file:
        notes = " ".join(file.notes)
        average = "average (" in notes or "average of the weights (" in notes
        assert file.read("b").tobytes() == (EMA if average else RAW)["b"].numpy().tobytes()
        assert file.kind == ("ema" if average else "raw" if weights == "raw" and said else "")
    assert len(file.notes) == bool(said)
    if said:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(file.notes[0])


@pytest.mark.parametrize(
    ("content", "weights", "error", "said"),
    [
        ({"state_dict_ema": EMA}, "raw", ConfigError, "--weights: .*only an average"),
        ({"model": RAW, "state_dict": EMA}, "", DataError, "several sets of weights .model, state"),
        ({"backbone": RAW, "head": EMA}, "", DataError, "several sets of weights .backbone, head."),
        ({"one": RAW, "two": EMA}, "", DataError, "several sets of weights .one, two."),
        ({"epoch": 3, "lr": 0.1}, "", DataError, "has no tensors by name, only epoch, lr"),
        ({}, "", DataError, "has no tensors by name, only an empty mapping"),
        ([RAW["a"]], "", DataError, "expected tensors by name, got list"),
        ({**RAW, "step": 3, "names": ["x"]}, "", DataError, "by name; step is int, names is list"),
        ({1: RAW["a"]}, "", DataError, "1 is named by a int"),
        ({"a": RAW["a"].to_sparse()}, "", DataError, "a is sparse"),
        ({"a": RAW["a"].to("meta")}, "", DataError, "a is without values .on the device meta"),
        ({"a": RAW["a"].new_zeros(1).expand(10**15)}, "", DataError, "larger than its stored"),
        ({"a": RAW["a"].to(torch.complex64)}, "", DataError, "a is torch.complex64"),
        ({"a": RAW["a"].to(torch.float8_e4m3fn)}, "", DataError, "a is torch.float8_e4m3fn"),
        (torch.nn.Linear(2, 3), "", DataError, "contains torch.nn.modules.linear.Linear, not only"),
        ({"model": torch.nn.Linear(2, 3)}, "", DataError, "save only its state dict"),
    ],
)
def test_what_is_not_clear_or_no_tensors_is_refused(tmp_path, content, weights, error, said):
    path = save(tmp_path / "a.pt", content)
    with pytest.raises(error, match=said) as raised:
        open_file(path, weights)
    assert "\n" not in str(raised.value)


def test_quantized_tensors_are_named(tmp_path):
    tensor = torch.quantize_per_tensor(RAW["a"], 0.1, 0, torch.qint8)
    with pytest.raises(DataError, match="a is quantized"):
        open_file(save(tmp_path / "a.pt", {"a": tensor}))


def test_objects_are_not_made(tmp_path, legacy):
    mark = tmp_path / "mark"
    path = tmp_path / "a.pth"
    for content in ({"a": RAW["a"], "b": Trap(mark)}, {"args": Trap(mark), "model": RAW}):
        save(path, content, legacy)
        problem = r"a\.pth: contains (posix|nt)\.mkdir, not only weights; no code in it was run"
        with pytest.raises(DataError, match=problem):
            open_file(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(DataError, match="no code in it was run"):
        open_file(path)
    assert not mark.exists()
    save(path, content)
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_names_of_settings_run_nothing_either(tmp_path):
    """A file names a known class, and another one of that name is importable."""
    mark = tmp_path / "mark"
    objects = pickle.dumps(argparse.Namespace(a=1), protocol=2)
    assert b"argparse\nNamespace" in objects
    for name in (b"yacs.config\nCfgNode", b"pathlib\nPath", b"numpy\nndarray"):
        called = b"\x80\x02c" + name + b"\n(X" + len(str(mark)).to_bytes(4, "little")
        path = repack(tmp_path, called + str(mark).encode() + b"tR.")
        with pytest.raises(DataError):
            open_file(path)
    assert not mark.exists()


def repack(tmp_path, objects):
    """Returns a file of torch with other objects."""
    good = save(tmp_path / "good.pth", RAW)
    with zipfile.ZipFile(good) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    members = [(n, objects if n.endswith("data.pkl") else content) for n, content in members]
    return write_zip(tmp_path / "a.pth", members)


def test_objects_that_would_grow_are_refused(tmp_path, monkeypatch, legacy):
    path = tmp_path / "a.pth"
    grows = b"\x80\x02c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R."  # two gigabytes
    if legacy:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + grows)
    else:
        repack(tmp_path, grows)
    with pytest.raises(DataError, match="contains bytearray, not only weights"):
        open_file(path)
    save(path, {"many": [collections.OrderedDict() for _ in range(300)], "model": RAW}, legacy)
    assert read_all(path).keys() == RAW.keys()
    for limit in ("MAX_OBJECT_BYTES", "MAX_SLOW_OPCODES"):
        with monkeypatch.context() as patch:
            patch.setattr(torch_files, limit, 250)
            with pytest.raises(DataError, match="far more objects than weights need"):
                open_file(path)


def test_other_archives_are_named(tmp_path):
    path = tmp_path / "a.pt"
    script = [("a/data.pkl", b"1"), ("a/constants.pkl", b"2"), ("a/code/a.py", b"3")]
    with pytest.raises(DataError, match="a TorchScript program, not weights"):
        open_file(write_zip(path, script))
    with pytest.raises(DataError, match=r"not a file of torch\.save; it has no data\.pkl"):
        open_file(write_zip(path, [("x", b"1")]))
    save(path, RAW)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with pytest.raises(DataError, match="its compression is not supported"):
        open_file(write_zip(path, members, zipfile.ZIP_DEFLATED))
