"""Images that a caller passes, in memory or by path."""

import os
import threading
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.data.image_files import read_image_file
from vit_jax.data.images import UnreadableError
from vit_jax.data.sources.base import Record, Source

# The types of a single image, besides an array.
_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)

_KINDS = "a path, the bytes of a file, an open file, a Pillow image or uint8 pixels"


class InMemory(Source):
    """Images without labels; every label is 0.

    Args:
      images: An ordered iterable of paths, files, Pillow images or pixel arrays, or a batch of
        pixels of shape (n, h, w, c).
      class_names: Names of the classes.

    Raises:
      TypeError: `images` is a single image, or not an ordered iterable.
    """

    def __init__(self, images: Any, class_names: tuple[str, ...]) -> None:
        super().__init__("image", class_names)
        self._images = _to_list(images)
        self._files = threading.Lock()  # an open file has a single position

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Record:
        image = self._images[index]
        if isinstance(image, Image.Image):
            return {"image": image, "label": 0}
        if isinstance(image, str | os.PathLike):
            return {"image": _read(image), "label": 0}
        if isinstance(image, bytes | bytearray | memoryview):
            return {"image": bytes(image), "label": 0}
        if hasattr(image, "read"):
            return {"image": self._read_open(image), "label": 0}
        if hasattr(image, "__array__"):
            return {"image": _from_pixels(np.asarray(image)), "label": 0}
        raise UnreadableError(f"expected {_KINDS}, got {_type(image)}")

    def describe(self, index: int) -> str:
        """Return the path of the image, or its index."""
        image = self._images[index]
        return str(image) if isinstance(image, str | os.PathLike) else super().describe(index)

    def _read_open(self, file: Any) -> bytes:
        """Return all bytes of an open file; its position stays the same."""
        with self._files:
            seekable = file.seekable()
            position = file.tell() if seekable else 0
            if seekable:
                file.seek(0)
            content = file.read()
            if seekable:
                file.seek(position)
        if not isinstance(content, bytes):
            raise UnreadableError("the file was opened as text; open it with 'rb'")
        return content


def _to_list(images: Any) -> list[Any]:
    """Return the images of an iterable or of a batch as a list.

    Raises:
      TypeError: `images` is a single image, or not an ordered iterable.
    """
    num_axes = getattr(images, "ndim", 1)
    if isinstance(images, _SINGLE) or hasattr(images, "read") or num_axes in (2, 3):
        raise TypeError("expected a sequence of images; [image] for a single one")
    if num_axes not in (1, 4):
        raise TypeError(f"expected a batch (n, h, w, c), got an array {tuple(images.shape)}")
    if isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise TypeError(f"expected a sequence of images, got {_type(images)}")
    return list(np.asarray(images)) if num_axes == 4 else list(images)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_image_file(path)
    except FileNotFoundError:
        raise UnreadableError("no such file") from None
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def _from_pixels(pixels: np.ndarray) -> Image.Image | np.ndarray:
    """Return pixels as a Pillow image where Pillow has a mode for them, else as an array."""
    if pixels.dtype != np.uint8:
        hint = "; scale 0..1 by 255, and round" if pixels.dtype.kind == "f" else ""
        raise UnreadableError(f"expected uint8 pixels, got {pixels.dtype} {pixels.shape}{hint}")
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise UnreadableError(
            f"expected uint8 pixels (height, width, channels), got {pixels.shape}"
        )
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    return Image.fromarray(pixels) if pixels.shape[2:] in ((), (3,), (4,)) else pixels


def _type(value: Any) -> str:
    return type(value).__name__
