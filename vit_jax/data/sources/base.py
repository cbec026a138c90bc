"""The interface of a source of images: random access to labelled images, by index."""

import abc
from typing import Any, TypedDict

import numpy as np
from PIL import Image


class Record(TypedDict):
    """One labelled image."""

    image: bytes | Image.Image | np.ndarray  # an encoded file, a Pillow image, or uint8 (h, w, c)
    label: int


class Source(abc.ABC):
    """Labelled images by index.

    Attributes:
      name: The data set, with its version and the split.
      class_names: The classes, in the order of the labels.
      notes: What the user should know about the images, a line each.
      unreadable: Why each image that could not be read so far is unreadable, by index.
    """

    name: str
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, class_names: tuple[str, ...]) -> None:
        self.name = name
        self.class_names = class_names
        self.unreadable: dict[int, str] = {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Return a record; always the same one for the same index."""

    def describe(self, index: int) -> str:
        """Return the name of an image in errors."""
        return f"{self.name}[{index}]"

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same when a run is resumed, as plain JSON."""
        return {"name": self.name, "examples": len(self), "classes": list(self.class_names)}
