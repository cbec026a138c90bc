"""The weight files of a folder are found, and an ambiguous folder is refused."""

import json
import os

import numpy as np
import pytest
from small_weights import write

from vit_jax.errors import DataError, InputMissingError
from vit_jax.weights.finding import find_files
from vit_jax.weights.folder import open_weights

ARRAYS = {name: np.full(2, i, np.float32) for i, name in enumerate("abcd")}


def fill(folder, *names):
    """Writes empty files, and `model-0000N-of-00002.safetensors` with two arrays each."""
    for name in names:
        if "-of-" in name and name.endswith(".safetensors"):
            number = int(name.split("-")[-3])
            keys = list(ARRAYS)[2 * number - 2 : 2 * number]
            write(folder / name, {key: ARRAYS[key] for key in keys})
        else:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"")


def write_index(path, **changes):
    owners = {n: f"model-0000{1 + i // 2}-of-00002.safetensors" for i, n in enumerate(ARRAYS)}
    content = {"metadata": {}, "weight_map": {**owners, **changes}}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("names", "found", "noted"),
    [
        (["model.safetensors"], "model.safetensors", ""),
        (["pytorch_model.bin", "optimizer.pt", "training_args.bin"], "pytorch_model.bin", ""),
        (
            ["pytorch_model.bin", "rng_state_0.pth", "scheduler.pt", "scaler.pt"],
            "pytorch_model.bin",
            "",
        ),
        (["model.safetensors", "model.fp16.safetensors"], "model.safetensors", "model.fp16.safet"),
        (["model.safetensors", "._model.safetensors", ".b.npz"], "model.safetensors", ""),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors", "pytorch_model.bin"),
        (["pytorch_model.bin", "b.safetensors"], "pytorch_model.bin", "b.safetensors"),
        (["model.safetensors", "open_clip_model.safetensors"], "model.safetensors", "open_clip_"),
        (["b.safetensors", "b.bin"], "b.safetensors", "b.bin"),
        (["b.npz", "images.tar", "notes.txt", "config.json"], "b.npz", ""),
        (["model_best.pth.tar", "args.yaml"], "model_best.pth.tar", ""),
        (["last.ckpt"], "last.ckpt", ""),
        (["MODEL.PTH", "OPTIMIZER.PT"], "MODEL.PTH", ""),
    ],
)
def test_the_weights_of_a_folder_are_found(names, found, noted, tmp_path):
    fill(tmp_path, *names)
    result = find_files(tmp_path)
    assert [path.name for path in result.paths] == [found]
    assert bool(result.notes) == bool(noted)
    assert not noted or f"using {found}; ignored: {noted}" in result.notes[0]


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ([], InputMissingError, r"no weights in this folder; expected \.npz"),
        (["._model.safetensors"], InputMissingError, "no weights in this folder"),
        (["optimizer.pt"], InputMissingError, "no weights in this folder"),
        (
            ["tf_model.h5", "flax_model.msgpack"],
            InputMissingError,
            "tf_model.h5 is not supported",
        ),
        (
            ["checkpoint-10/model.safetensors", "checkpoint-20/pytorch_model.bin"],
            InputMissingError,
            "give one of its folders: checkpoint-10, checkpoint-20",
        ),
        (["a.npz", "b.npz"], DataError, r"several weight files \(a\.npz, b\.npz\); name one"),
        (["a.safetensors", "b.safetensors"], DataError, "several weight files"),
        (["last.pth.tar", "model_best.pth.tar"], DataError, "several weight files"),
        (["model_index.json", "x.safetensors"], DataError, "a pipeline of diffusers"),
        (["adapter_config.json", "adapter_model.safetensors"], DataError, "an adapter"),
        (["config.json", "origins.json"], DataError, "a run of vit_jax; --to exports it"),
        (["m-00001-of-00002.safetensors"], DataError, "expected parts 1 to 2 .*; check 2"),
        (
            ["m-00001-of-00002.safetensors", "n-00002-of-00002.safetensors"],
            DataError,
            "parts of several sets",
        ),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(names, error, said, tmp_path):
    fill(tmp_path, *names)
    with pytest.raises(error, match=said) as raised:
        find_files(tmp_path)
    assert "\n" not in str(raised.value)


def test_links_and_other_things_are_no_weights(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").mkdir()
    (tmp_path / "blob").write_bytes(b"")
    (tmp_path / "b.npz").symlink_to("blob")  # as the hub's cache has them
    (tmp_path / "gone.npz").symlink_to("nowhere")
    assert [path.name for path in find_files(tmp_path).paths] == ["b.npz"]


PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.json", "model.safetensors.index.fp16.json", ""]
)
def test_parts_are_joined(index, tmp_path):
    fill(tmp_path, *PARTS)
    if index:
        write_index(tmp_path / index)
    for path in (tmp_path, tmp_path / index):
        file, _ = open_weights(path)
        with file:
            assert all((file.read(name) == array).all() for name, array in ARRAYS.items())
    with pytest.raises(DataError, match="part 1 of 2; give the folder"):
        find_files(tmp_path / PARTS[0])


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"a": "../model.safetensors"}, DataError, "weight_map: expected a file name for each"),
        ({"a": "/etc/x.npz"}, DataError, "weight_map: expected a file name for each"),
        ({"a": ".."}, DataError, "weight_map: expected a file name for each"),
        ({"a": "x\0.npz"}, DataError, "weight_map: expected a file name for each"),
        ({"a": 3}, DataError, "weight_map: expected a file name for each"),
        ({"a": "config.json"}, DataError, "weight_map: expected a file name for each"),
        ({"e": "gone.npz", "f": "too.npz"}, InputMissingError, "2 of 4 files missing: gone.npz"),
        ({"e": PARTS[0]}, DataError, "e is missing, although the index lists it"),
        ({"b": PARTS[1]}, DataError, "b is not in the index"),
    ],
)
def test_an_index_that_is_wrong_is_refused(changes, error, said, tmp_path):
    fill(tmp_path, *PARTS)
    write_index(tmp_path / "model.safetensors.index.json", **changes)
    with pytest.raises(error, match=said):
        open_weights(tmp_path)


def test_documents_may_have_a_byte_order_mark_and_no_more_than_a_size(tmp_path):
    write(tmp_path / "model.safetensors", ARRAYS)
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf{}")
    file, documents = open_weights(tmp_path)
    file.close()
    assert documents == {"config.json": {}}
    (tmp_path / "config.json").write_bytes(b"[" + b"[]," * (3 << 20))
    with pytest.raises(DataError, match="expected at most 8,388,608"):
        open_weights(tmp_path)
