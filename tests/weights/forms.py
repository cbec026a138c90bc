"""Forms in which people have weights: a random model, saved as they have it, and its outputs."""

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Saved(NamedTuple):
    """A model that is saved, and what it computes.

    Attributes:
      path: The file or folder.
      images: Normalized (b, h, w, c).
      outputs: Logits (b, k), or features (b, d), in float64.
      rounding: The largest difference of the outputs in float32 from them.
      is_logits: Whether they are logits.
      name: The name of our model; empty where the documents say it.
      flags: Fields of our config that the user has to say.
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
        """What float32 allows."""
        return max(1e-5 * max(1.0, np.abs(self.outputs).max()), 10 * self.rounding)


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of weights.

    Attributes:
      text: What it is.
      save: Builds the model and saves it in a folder.
      refused: What the error says; empty where the weights are read.
      note: What a note says; empty where there need not be any.
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
        for parameter in model.parameters():  # also those that are 0 or 1 at first
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_images(text: str, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return two normalized images (2, h, w, c)."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    return rng.standard_normal((2, *size, channels)).astype(np.float32)


def outputs_of(forward: Callable[[Any], Any], model: Any, images: np.ndarray) -> Any:
    """Return outputs in float64, and how far those in float32 are off.

    Args:
      forward: From torch's images (b, c, h, w) to outputs.
      model: What computes them; float64 afterwards.
      images: Normalized (b, h, w, c).
    """
    import torch

    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        single = forward(pixels).numpy()
        model.double()
        double = forward(pixels.double()).numpy()
    return double, float(np.abs(double - single).max())


def channel_flags(channels: int) -> dict[str, str]:
    """Return how the pixels of a model without RGB are normalized, which only the user knows."""
    if channels == 3:
        return {}
    numbers = ",".join(["0.5"] * channels)
    return {"data.channels": str(channels), "data.mean": numbers, "data.std": numbers}
