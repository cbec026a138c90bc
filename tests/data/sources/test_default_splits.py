"""A folder of images in any recipe: the splits are those that the folder has."""

import ast
import dataclasses
import re

import pytest
from conftest import ROOT

from vit_jax import config as config_lib
from vit_jax import train as train_lib
from vit_jax.console import cli
from vit_jax.data.sources.folder import choose_splits
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError

# Folders below the root, and the splits that a recipe takes from them: train, val and test.
LAYOUTS = {
    "classes": ([""], ("train", "val", "")),
    "train_val": (["train", "val"], ("train", "val", "")),
    "three": (["train", "val", "test"], ("train", "val", "test")),
    "torch_names": (["Training", "validation"], ("train", "val", "")),
    "train_test": (["train", "test"], ("train[10%:]", "train[:10%]", "test")),
}


def recipes():
    """Returns `FILE` or `FILE:ARGUMENT` of every recipe."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        text = path.read_text()
        tables = re.findall(r"pick\((\w+), ", text)
        scope = {}
        exec(compile(ast.parse(text), path, "exec"), scope)  # noqa: S102
        found += [f"{path}:{key}" for table in tables for key in scope[table]] or [str(path)]
    return found


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A root for each layout: two classes of 12 files, which are listed and not read."""
    base = tmp_path_factory.mktemp("roots")
    for name, (folders, _) in LAYOUTS.items():
        for folder in folders:
            for kind in ("cat", "dog"):
                path = base / name / folder / kind
                path.mkdir(parents=True)
                for i in range(12):
                    (path / f"{i}.png").write_bytes(b"x")
    return base


def resolve(recipe, root, **flags):
    tree = config_lib.load_config_file(recipe)
    given = {"data.root": str(root), **{k.replace("__", "."): v for k, v in flags.items()}}
    if not tree.model.name:
        given["model.name"] = "vit_ti16"
    if tree.objective.name == "distillation":
        given["objective.teacher"] = "TEACHER"
    return config_lib.resolve(tree, given)


def splits_of(data):
    return tuple(getattr(data, field) for field in config_lib.SPLITS.values())


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.rpartition("/")[2])
def test_every_recipe_takes_the_splits_of_a_folder(recipe, roots):
    resolved = resolve(recipe, roots)
    for layout, (_, expected) in LAYOUTS.items():
        data = dataclasses.replace(resolved.config.data, root=str(roots / layout))
        config = dataclasses.replace(resolved.config, data=data)
        found = choose_splits(dataclasses.replace(resolved, config=config))
        assert splits_of(found.config.data) == expected
        assert choose_splits(found).config == found.config  # as when the run is resumed
        for field in config_lib.SPLITS.values():
            if getattr(found.config.data, field):
                assert open_split(found.config.data, field).class_names == ("cat", "dog")


def test_a_note_names_the_splits_that_are_replaced_or_cut(roots):
    found = choose_splits(resolve(f"{ROOT}/configs/deit.py:s", roots / "three"))
    (note,) = (note for note in found.notes if "splits" in note)
    root = roots / "three"
    assert note == (
        f"the splits are those of {root}: val_split val, test_split test (not none, validation)"
    )
    assert found.origins["data.val_split"] == f"data {root}"
    found = choose_splits(resolve(f"{ROOT}/configs/folder.py", roots / "train_test"))
    assert found.notes == (
        f"{roots / 'train_test'} has no folder val: config.data.val_split is train[:10%], "
        "config.data.train_split is train[10%:]",
    )


def test_splits_that_are_meant_for_the_folder_stay(roots):
    root = roots / "classes"
    flags = {"data__train_split": "train[:50%]", "data__val_split": "train[50%:]"}
    found = choose_splits(resolve(f"{ROOT}/configs/deit.py:s", root, **flags))
    assert splits_of(found.config.data) == ("train[:50%]", "train[50%:]", "")
    tree = config_lib.to_config_dict(config_lib.Config())
    tree.data.train_split, tree.data.val_split = "train[10%:]", "train[:10%]"
    found = choose_splits(config_lib.resolve(tree, {"data.root": str(root)}))
    assert splits_of(found.config.data) == ("train[10%:]", "train[:10%]", "")
    tree.data.test_split = "tst"
    found = choose_splits(config_lib.resolve(tree, {"data.root": str(root)}))
    with pytest.raises(ConfigError, match=r"^config\.data\.test_split: no split 'tst' in "):
        open_split(found.config.data, "test_split")


def test_a_test_folder_without_classes_is_not_evaluated(tmp_path):
    for path in ("train/cat", "train/dog", "test"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "1.png").write_bytes(b"x")
    found = choose_splits(resolve(f"{ROOT}/configs/folder.py", tmp_path))
    assert found.config.data.test_split == ""
    assert found.notes[-1] == f"no split test: {tmp_path}/test has 1 images and no class folders"


def test_a_folder_without_training_images_is_refused(tmp_path):
    for path in ("val/cat", "val/dog", "test/cat", "test/dog"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "1.png").write_bytes(b"x")
    found = choose_splits(resolve(f"{ROOT}/configs/folder.py", tmp_path))
    expected = r"no split 'train' in .*; training images are expected in train/CLASS/\*$"
    with pytest.raises(ConfigError, match=expected):
        open_split(found.config.data, "train_split")


@pytest.mark.parametrize("recipe", ["folder.py", "finetune_folder.py", "finetune_folder.py:probe"])
def test_a_recipe_for_folders_needs_a_root(recipe, tmp_path, capsys):
    argv = ["train", f"--config={ROOT}/configs/{recipe}", f"--workdir={tmp_path / 'run'}"]
    argv += ["--config.model.name=vit_mu16", "--config.batch_size=8"]
    code = cli.run(train_lib.main, train_lib._flags(), "", argv)
    assert code == 64
    assert capsys.readouterr().err == (
        "error: config.data.root: expected a folder of images; pass --config.data.root=DIR, "
        "or a data set: --config.data.name=NAME\n"
    )
