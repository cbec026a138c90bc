"""Reading one row of a batch; an unreadable image gives a masked row."""

import dataclasses
from typing import Any

import numpy as np

from vit_jax.data import transforms
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources import Source
from vit_jax.errors import DataError, UserError

Row = dict[str, Any]

# A training run fails after this many consecutive unreadable images.
MAX_CONSECUTIVE_UNREADABLE = 100


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads and transforms the image at an index of a source."""

    source: Source
    pipeline: transforms.Pipeline
    image_size: tuple[int, int] = (0, 0)  # height and width of a row without an image

    def train(self, index: int, rng: np.random.Generator) -> Row:
        """Return the row of an image, or of the next readable one.

        Args:
          index: Index of the image in the source.
          rng: Generator of the random transforms.

        Raises:
          DataError: Too many consecutive images are unreadable, or a label is out of range.
        """
        index = int(index)
        for i in range(MAX_CONSECUTIVE_UNREADABLE):
            try:
                row = self.read((index + i) % len(self.source), rng)
            except UnreadableError:
                continue
            return {**row, "unreadable": np.int64(index if i else -1)}
        raise DataError(
            f"{self.source.describe(index)}: this image and the next "
            f"{MAX_CONSECUTIVE_UNREADABLE - 1} cannot be read: {self.problem(index)}"
        )

    def evaluate(self, index: int) -> Row:
        """Return the row of an image. The mask is False for a missing or unreadable image."""
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

    def pixels_or_reason(self, index: int) -> np.ndarray | str:
        """Return the transformed pixels, or in one line the reason why they cannot be read."""
        try:
            return np.asarray(self.read(index, np.random.default_rng(0))["image"])
        except UnreadableError as error:
            return " ".join(str(error).split())

    def problem(self, index: int) -> str:
        """Return the reason why an image cannot be read, in one line."""
        found = self.pixels_or_reason(index)
        return found if isinstance(found, str) else "reading it failed before, but succeeds now"

    def read(self, index: int, rng: np.random.Generator) -> Row:
        """Return the transformed image and its label.

        Raises:
          UnreadableError: The image cannot be read.
          DataError: The label is out of range.
        """
        try:
            record = self.source[index]
            pixels = self.pipeline.decode(record["image"])
        except (UnreadableError, UserError):
            raise
        except Exception as error:  # sources raise many types on a corrupt record
            raise UnreadableError(str(error) or type(error).__name__) from error
        label = record["label"]
        num_classes = len(self.source.class_names)
        if not 0 <= label < num_classes:
            expected = f"expected a label from 0 to {num_classes - 1}"
            raise DataError(f"{self.source.describe(index)}: {expected}, got {label}")
        return {"image": self.pipeline(pixels, rng), "label": np.int32(label)}
