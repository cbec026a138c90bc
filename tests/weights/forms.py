"""Forms of weight files: a random model, saved in a certain form, and its outputs."""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Saved(NamedTuple):
    """A saved model and its outputs.

    Attributes:
      path: The file or folder.
      images: Normalized images (b, h, w, c).
      outputs: Logits (b, k), or features (b, d), in float64.
      rounding: The largest difference between the outputs in float32 and in float64.
      is_logits: Whether the outputs are logits.
      name: The name of our model; empty if the documents state it.
      flags: Fields of our config that the user has to give.
    """

    path: pathlib.Path
    images: np.ndarray
    outputs: np.ndarray
    rounding: float
    is_logits: bool
    name: str
    flags: Mapping[str, str]

    @property
    def tolerance(self) -> float:
        """The largest difference from `outputs` that rounding to float32 explains."""
        return max(1e-5 * max(1.0, np.abs(self.outputs).max()), 10 * self.rounding)


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of weights.

    Attributes:
      text: The description in docs/weights.md.
      save: Builds the model and saves it in a folder.
      refused: Part of the error; empty if the weights are read.
      note: Part of a note; empty if no note is needed.
      comes_back: Whether an export gives the same bytes under the same names.
    """

    text: str
    save: Callable[[pathlib.Path], Saved]
    refused: str = ""
    note: str = ""
    comes_back: bool = True


def randomize(model: Any, text: str) -> Any:
    """Return a model in evaluation mode whose parameters are all random."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    with torch.no_grad():
        for parameter in model.parameters():  # also those that are initialized to 0 or 1
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_images(text: str, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return two normalized images (2, h, w, c)."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return rng.standard_normal((2, *size, channels)).astype(np.float32)


def outputs_of(forward: Callable[[Any], Any], model: Any, images: np.ndarray) -> Any:
    """Return outputs in float64, and the largest difference of those in float32.

    Args:
      forward: Maps torch images (b, c, h, w) to outputs.
      model: The model that `forward` runs; it is in float64 afterwards.
      images: Normalized images (b, h, w, c).
    """
    import torch

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        single = forward(pixels).numpy()
        model.double()
        double = forward(pixels.double()).numpy()
    return double, float(np.abs(double - single).max())


def channel_flags(channels: int) -> dict[str, str]:
    """Return the flags that a model of other channels than RGB needs for its normalization."""
    if channels == 3:
        return {}
    numbers = ",".join(["0.5"] * channels)
    return {"data.channels": str(channels), "data.mean": numbers, "data.std": numbers}
