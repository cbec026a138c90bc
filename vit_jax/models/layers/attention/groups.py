"""The division of a patch grid into groups: contiguous windows, or dilated grids over the image."""

from typing import Any, NamedTuple

import einops

CONTIGUOUS = "b (i r) (j s) c -> b (i j r s) c"
DILATED = "b (r i) (s j) c -> b (i j r s) c"


class Groups(NamedTuple):
    """The division of a patch grid into groups of `window` height x width patches."""

    window: tuple[int, int]
    padded: tuple[int, int]  # size of the grid, padded to whole groups
    shift: tuple[int, int] = (0, 0)  # rows and columns by which the grid is rolled first
    pattern: str = CONTIGUOUS

    def split(self, x: Any) -> Any:
        """Return the patches (b, g * m, c) of a padded grid (b, h, w, c), group by group."""
        r, s = self.window
        return einops.rearrange(x, self.pattern, r=r, s=s)

    def join(self, x: Any) -> Any:
        """Return the padded grid: undo `split`."""
        left, right = self.pattern.split("->")
        height, width = self.padded
        r, s = self.window
        return einops.rearrange(x, f"{right} -> {left}", r=r, s=s, i=height // r, j=width // s)
