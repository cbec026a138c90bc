"""From an index of a source to a row of a batch; an unreadable image makes a masked row."""

import dataclasses
from typing import Any

import numpy as np

from vit_jax.data import transforms
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources import Source
from vit_jax.errors import DataError, UserError

Row = dict[str, Any]

# How many unreadable images in a row end a training run.
MOST_IN_A_ROW = 100


@dataclasses.dataclass(frozen=True)
class Reader:
    """From an index of the source to a row of a batch."""

    source: Source
    pipeline: transforms.Pipeline
    image_size: tuple[int, int] = (0, 0)  # of a row without an image

    def train(self, index: int, rng: np.random.Generator) -> Row:
        """Return the row of an image, or of the next one that can be read.

        Raises:
          DataError: Too many images in a row are unreadable, or a label is not that of a class.
        """
        index = int(index)
        for i in range(MOST_IN_A_ROW):
            try:
                row = self.read((index + i) % len(self.source), rng)
            except UnreadableError:
                continue
            return {**row, "unreadable": np.int64(index if i else -1)}
        raise DataError(
            f"{self.source.describe(index)}: neither it nor the next {MOST_IN_A_ROW - 1} images "
            f"can be read: {self.problem(index)}"
        )

    def evaluate(self, index: int) -> Row:
        """Return the row of an image, or one whose mask is False."""
        image = np.zeros((*self.image_size, self.pipeline.channels), np.uint8)
        row = {"image": image, "label": np.int32(0)}
        unreadable = -1
        has_image = index < len(self.source)
        if has_image:
            try:
                row = self.read(int(index), np.random.default_rng(0))
            except UnreadableError:
                has_image = False
                unreadable = index
        return {**row, "mask": np.bool_(has_image), "unreadable": np.int64(unreadable)}

    def problem(self, index: int) -> str:
        """Return why an image cannot be read, in one line."""
        try:
            self.read(index, np.random.default_rng(0))
        except UnreadableError as error:
            return " ".join(str(error).split())
        return "it could not be read before"

    def read(self, index: int, rng: np.random.Generator) -> Row:
        """Return the transformed image and its label.

        Raises:
          UnreadableError: The image cannot be read.
          DataError: The label is not that of a class.
        """
        try:
            record = self.source[index]
            pixels = self.pipeline.decode(record["image"])
        except (UnreadableError, UserError):
            raise
        except Exception as error:  # sources raise anything on a corrupt record
            raise UnreadableError(str(error) or type(error).__name__) from error
        label = record["label"]
        num_classes = len(self.source.class_names)
        if not 0 <= label < num_classes:
            expected = f"expected a label from 0 to {num_classes - 1}"
            raise DataError(f"{self.source.describe(index)}: {expected}, got {label}")
        return {"image": self.pipeline(pixels, rng), "label": np.int32(label)}
