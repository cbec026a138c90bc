"""The interface of a source: labelled images by index."""

import abc
from typing import Any, TypedDict

import numpy as np
from PIL import Image


class Record(TypedDict):
    """One labelled image."""

    image: bytes | Image.Image | np.ndarray  # an encoded file, a Pillow image, or uint8 (h, w, c)
    label: int


class Source(abc.ABC):
    """A random-access source of labelled images.

    Attributes:
      name: Name of the data set, with its version and split. It identifies the data of a run.
      title: Name for messages: the data set or folder, and the split.
      class_names: Names of the classes; label k is class k.
      notes: Notes for the user about the images, one line each.
      unreadable: Reasons for the images that could not be read so far, by index.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, class_names: tuple[str, ...]) -> None:
        self.name = self.title = name
        self.class_names = class_names
        self.unreadable: dict[int, str] = {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Return the record at an index; the same index always gives the same record."""

    def describe(self, index: int) -> str:
        """Return a name for an image, for error messages."""
        return f"{self.name}[{index}]"

    def file_name(self, index: int) -> str:
        """Return the name of the file of an image, or that of `describe` if it has none."""
        return self.describe(index)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Values that must be the same when a run is resumed, as plain JSON."""
        return {"name": self.name, "examples": len(self), "classes": list(self.class_names)}
