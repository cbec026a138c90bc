"""The images of a split: all images below its class folders, ordered by hash."""

import difflib
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vit_jax.data.image_files import Found, find_images, look_into, merge
from vit_jax.data.images import EXTENSIONS
from vit_jax.data.sources.class_names import find_lookalikes, form, listed
from vit_jax.data.sources.folder.layout import FIELD, SETTING, hint_below, hint_prepared
from vit_jax.data.sources.folder.split_names import split_of
from vit_jax.errors import DataError


class File(NamedTuple):
    """An image of a split."""

    hash: str  # SHA-256 of the path relative to the folder of the split
    path: str
    size: int  # bytes
    label: int


class Listing(NamedTuple):
    """The images of a split, and notes about its folder."""

    files: list[File]
    notes: tuple[str, ...]


def list_class_names(folder: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the class names of a folder, and notes about them.

    Raises:
      DataError: There is no class, or the same class twice.
    """
    names = [os.path.basename(path) for path in look_into(folder).folders]
    if not names:
        raise DataError(f"{folder} has no folders; expected one per class", path=FIELD)
    notes = []
    for group in find_lookalikes(names):
        if len({form(name) for name in group}) < len(group):
            problem = f"class '{form(group[0])}' exists twice, in two Unicode forms"
            raise DataError(f"{folder}: {problem}; merge the two folders")
        quoted = " and ".join(f"'{name}'" for name in group)
        notes.append(f"{quoted} in {folder} are {len(group)} classes")
    return tuple(names), notes


def list_split(folder: str, class_names: tuple[str, ...], *, defines: bool) -> Listing:
    """Return the images below the folder of a split, ordered by hash.

    Args:
      folder: Folder of the split, with a folder per class.
      class_names: Names of the classes; label k is class k.
      defines: Whether the folders define the classes; then each must contain an image.

    Raises:
      DataError: A folder is not a class, or a class has no image.
    """
    level = look_into(folder)
    found = find_images(*level.folders)
    files: list[File] = []
    start = len(os.path.join(folder, ""))
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(class_names):
        labels.setdefault(form(name), []).append(label)
    notes = _check_depth(level.folders, found)
    filled = [path for path, below in zip(level.folders, found, strict=True) if below.images]
    for path, below in zip(level.folders, found, strict=True):
        if not below.images:
            if defines or below.files or below.links:
                raise DataError(_say_empty(path, below, filled))
            continue
        label = _find_label(path, labels, class_names)
        for image in below.images:
            name = image.path[start:].replace(os.sep, "/")
            digest = hashlib.sha256(os.fsencode(name)).hexdigest()
            files.append(File(digest, image.path, image.size, label))
    if level.found.images:
        notes.append(f"{len(level.found.images):,} images right in {folder} are in no class")
    passed_over = merge([level.found, *found]).passed_over()
    if passed_over:
        notes.append(f"skipped in {folder}: {passed_over}")
    return Listing(sorted(files), tuple(notes))


def divide(files: Sequence[File], val_share: float) -> dict[str, list[File]]:
    """Return the splits `train` and `val`, divided by hash."""
    border = round(val_share * 16**8)
    splits: dict[str, list[File]] = {"train": [], "val": []}
    for file in files:
        splits["val" if _position(file) < border else "train"].append(file)
    return splits


def explain_cut(files: Sequence[File], val_share: float) -> str:
    """Return how images are divided into `train` and `val`, and which shares fill both."""
    text = f"a hash of each file's name decides, with --config.data.val_share={val_share:g}"
    shares = [_position(file) / 16**8 for file in files]
    low = math.floor(100 * min(shares, default=1) + 1) / 100
    high = math.floor(100 * max(shares, default=0)) / 100
    return f"{text}; with {low:g} to {high:g} both have images" if low <= high else text


def digest(splits: Mapping[str, Sequence[File]]) -> str:
    """Return a digest of all file names and sizes."""
    whole = hashlib.sha256()
    for files in splits.values():
        for file in files:
            whole.update(f"{file.hash} {file.size}\n".encode())
    return whole.hexdigest()[:12]


def _position(file: File) -> int:
    return int(file.hash[:8], 16)


def _say_empty(path: str, found: Found, filled: Sequence[str]) -> str:
    """Return the error for a class without images; `filled` are the classes with images."""
    texts = [f"{path}: the class has no image; expected {' '.join(EXTENSIONS)}"]
    if found.passed_over():
        texts.append(f"skipped: {found.passed_over()}")
    texts.append(hint_prepared(os.path.dirname(path)) or hint_prepared(path))
    if len(filled) == 1:
        texts.append(hint_below(filled[0]))
    return "; ".join(text for text in texts if text)


def _find_label(path: str, labels: Mapping[str, list[int]], class_names: Sequence[str]) -> int:
    name = form(os.path.basename(path))
    found = labels.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path}: {len(found)} classes have this name")
    near = difflib.get_close_matches(name, class_names, n=1, cutoff=0.6)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise DataError(f"{path}: not a class; the classes are {listed(class_names)}{hint}")


def _check_depth(folders: Sequence[str], found: Sequence[Found]) -> list[str]:
    """Refuse class folders that contain splits, and note those that seem to contain classes."""
    inner: set[tuple[str, ...]] = set()
    for path, below in zip(folders, found, strict=True):
        start = len(path) + 1
        heads = [image.path[start:].partition(os.sep) for image in below.images]
        names = tuple(sorted({name for name, separator, _ in heads if separator}))
        has_own = not all(separator for _, separator, _ in heads)
        inner.add(() if has_own else names)
        splits = tuple(name for name in names if split_of(name))
        only_splits = splits == names and not has_own
        if splits and (only_splits or len({split_of(name) for name in splits}) > 1):
            has = f"{path} has {' and '.join(f'{name}/' for name in splits)} in it"
            if len(folders) == 1:
                raise DataError(f"one class only: {has}; pass {SETTING}{path}")
            raise DataError(f"{has}, below a class; expected SPLIT/CLASS/* or CLASS/*")
    if len(folders) > 1 and len(inner) == 1 and len(names) > 1 and () not in inner:
        taken = listed([os.path.basename(path) for path in folders])
        return [f"{taken} are the classes, although all have the same folders: {listed(names)}"]
    return []
