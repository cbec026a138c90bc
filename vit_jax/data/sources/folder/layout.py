"""The layout of a root: its folders are splits or classes; an ambiguous layout is refused."""

import os
import pathlib
import stat
from collections.abc import Collection, Mapping
from typing import NamedTuple

from vit_jax.console.workdir import local_path
from vit_jax.data.image_files import Level, holds_image, look_into
from vit_jax.data.sources.class_names import listed
from vit_jax.data.sources.folder.split_names import mentions_split, split_of
from vit_jax.errors import DataError, InputMissingError

FIELD = "config.data.root"
SETTING = f"--{FIELD}="  # of the root, in hints
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


class Layout(NamedTuple):
    """The splits of a root; empty if the folders of the root are classes."""

    splits: Mapping[str, str]  # folder of each split, by its own name and by train, val and test
    unusable: Mapping[str, str]  # why a split cannot be read, by its name
    notes: tuple[str, ...]

    def find(self, split: str) -> str:
        """Return the folder of a split.

        Raises:
          DataError: The split has no class folders, or two folders have this meaning.
        """
        if split in self.unusable:
            raise DataError(self.unusable[split], path=FIELD)
        return self.splits[split]


def find_root(text: str) -> str:
    """Return the path of a root.

    Raises:
      InputMissingError: The folder does not exist.
      DataError: The path is not a folder.
      ConfigError: The path is not local.
    """
    root = local_path(text, FIELD)
    try:
        is_folder = stat.S_ISDIR(os.stat(root).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissingError(f"no such folder: '{text}'", path=FIELD) from error
    except OSError as error:
        raise DataError(f"{text} cannot be read: {error.strerror}", path=FIELD) from error
    if not is_folder:
        hint = "; unpack it first" if root.suffix.lower() in _ARCHIVES else ""
        raise DataError(f"{text} is a file, expected a folder of images{hint}", path=FIELD)
    return str(root)


def find_layout(root: str, names: Collection[str]) -> Layout:
    """Return the splits of a root.

    Args:
      root: Path of the root.
      names: Names of splits, besides the usual ones.

    Raises:
      DataError: The root has no folders, or its folders may be splits or classes.
    """
    level = look_into(root)
    if not level.folders:
        problem = f"{root} has no folders; expected one per class"
        texts = [problem, _say(level), hint_prepared(root)]
        raise DataError("; ".join(text for text in texts if text), path=FIELD)
    may_be = [path for path in level.folders if _name(path) in names or split_of(_name(path))]
    levels = {path: look_into(path) for path in may_be}
    splits = [path for path in may_be if levels[path].folders]
    flat = [path for path in may_be if not levels[path].folders]
    others = [path for path in level.folders if path not in may_be]
    if not splits:
        _check_are_no_splits(level.folders, levels)
        return Layout({}, {}, (*_stray(root, level), *_splits_beside(root)))
    if len(splits) == 1 and not flat:
        beside = [path for path in others if not _is_parallel(path, levels[splits[0]])]
        beside = [path for path in beside if holds_image(path)]
        if len(beside) == 1:
            problem = f"{splits[0]} has folders like a split, but {beside[0]} has images too"
            hint = f"give {SETTING}{splits[0]}, or move one of them away"
            raise DataError(f"{problem}; {hint}", path=FIELD)
        if beside:
            taken = f"{splits[0]} is taken for a class, like {_names(beside)} beside it"
            return Layout({}, {}, (taken, *_stray(root, level)))
    named, unusable, notes = _assign(splits, flat, levels)
    # A folder with the same classes is a split with another name, such as one of `eval.sets`.
    unread = [path for path in others if not any(_is_parallel(path, levels[s]) for s in splits)]
    unread = [path for path in unread if holds_image(path)]
    if unread:
        notes.append(f"not read, beside the splits: {', '.join(unread[:5])}")
    return Layout(named, unusable, (*notes, *_stray(root, level)))


def hint_below(folder: str) -> str:
    """Return a hint to use a folder as the root if it contains splits or classes, or `""`."""
    for _ in range(16):
        level = look_into(folder)
        means_split = [path for path in level.folders if split_of(_name(path))]
        if means_split or len(level.folders) > 1:
            has = " and ".join(f"{_name(path)}/" for path in (means_split or level.folders)[:3])
            return f"{folder} has {has}: give {SETTING}{folder}"
        if not level.folders:
            return ""
        (folder,) = level.folders
    return ""


def hint_prepared(root: str) -> str:
    """Return a hint if a root is a prepared data set of TFDS, or `""`."""
    depths = ("", "*/", "*/*/")
    if any(True for depth in depths for _ in pathlib.Path(root).glob(f"{depth}dataset_info.json")):
        return "for a data set of TFDS, pass --config.data.name and --config.data.data_dir"
    return ""


def _name(path: str) -> str:
    return os.path.basename(path)


def _names(paths: Collection[str]) -> str:
    return listed([_name(path) for path in paths])


def _say(level: Level) -> str:
    """Return a description of a folder without subfolders."""
    texts = [f"{len(level.found.images):,} images"] if level.found.images else []
    texts += [level.found.passed_over()] if level.found.passed_over() else []
    return f"it has {', '.join(texts)}" if texts else ""


def _say_flat(path: str, level: Level) -> str:
    return f"{path} has {len(level.found.images):,} images and no class folders"


def _stray(folder: str, level: Level) -> list[str]:
    count = len(level.found.images)
    return [f"{count:,} images right in {folder} are in no class"] if count else []


def _check_are_no_splits(folders: list[str], levels: Mapping[str, Level]) -> None:
    """Refuse class folders that have the names of splits."""
    flat = [path for path in levels if split_of(_name(path))]
    if len(flat) == len(folders) or len({split_of(_name(path)) for path in flat}) > 1:
        first = next((path for path in flat if split_of(_name(path)) == "train"), flat[0])
        problem = _say_flat(first, levels[first])
        raise DataError(f"{problem}; expected SPLIT/CLASS/* or CLASS/*", path=FIELD)
    like_splits = [path for path in folders if mentions_split(_name(path))]
    if len(like_splits) > 1 and len(like_splits) * 2 >= len(folders):
        problem = f"{_names(like_splits)} look like splits, not classes"
        raise DataError(f"{problem}; rename them to train, val and test", path=FIELD)


def _is_parallel(folder: str, split: Level) -> bool:
    """Return whether a folder and a split have a class in common."""
    return bool(set(map(_name, look_into(folder).folders)) & set(map(_name, split.folders)))


def _assign(
    folders: list[str], flat: list[str], levels: Mapping[str, Level]
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the folders of the splits by name, reasons for unusable splits, and notes."""
    own = {_name(path) for path in folders}
    named: dict[str, str] = {}
    unusable: dict[str, str] = {}
    notes: list[str] = []
    for path in folders:
        named[_name(path)] = path
        meaning = split_of(_name(path))
        rivals = [other for other in folders if split_of(_name(other)) == meaning]
        if not meaning or meaning in (own - {_name(path)}):
            continue
        named[meaning] = path
        if len(rivals) > 1 and meaning not in own:
            unusable[meaning] = f"{' and '.join(rivals)} both mean {meaning}; rename one"
        elif len(rivals) > 1:
            away = ", ".join(other for other in rivals if other != path)
            notes.append(f"not read: {away}; {path} is the split {meaning}")
    for path in flat:
        problem = _say_flat(path, levels[path])
        for name in {_name(path), split_of(_name(path))} - {"", *named}:
            named[name] = path
            unusable[name] = problem
    return named, unusable, notes


def _splits_beside(root: str) -> list[str]:
    """Return a note if a root of classes is itself a split, with other splits beside it."""
    path = pathlib.Path(os.path.abspath(root))
    meaning = split_of(path.name)
    if not meaning:
        return []
    try:
        beside = [p for p in look_into(path.parent).folders if split_of(_name(p))]
        beside = [p for p in beside if split_of(_name(p)) != meaning and look_into(p).folders]
    except DataError:  # the parent folder may be unreadable
        return []
    if not beside:
        return []
    return [f"not read, beside {root}: {', '.join(beside)}; {SETTING}{path.parent} reads them"]
