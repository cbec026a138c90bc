"""The source of a folder of images.

Images may be at any depth below a class folder. ROOT/CLASS/* is divided into the splits `train` and
`val` by a hash of each file name, so an image stays in its split when others are added. Images are
ordered by hash within a split, so any slice, such as train[:10%], is a random sample. The notes
name the decisions that were made and the files that were skipped.
"""

import os
import re
from collections.abc import Iterable, Mapping

from vit_jax import config as config_lib
from vit_jax.data.image_files import read_image_file
from vit_jax.data.sources.base import Record, Source
from vit_jax.data.sources.class_names import listed
from vit_jax.data.sources.folder.layout import Layout, find_layout, find_root, hint_below
from vit_jax.data.sources.folder.listing import (
    File,
    digest,
    divide,
    explain_cut,
    list_class_names,
    list_split,
)
from vit_jax.data.sources.splits import select


class Folder(Source):
    """A split of a folder of images.

    Args:
      data: Data section of the config; `root`, `val_share` and the split names are used.
      split: Specification in TFDS's split arithmetic.
      class_names: Names of the classes; empty: the folders define them.

    Raises:
      InputMissingError: The folder does not exist.
      DataError: The layout is ambiguous, or there is no class, an empty class, or a class that is
        not in `class_names`.
      ValueError: The folder has no such split.
    """

    def __init__(
        self, data: config_lib.Data, split: str, class_names: tuple[str, ...] = ()
    ) -> None:
        root = find_root(data.root)
        fields = [getattr(data, field) for field in config_lib.SPLITS.values()]
        layout = find_layout(root, names_of_splits([split, *fields]))
        first = layout.splits.get("train", next(iter(layout.splits.values()), root))
        is_training = "train" in layout.splits or not layout.splits
        defining = first if is_training and not class_names else ""
        names, notes = (class_names, []) if class_names else _find_classes(layout, first)
        files, notes_of_splits = _list_splits(root, layout, data, split, names, defining)
        selected = select(split, {name: len(of_split) for name, of_split in files.items()})
        super().__init__(f"folder/{digest(files)}:{split}", names)
        self.title = f"{data.root}:{split}"
        self._files = [files[name][index] for name, index in selected]
        self.notes = tuple(
            dict.fromkeys([*layout.notes, *notes, *notes_of_splits, *self._missing_classes(split)])
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        file = self._files[index]
        return {"image": read_image_file(file.path), "label": file.label}

    def describe(self, index: int) -> str:
        """Return the path of the image."""
        return self._files[index].path

    def file_name(self, index: int) -> str:
        """Return the name of the file, without its folders."""
        return os.path.basename(self._files[index].path)

    def _missing_classes(self, split: str) -> list[str]:
        """Return a note on the classes without images."""
        present = {file.label for file in self._files}
        missing = [name for label, name in enumerate(self.class_names) if label not in present]
        if not missing or not present:
            return []
        count = f"{len(missing)} of the {len(self.class_names)} classes"
        return [f"'{split}' has no image of {count}: {listed(missing)}"]


def _split_names(split: str) -> list[str]:
    return re.findall(r"(?:^|\+)\s*([\w-]+)", split)


def names_of_splits(splits: Iterable[str]) -> set[str]:
    """Return the names of all splits in some specifications, such as `train[:90%]+test`."""
    return {name for split in splits for name in _split_names(split)}


def _find_classes(layout: Layout, folder: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the class names, which are those of its folders, and notes about them."""
    if "train" in layout.splits:
        folder = layout.find("train")
    names, notes = list_class_names(folder)
    if len(names) == 1:
        hint = hint_below(os.path.join(folder, names[0]))
        notes.append(f"one class only: {names[0]}{f'; {hint}' if hint else ''}")
    return names, notes


def _list_splits(
    root: str,
    layout: Layout,
    data: config_lib.Data,
    split: str,
    class_names: tuple[str, ...],
    defining: str,
) -> tuple[Mapping[str, list[File]], list[str]]:
    """Return the images of each split, and notes; splits that `split` does not name stay empty."""
    requested = _split_names(split)
    if not layout.splits:
        whole = list_split(root, class_names, defines=root == defining)
        divided = divide(whole.files, data.val_share)
        _check_names(requested, divided, f"{root}, which is divided into train and val")
        empty = [name for name in requested if not divided[name]]
        if not whole.files:
            return divided, [*whole.notes, f"there is no image in {root}"]
        cut = explain_cut(whole.files, data.val_share)
        return divided, [*whole.notes, *(f"no image falls into {name}: {cut}" for name in empty)]
    files: dict[str, list[File]] = {name: [] for name in layout.splits}
    _check_names(requested, files, f"{root}, which has {_describe(layout)}")
    notes: list[str] = []
    for name in layout.splits:
        if name in requested:
            folder = layout.find(name)
            listing = list_split(folder, class_names, defines=folder == defining)
            files[name] = listing.files
            if os.path.basename(folder) != name:
                notes.append(f"{folder} is read as {name}")
            notes += listing.notes
    return files, notes


def _check_names(requested: list[str], splits: Mapping[str, list[File]], where: str) -> None:
    for name in requested:
        if name not in splits:
            hint = "'train[:10%]' and 'train[10%:]' would be parts of train"
            if "train" not in splits:
                hint = "training images are expected in train/CLASS/*"
            raise ValueError(f"no split '{name}' in {where}; {hint}")


def _describe(layout: Layout) -> str:
    """Return the folders of a layout, and which split each of them is."""
    by_folder: dict[str, str] = {}
    for name, folder in layout.splits.items():
        by_folder[folder] = name
    return " and ".join(
        name if os.path.basename(folder) == name else f"{folder} as {name}"
        for folder, name in by_folder.items()
    )
