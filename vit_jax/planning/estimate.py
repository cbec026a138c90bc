"""An estimate of the memory of a training step, from steps of models with few blocks.

With a batch of b images per step and n blocks, the peak memory of a device is nearly

    p0 + p1 b + n (q0 + q1 b)

where each stage of Swin has its own n, q0 and q1. Steps with few blocks are compiled soon, and they
fit where the whole model does not. XLA computes activations again where memory is short, which the
estimate does not know; a step of the whole model has to confirm what follows from it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Numbers of blocks of a stage between which the memory of a block is measured. Blocks of Swin come
# in pairs, whose attention differs.
_FEW = 2
_MORE = 4


class Part(NamedTuple):
    """A model with few blocks, and how often its memory counts in that of the whole model."""

    change: dict[str, Any]  # the settings that differ from the whole model, by path
    weight: float


@dataclasses.dataclass(frozen=True)
class Line:
    """The peak memory of a device in bytes as a function of the batch size."""

    fixed: float
    per_image: float

    def peak(self, batch_size: int) -> float:
        """Return the peak memory at a batch size."""
        return self.fixed + self.per_image * batch_size

    def solve(self, peak: int) -> float:
        """Return the batch size of a peak; infinite if the memory does not grow with the batch."""
        return (peak - self.fixed) / self.per_image if self.per_image > 0 else math.inf


def through(first: tuple[int, float], second: tuple[int, float]) -> Line:
    """Return the line through two points, each a batch size and its peak memory."""
    (x0, y0), (x1, y1) = first, second
    slope = (y1 - y0) / (x1 - x0)
    return Line(y0 - slope * x0, slope)


def split(model: Mapping[str, Any]) -> list[Part]:
    """Return models with few blocks whose memory, weighted and summed, is that of a model.

    This is the model itself if it has few blocks, an unknown number, or a program that does not
    grow with them (`model.scan`).

    Args:
      model: The `model` section of the config.
    """
    name = next((name for name in ("depth", "depths") if name in model), "")
    depths = (model[name],) if name == "depth" else tuple(model.get(name, ()))
    if model["scan"] or max(depths, default=0) <= _MORE:
        return [Part({}, 1.0)]
    base = [min(depth, _FEW) for depth in depths]

    def change(stage: int, depth: int) -> dict[str, Any]:
        shorter = [*base[:stage], depth, *base[stage + 1 :]]
        return {f"model.{name}": shorter[0] if name == "depth" else tuple(shorter)}

    parts = []
    for stage, depth in enumerate(depths):
        if depth > _FEW:
            more = min(depth, _MORE)
            parts.append(Part(change(stage, more), (depth - _FEW) / (more - _FEW)))
    return [Part(change(0, base[0]), 1 - sum(part.weight for part in parts)), *parts]


def estimate(
    parts: Sequence[Part], sizes: tuple[int, int], peak_of: Callable[[dict[str, Any]], int]
) -> Line:
    """Return the memory of a device as a function of the batch size.

    Args:
      parts: The models of `split`.
      sizes: Two batch sizes.
      peak_of: Maps changed settings, by path, to the peak memory of a device.
    """
    peaks = [
        sum(part.weight * peak_of({**part.change, "batch_size": size}) for part in parts)
        for size in sizes
    ]
    return through((sizes[0], peaks[0]), (sizes[1], peaks[1]))
