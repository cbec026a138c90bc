"""A folder of images: which files, which classes, which splits."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError, DataError, InputMissingError


def make(root, names):
    """Writes an image a name, each of other pixels."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 3), i, np.uint8)).save(path)
    return config_lib.Data(root=str(root), train_split="train", val_split="val")


def load(data, split="train", **kwargs):
    return open_split(dataclasses.replace(data, train_split=split), "train_split", **kwargs)


def listing(source):
    names = source.class_names
    return sorted(
        (os.path.basename(source.describe(i)), names[source[i]["label"]])
        for i in range(len(source))
    )


@pytest.fixture
def pets(tmp_path):
    return make(
        tmp_path / "pets", [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(50)]
    )


def test_split_folders(tmp_path):
    data = make(
        tmp_path,
        [
            "train/dog/1.png",
            "train/cat/2.jpg",
            "train/cat/old/3.PNG",
            "val/dog/4.png",
            "test/cat/5.gif",
        ],
    )
    source = load(data)
    assert source.class_names == ("cat", "dog")
    assert listing(source) == [("1.png", "dog"), ("2.jpg", "cat"), ("3.PNG", "cat")]
    assert listing(load(data, "val")) == [("4.png", "dog")]
    assert listing(load(data, "val+test")) == [("4.png", "dog"), ("5.gif", "cat")]


@pytest.mark.parametrize("name", ["valid", "validation", "val"])
def test_the_usual_names_of_a_validation_split_are_one(tmp_path, name):
    data = make(tmp_path, ["train/a/1.png", f"{name}/a/2.png"])
    assert listing(load(data, "val")) == listing(load(data, name)) == [("2.png", "a")]


def test_class_folders_are_cut_by_hash(pets):
    train, val = load(pets), load(pets, "val")
    assert len(train) + len(val) == 100
    assert 2 < len(val) < 22
    assert {train[i]["label"] for i in range(len(train))} == {0, 1}
    halves = [
        len(load(dataclasses.replace(pets, val_share=share), "train+val")) for share in (0.5,)
    ]
    assert halves == [100]
    assert 30 < len(load(dataclasses.replace(pets, val_share=0.5), "val")) < 70


def test_an_image_stays_in_its_split_when_others_come_and_go(pets, tmp_path):
    before = set(listing(load(pets, "val")))
    make(tmp_path / "pets", [f"cat/new{i}.png" for i in range(30)])
    os.remove(tmp_path / "pets" / "dog" / "7.png")
    after = set(listing(load(pets, "val")))
    assert before - {("7.png", "dog")} == {x for x in after if not x[0].startswith("new")}


@pytest.mark.parametrize(("share", "sizes"), [(0.0, (100, 0)), (1.0, (0, 100))])
def test_the_share_may_be_nothing_or_all(pets, share, sizes):
    data = dataclasses.replace(pets, val_share=share)
    for split, size in zip(("train", "val"), sizes, strict=True):
        if size:
            assert len(load(data, split)) == size
        else:
            with pytest.raises(DataError, match="holds no image"):
                load(data, split)


def test_a_slice_is_a_fair_sample_of_the_classes(pets):
    part = load(pets, "train[:40%]")
    assert 8 <= sum(part[i]["label"] for i in range(len(part))) <= len(part) - 8
    rest = load(pets, "train[40%:]")
    assert sorted(listing(part) + listing(rest)) == listing(load(pets))


def test_what_is_hidden_or_no_image_is_passed_over(pets, tmp_path):
    before = listing(load(pets))
    for name in ("cat/.hidden.png", "cat/notes.txt", ".git/1.png", "cat/.cache/1.png"):
        path = tmp_path / "pets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    (tmp_path / "pets" / "README.md").write_text("")
    assert listing(load(pets)) == before


def test_a_link_to_a_class_is_followed_and_one_to_nowhere_is_unreadable(pets, tmp_path):
    root = tmp_path / "links"
    root.mkdir()
    (root / "cat").symlink_to(tmp_path / "pets" / "cat")
    (root / "cow").mkdir()
    (root / "cow" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = load(dataclasses.replace(pets, root=str(root), val_share=0.0))
    assert len(source) == 51
    (index,) = [i for i in range(51) if source.describe(i).endswith("gone.png")]
    with pytest.raises(FileNotFoundError):
        source[index]


def test_the_name_tells_whether_the_files_are_the_same(pets, tmp_path):
    first = load(pets).fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "pets", moved)
    data = dataclasses.replace(pets, root=str(moved))
    assert load(data).fingerprint == first
    with open(moved / "cat" / "3.png", "ab") as file:
        file.write(b"x")
    assert load(data).fingerprint != first
    assert load(data, "train[:50%]").name.endswith(":train[:50%]")


def test_labels_may_be_those_of_another_run(tmp_path):
    data = make(tmp_path, ["dog/1.png", "ant/2.png"])
    data = dataclasses.replace(data, val_share=0.0)
    source = load(data, class_names=("dog", "cow", "ant"))
    assert listing(source) == [("1.png", "dog"), ("2.png", "ant")]
    with pytest.raises(DataError, match="dog: not a class; the classes are ant, cow"):
        load(data, class_names=("ant", "cow"))


def test_a_class_of_another_split_must_be_known(tmp_path):
    data = make(tmp_path, ["train/cat/1.png", "val/cta/2.png"])
    with pytest.raises(DataError, match=r"val/cta: not a class; the classes are cat"):
        load(data, "val")


def test_what_is_no_folder_of_classes_is_refused(tmp_path):
    with pytest.raises(InputMissingError, match=r"config\.data\.root: no such folder: .*nowhere"):
        load(config_lib.Data(root=str(tmp_path / "nowhere")))
    Image.new("L", (1, 1)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="has no folders; expected one per class"):
        load(config_lib.Data(root=str(tmp_path)))
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat: the class has no image; expected \.jpg \.jpeg"):
        load(config_lib.Data(root=str(tmp_path)))


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    data = make(tmp_path, ["train/a/1.png", "test/a/2.png"])
    with pytest.raises(ConfigError, match=r"no split 'val' in .*, which has test and train"):
        load(data, "val")


def test_fingerprints_are_those_of_runs_that_exist(tmp_path):
    """Names, order and digests are written into checkpoints: they must never change."""
    classes = [f"{name}/{i}.png" for name in ("cat", "dog", "Emu") for i in range(20)]
    splits = ["train/10/a.png", "train/2/b/c.JPG", "train/2/d.jpeg", "valid/2/e.png"]
    splits += ["test/10/f.gif", "test/2/.h.png", "test/2/n.txt", "test/2/g.png", "extra/x.png"]
    for root, names in (("classes", classes), ("splits", splits)):
        for i, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (i + 1))
    expected = {
        ("classes", "train"): (
            "2190310775d2",
            54,
            ["Emu", "cat", "dog"],
            ["cat/0.png", "Emu/0.png", "Emu/15.png", "dog/8.png", "cat/7.png"],
        ),
        ("classes", "val"): (
            "2190310775d2",
            6,
            ["Emu", "cat", "dog"],
            ["dog/7.png", "cat/10.png", "Emu/8.png", "cat/8.png", "dog/5.png"],
        ),
        ("classes", "train[:50%]"): (
            "2190310775d2",
            27,
            ["Emu", "cat", "dog"],
            ["cat/0.png", "Emu/0.png", "Emu/15.png", "dog/8.png", "cat/7.png"],
        ),
        ("splits", "train"): (
            "d1b1b69d38e2",
            3,
            ["10", "2"],
            ["train/2/d.jpeg", "train/10/a.png", "train/2/b/c.JPG"],
        ),
        ("splits", "val"): ("86f3c5ea43b4", 1, ["10", "2"], ["valid/2/e.png"]),
        ("splits", "valid"): ("86f3c5ea43b4", 1, ["10", "2"], ["valid/2/e.png"]),
        ("splits", "test"): ("80a74cfe3608", 2, ["10", "2"], ["test/2/g.png", "test/10/f.gif"]),
        ("splits", "val+test"): (
            "bad656f42427",
            3,
            ["10", "2"],
            ["valid/2/e.png", "test/2/g.png", "test/10/f.gif"],
        ),
        ("splits", "test+train[:1]"): (
            "466b26320be9",
            3,
            ["10", "2"],
            ["test/2/g.png", "test/10/f.gif", "train/2/d.jpeg"],
        ),
    }
    for (root, split), (digest, count, classes, order) in expected.items():
        source = load(config_lib.Data(root=str(tmp_path / root)), split)
        assert source.fingerprint == {
            "name": f"folder/{digest}:{split}",
            "examples": count,
            "classes": classes,
        }
        first = [os.path.relpath(source.describe(i), tmp_path / root) for i in range(min(count, 5))]
        assert first == order
