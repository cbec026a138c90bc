"""The images of the command attend: read as in evaluation, and named for the files about them."""

import concurrent.futures
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vit_jax import config as config_lib
from vit_jax.console.progress import say
from vit_jax.console.waiting import waiting
from vit_jax.data import transforms
from vit_jax.data.reader import Reader
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.interpretation.overview import OF_MODEL


class InputImage(NamedTuple):
    """An image that was read."""

    path: str
    name: str  # of its files, without their suffix
    pixels: np.ndarray  # uint8 (h, w, c), as the model gets them


def read_images(paths: Sequence[str], data: config_lib.Data) -> list[InputImage]:
    """Return the images; print a line for one that cannot be read.

    Args:
      paths: Their paths.
      data: How the model gets its images.
    """
    reader = Reader(InMemory(paths, ("",)), transforms.for_evaluation(data))
    found = {}
    with (
        waiting("reading the images", aside=True),
        concurrent.futures.ThreadPoolExecutor(data.threads) as threads,
    ):
        rows = threads.map(reader.pixels_or_reason, range(len(paths)))
        for path, pixels in zip(paths, rows, strict=True):
            if isinstance(pixels, str):
                say(f"skipped   {path}: {pixels}")
            else:
                found[path] = pixels
    names = file_names(list(found))
    return [InputImage(*each) for each in zip(found, names, found.values(), strict=True)]


def file_names(paths: Sequence[str]) -> list[str]:
    """Return a name for the files of each image: its own, with a number if it is taken.

    Args:
      paths: Paths of the images.
    """
    taken = set(OF_MODEL)
    names = []
    for path in paths:
        stem = re.sub(r"[^\w.-]", "_", pathlib.Path(path).stem) or "image"
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(
            name for name in itertools.chain([stem], numbered) if name.casefold() not in taken
        )
        taken.add(name.casefold())
        names.append(name)
    return names
