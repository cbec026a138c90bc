"""Names of classes, made different where two classes have the same."""

import collections
from collections.abc import Sequence


def keep_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with the index of the class after each that occurs twice.

    ImageNet's two cranes become `crane (134)` and `crane (517)`. Other names stay as they are, and
    the result has no name twice.

    Args:
      names: By index of the class.
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
