"""The maps of a report: which patches speak for the class that the model predicts."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Maps(NamedTuple):
    """The maps of images."""

    about: str  # what they are, or why there are none
    values: Float[np.ndarray, "n rows columns"] | None = None


NONE = Maps("There are no maps.")
