"""The image files below a folder."""

import os
from collections.abc import Iterator

from vit_jax.data.images import EXTENSIONS


def find_images(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """Yield the image files below a folder, at any depth; hidden ones are skipped."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from find_images(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield entry
