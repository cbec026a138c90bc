"""A folder of images: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*, where folders name the classes.

Images may be at any depth below a class folder; hidden files and files without the extension of an
image are skipped. ROOT/CLASS/* is divided into the splits `train` and `val` by a hash of each
file's name, so that an image stays in its split when others are added. Within a split, images are
ordered by their hashes: any slice, such as train[:10%], is a fair sample.
"""

import hashlib
import os
import pathlib
import re
from typing import NamedTuple

from vit_jax import config as config_lib
from vit_jax.data.image_files import find_images
from vit_jax.data.images import EXTENSIONS
from vit_jax.data.sources.base import Record, Source
from vit_jax.data.sources.splits import select
from vit_jax.errors import DataError, InputMissingError

# Folder names that mean a split of another name.
_SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


class File(NamedTuple):
    """An image of a split."""

    hash: str  # SHA-256 of its path below the folder of the split
    path: str
    size: int  # bytes
    label: int


class Folder(Source):
    """A split of a folder of images.

    Args:
      data: The data section, of which `root` and `val_share` are used.
      split: A specification in TFDS's split arithmetic.
      class_names: The classes, where the labels must be those of another split or run.

    Raises:
      InputMissingError: There is no such folder.
      DataError: It holds no class, an empty class, or one that is not in `class_names`.
    """

    def __init__(
        self, data: config_lib.Data, split: str, class_names: tuple[str, ...] = ()
    ) -> None:
        root = pathlib.Path(data.root).expanduser()
        if not root.is_dir():
            raise InputMissingError(f"config.data.root: no folder {data.root}")
        splits = _split_folders(root, split)
        parent = splits.get("train", next(iter(splits.values()))) if splits else root
        names = class_names or tuple(path.name for path in _class_folders(parent))
        if splits:
            files: dict[str, list[File]] = {name: [] for name in splits}
            requested = [name for name in _split_names(split) if name in splits]
            files |= {name: _list_files(splits[name], names) for name in requested}
        else:
            files = _divide(_list_files(root, names), data.val_share)
        selected = select(split, {name: len(of_split) for name, of_split in files.items()})
        super().__init__(f"folder/{_digest(files)}:{split}", names)
        self._files = [files[name][index] for name, index in selected]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file = self._files[index]
        with open(file.path, "rb") as stream:
            return {"image": stream.read(), "label": file.label}

    def describe(self, index: int) -> str:
        """Return the path of the image."""
        return self._files[index].path


def _split_names(split: str) -> list[str]:
    return re.findall(r"(?:^|\+)\s*([\w-]+)", split)


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split_folders(root: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    """Return the folders of ROOT/SPLIT/CLASS/*, by split; none where the root has classes."""
    names = {"train", "val", "test", *_SYNONYMS, *_split_names(split)}
    splits = {}
    for folder in _folders(root):
        if folder.name in names and _folders(folder):
            splits[folder.name] = folder
            splits[_SYNONYMS.get(folder.name, folder.name)] = folder
    return splits


def _class_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    folders = _folders(folder)
    if not folders:
        raise DataError(f"config.data.root: {folder} has no folders; expected one per class")
    return folders


def _list_files(folder: pathlib.Path, class_names: tuple[str, ...]) -> list[File]:
    """Return the images below a split's folder, ordered by their hashes."""
    files: list[File] = []
    labels = {name: label for label, name in enumerate(class_names)}
    for path in _class_folders(folder):
        if path.name not in labels:
            listed = ", ".join(class_names[:5])
            others = ", ..." if len(class_names) > 5 else ""
            raise DataError(f"{path}: not a class; the classes are {listed}{others}")
        before = len(files)
        for entry in find_images(path):
            name = os.path.relpath(entry.path, folder).replace(os.sep, "/")
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()
            files.append(File(digest, entry.path, _size(entry), labels[path.name]))
        if len(files) == before:
            raise DataError(f"{path}: the class has no image; expected {' '.join(EXTENSIONS)}")
    return sorted(files)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link: reported as unreadable when it is read
        return 0


def _divide(files: list[File], val_share: float) -> dict[str, list[File]]:
    """Return the splits `train` and `val`."""
    border = round(val_share * 16**8)
    splits: dict[str, list[File]] = {"train": [], "val": []}
    for file in files:
        splits["val" if int(file.hash[:8], 16) < border else "train"].append(file)
    return splits


def _digest(files: dict[str, list[File]]) -> str:
    """Return a digest of all names and sizes."""
    digest = hashlib.sha256()
    for of_split in files.values():
        for file in of_split:
            digest.update(f"{file.hash} {file.size}\n".encode())
    return digest.hexdigest()[:12]
