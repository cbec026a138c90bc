"""Handwritten digits: 1,797 real scans of 8x8 pixels that ship with the package, as a TFDS builder.

The licence of the images is beside this file. The test split is the last 360 of
`numpy.random.RandomState(0).permutation(1797)`; the rest is the train split.
"""

import gzip
import importlib.resources
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

NUM_TEST = 360


class Digits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the UCI handwritten digits; needs no download and no TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The 1,797 images of the UCI test set, cut into train and test."}  # noqa: RUF012 - TFDS's form
    pkg_dir_path = importlib.resources.files(__name__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="8x8 scans of handwritten digits from 43 people.",
            homepage="https://doi.org/10.24432/C50P49",
            license="CC BY 4.0",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        order = np.random.RandomState(0).permutation(1797)
        return {
            "train": self._generate_examples(order[:-NUM_TEST]),
            "test": self._generate_examples(order[-NUM_TEST:]),
        }

    def _generate_examples(self, rows: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = load()
        for row in rows:
            png = io.BytesIO()
            Image.fromarray(images[row]).save(png, format="png")
            yield int(row), {"image": png.getvalue(), "label": int(labels[row])}


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return the images, uint8 (1797, 8, 8) with values 0 to 255, and the labels, (1797,)."""
    packed = importlib.resources.files(__name__).joinpath("digits.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",")
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return images, table[:, -1].astype(np.int32)
