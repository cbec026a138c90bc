"""Handwritten digits: 1,797 real scans of 8x8 pixels that ship with the package.

Their license is in the same folder. The test split is the last 360 of
`numpy.random.RandomState(0).permutation(1797)`; the rest is the train split. The images are read
from the package: nothing is downloaded, prepared or written, and `data.data_dir` is ignored.
"""

import gzip
import hashlib
import importlib.resources
import io

import numpy as np
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data.sources.base import Record, Source
from vit_jax.data.sources.splits import select

NUM_TEST = 360


class Digits(Source):
    """A split of the digits, as grey images.

    Args:
      data: The data section of a config.
      split: A split such as `train[:90%]`.
    """

    def __init__(self, data: config_lib.Data, split: str) -> None:
        order = [int(row) for row in np.random.RandomState(0).permutation(1797)]
        rows = {"train": order[:-NUM_TEST], "test": order[-NUM_TEST:]}
        shuffled = {name: _shuffle(of_split, name) for name, of_split in rows.items()}
        selected = select(split, {name: len(of_split) for name, of_split in rows.items()})
        super().__init__(f"digits/1.0.0:{split}", tuple("0123456789"))
        chosen = np.asarray([shuffled[name][index] for name, index in selected], int)
        images, labels = load()
        self._images = images[chosen]
        self._labels = labels[chosen]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        return {"image": Image.fromarray(self._images[index]), "label": int(self._labels[index])}


def _shuffle(rows: list[int], split: str) -> list[int]:
    """Return rows in the order in which TFDS would store them: sorted by a salted hash."""
    return sorted(rows, key=lambda row: hashlib.md5(f"{split}{row}".encode()).digest())  # noqa: S324


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return the images, uint8 (1797, 8, 8) with values 0 to 255, and the labels, (1797,)."""
    packed = importlib.resources.files(__name__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return images, table[:, -1].astype(np.int32)
