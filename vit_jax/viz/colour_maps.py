"""Colour maps: from numbers to colours that are even to the eye and safe for colour-blind readers.

The maps are viridis and inferno of Smith and van der Walt (2015), which are in the public domain
(CC0), at evenly spaced values.
"""

import numpy as np
from jaxtyping import Float, UInt8

COLOUR_MAPS = {
    "viridis": "440154 482878 3e4a89 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "inferno": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
}


def to_colours(values: Float[np.ndarray, "*shape"], name: str) -> UInt8[np.ndarray, "*shape 3"]:
    """Return the colours of numbers, linear between those of `COLOUR_MAPS`.

    Args:
      values: The numbers; 0 has the first colour and 1 the last. Others are clipped.
      name: A name of `COLOUR_MAPS`.
    """
    anchors = np.array([list(bytes.fromhex(text)) for text in COLOUR_MAPS[name].split()])
    positions = np.linspace(0, 1, len(anchors))
    channels = [np.interp(values, positions, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
