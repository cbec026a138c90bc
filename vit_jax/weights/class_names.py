"""Make class names unique."""

import collections
from collections.abc import Sequence


def make_unique(names: Sequence[str]) -> tuple[str, ...]:
    """Append the class index to every name that occurs more than once.

    ImageNet's two cranes become `crane (134)` and `crane (517)`. Other names do not change.

    Args:
      names: The class names, in the order of the logits.

    Returns:
      A different name for each class, in the same order.
    """
    counts = collections.Counter(names)
    taken = set(names)
    apart = []
    for index, name in enumerate(names):
        own = name
        while counts[name] > 1 and own in taken:
            own = f"{own} ({index})"
        taken.add(own)
        apart.append(own)
    return tuple(apart)
