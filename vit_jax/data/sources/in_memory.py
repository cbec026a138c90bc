"""Images in memory, or by path, that a caller passes."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vit_jax.data.images import AnyImage
from vit_jax.data.sources.base import Record, Source


class InMemory(Source):
    """Images from a caller, without labels: every label is 0."""

    def __init__(self, images: Sequence[AnyImage], class_names: tuple[str, ...]) -> None:
        super().__init__("image", class_names)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        if isinstance(image, str | pathlib.Path):
            with open(image, "rb") as file:
                return {"image": file.read(), "label": 0}
        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            pixels = image[..., 0] if image.shape[2:] == (1,) else image
            if pixels.ndim == 2 or pixels.shape[2:] in ((3,), (4,)):
                image = Image.fromarray(pixels)
        return {"image": image, "label": 0}

    def describe(self, index: int) -> str:
        """Return the path of the image, or its index."""
        image = self._images[index]
        return str(image) if isinstance(image, str | pathlib.Path) else super().describe(index)
