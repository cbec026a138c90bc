"""The choice of a penalty: the one with the highest accuracy on images that are not fitted."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Choice(NamedTuple):
    """A chosen penalty."""

    penalty: float
    choosing_top1: float  # accuracy on the images that chose it
    at_limit: bool  # whether it is the first or the last penalty, so that others may be better


def choose(
    penalties: Sequence[float],
    predict: Callable[[float], Int[np.ndarray, " n"]],
    labels: Int[np.ndarray, " n"],
) -> Choice:
    """Return the penalty with the most correct predictions; of equal ones, the largest.

    Args:
      penalties: The penalties to try, in increasing order.
      predict: Returns predictions for the images that choose, given a penalty.
      labels: The classes of these images.
    """
    correct = [int((predict(penalty) == labels).sum()) for penalty in penalties]
    best = max(range(len(penalties)), key=lambda i: (correct[i], i))
    at_limit = best in (0, len(penalties) - 1)
    return Choice(penalties[best], correct[best] / len(labels), at_limit)
