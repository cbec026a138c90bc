"""Image files below folders: how they are found, which files are skipped, how one is read.

Only regular files of limited size are opened, so a pipe, a device or a very large file cannot block
a run. Links to other folders are followed, because data sets are often linked. No folder is read
twice, so a cycle of links ends.
"""

import collections
import dataclasses
import os
import pathlib
import stat
from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.data.images import EXTENSIONS, UnreadableError
from vit_jax.errors import DataError

# An uncompressed image of 64 million pixels (the default of `data.max_pixels`) with 3 x 16 bits has
# 384 MB.
MAX_BYTES = 400_000_000

# Folders of operating systems, archives and photo software: trash, previews and the like.
_SYSTEM_FOLDERS = {
    "$recycle.bin",
    "#recycle",
    "#snapshot",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "__macosx",
    "__pycache__",
    "found.000",
    "lost+found",
    "lost.dir",
    "network trash folder",
    "recycler",
    "system volume information",
    "temporary items",
}
# Files of operating systems and text files are skipped without a note.
_SYSTEM_FILES = {"desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"}
_TEXTS = {".csv", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".tsv", ".txt", ".url"}
_TEXTS |= {".xml", ".yaml", ".yml"}

_MOST_KINDS = 8  # file extensions in one line


class ImageFile(NamedTuple):
    """An image file."""

    path: str
    size: int  # bytes


@dataclasses.dataclass
class Found:
    """The contents of a folder, at any depth."""

    images: list[ImageFile] = dataclasses.field(default_factory=list)  # ordered by path
    files: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    folders: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    links: list[str] = dataclasses.field(default_factory=list)  # to folders that are read already

    def passed_over(self) -> str:
        """Return the skipped files and folders as text, such as `16 .jfif, 2 folders @eaDir`."""
        kinds = sorted(self.files.items())
        texts = [f"{count:,} {kind}" for kind, count in kinds[:_MOST_KINDS]]
        if kinds[_MOST_KINDS:]:
            texts.append(f"{sum(count for _, count in kinds[_MOST_KINDS:]):,} others")
        for name, count in sorted(self.folders.items()):
            texts.append(f"{count:,} {'folders' if count > 1 else 'folder'} {name}")
        if self.links:
            plural = "s" if len(self.links) > 1 else ""
            texts.append(
                f"{len(self.links):,} link{plural} to a folder read already ({self.links[0]})"
            )
        return ", ".join(texts)


class Level(NamedTuple):
    """The contents of a folder, without those of its subfolders."""

    folders: list[str]  # paths, ordered by name; without hidden folders and system folders
    found: Found  # images and skipped files


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of an image file.

    Raises:
      UnreadableError: It is not a regular file, or too large.
      OSError: It cannot be opened or read.
    """
    _check_file(os.stat(path))
    # The file may have been replaced by a pipe since the check; opening it must not block.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with open(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor))
        return file.read(MAX_BYTES)


def find_images(*folders: str | os.PathLike[str]) -> list[Found]:
    """Return the contents of each folder, at any depth; no folder is read twice.

    Raises:
      DataError: A folder cannot be listed.
    """
    found = [Found() for _ in folders]
    seen = _identities_of_parents(folders)
    starts = [(i, os.fspath(folder), os.path.islink(folder)) for i, folder in enumerate(folders)]
    # Links come last, so that a folder is listed at its own path, not at that of a link.
    pending = [start for start in starts if not start[2]]
    links = collections.deque(start for start in starts if start[2])
    while pending or links:
        index, folder, behind_link = pending.pop() if pending else links.popleft()
        identity = _identity(folder)
        if behind_link and identity in seen:
            found[index].links.append(folder)
            continue
        seen.add(identity)
        for entry in _list(folder):
            if not _is_folder(entry):
                _add_file(found[index], entry)
            elif _is_passed_over(entry.name):
                found[index].folders[entry.name] += 1
            elif entry.is_symlink():
                links.append((index, entry.path, True))
            else:
                pending.append((index, entry.path, behind_link))
    for each in found:
        each.images.sort(key=lambda image: image.path.replace(os.sep, "\0"))
        each.links.sort()
    return found


def look_into(folder: str | os.PathLike[str]) -> Level:
    """Return the contents of a folder, without those of its subfolders.

    Raises:
      DataError: The folder cannot be listed.
    """
    folders: list[str] = []
    found = Found()
    for entry in _list(folder):
        if not _is_folder(entry):
            _add_file(found, entry)
        elif _is_passed_over(entry.name):
            found.folders[entry.name] += 1
        else:
            folders.append(entry.path)
    return Level(folders, found)


def holds_image(folder: str) -> bool:
    """Return whether a folder contains an image, at any depth; links are not followed.

    Raises:
      DataError: A folder cannot be listed.
    """
    pending = [folder]
    while pending:
        for entry in _list(pending.pop()):
            if not _is_folder(entry):
                if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
                    return True
            elif not (_is_passed_over(entry.name) or entry.is_symlink()):
                pending.append(entry.path)
    return False


def merge(found: Sequence[Found]) -> Found:
    """Return the contents of several folders as one."""
    whole = Found()
    for each in found:
        whole.images += each.images
        whole.files += each.files
        whole.folders += each.folders
        whole.links += each.links
    return whole


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("it is not a regular file")
    if status.st_size > MAX_BYTES:
        raise UnreadableError(f"it has {status.st_size:,} bytes, more than {MAX_BYTES:,}")


def _list(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(os.fspath(folder)) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        name = os.fspath(folder)
        shown = name if len(name) < 200 else f"{name[:100]}...{name[-50:]}"
        raise DataError(f"{shown}: cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself cannot be resolved
        return False


def _is_passed_over(folder_name: str) -> bool:
    return folder_name.startswith(".") or folder_name.casefold() in _SYSTEM_FOLDERS


def _add_file(found: Found, entry: os.DirEntry[str]) -> None:
    name = entry.name.lower()
    is_image = name.endswith(EXTENSIONS)
    if name.startswith("."):
        # macOS writes a file `._1.png` next to `1.png`.
        if is_image and not name.startswith("._"):
            found.files["hidden"] += 1
    elif is_image:
        found.images.append(ImageFile(entry.path, _size(entry)))
    elif name not in _SYSTEM_FILES and pathlib.PurePath(name).suffix not in _TEXTS:
        found.files[pathlib.PurePath(name).suffix or "without an extension"] += 1


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link is reported as unreadable when it is read
        return 0


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int] | str:
    try:
        status = os.stat(folder)
    except OSError:  # it cannot be listed either, which raises the error
        return os.fspath(folder)
    return (status.st_dev, status.st_ino)


def _identities_of_parents(
    folders: Sequence[str | os.PathLike[str]],
) -> set[tuple[int, int] | str]:
    """Return the identities of all parent folders; a link to one of them is a cycle."""
    parents = {
        parent
        for folder in folders
        for path in (os.path.abspath(folder), os.path.realpath(folder))
        for parent in pathlib.Path(path).parents
    }
    return {_identity(parent) for parent in parents}
