"""TFDS's split arithmetic, such as `train[:90%]+test`, for any source."""

from collections.abc import Mapping

import tensorflow_datasets as tfds


def select(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the images that a split specification selects, as (split, index) pairs.

    Args:
      split: Specification such as `train[:90%]+test`.
      sizes: Number of images in each split.

    Raises:
      ValueError: A split is unknown, or the specification is invalid.
    """
    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
        for name, size in sizes.items()
    }
    spans = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return [
        (span.splitname, index)
        for span in spans
        for index in range(sizes[span.splitname])[span.from_ : span.to]
    ]
