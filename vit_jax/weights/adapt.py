"""Parameters made to fit another model: position grids of another size, heads for other classes.

Each is a function of its own, and says what it did.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.errors import ConfigError
from vit_jax.weights.rules import Shape, list_problems, show

GRID = "posemb/grid"
HEADS = ("head", "head_dist", "representation")

Params = dict[str, Any]
Resample = Callable[[Any, int, int], Any]


def resize_grids(
    params: Mapping[str, Any], shapes: Mapping[str, Shape], resample: Resample
) -> tuple[Params, tuple[str, ...]]:
    """Resamples the table of positions to the grid of another image size.

    Args:
      params: By name.
      shapes: Of the model's parameters.
      resample: From a grid (h, w, d), a height and a width, to a grid of that size.

    Returns:
      The parameters, and what was done.
    """
    if GRID not in params or GRID not in shapes or params[GRID].shape == shapes[GRID]:
        return dict(params), ()
    height, width, _ = shapes[GRID]
    old = show(params[GRID].shape[:2])
    resized = resample(params[GRID], height, width)
    return {**params, GRID: resized}, (f"{GRID} resampled from {old} to {height}x{width}",)


def replace_heads(
    params: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> tuple[Params, tuple[str, ...]]:
    """Leaves out the heads that are not those of the model; where it has others, they are new.

    Args:
      params: By name.
      shapes: Of the model's parameters.

    Returns:
      The parameters that stay, and what was done.
    """
    kept, notes = dict(params), []
    for head in HEADS:
        names = {name for name in (*params, *shapes) if name.split("/")[0] == head}
        found, wanted = ({n: t[n] for n in names if n in t} for t in (_shapes(params), shapes))
        if found != wanted:
            kept = {name: value for name, value in kept.items() if name not in names}
            size = wanted.get(f"{head}/bias", (0,))[0]
            notes.append(f"{head} new ({size} outputs)" if wanted else f"{head} left out")
    return kept, tuple(notes)


def check_fit(params: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> None:
    """Refuses parameters that are not those of the model, heads that are new aside.

    Raises:
      ConfigError: With all that do not fit.
    """
    found, problems = _shapes(params), {}
    for name in sorted(found.keys() | shapes.keys()):
        if name not in found and name.split("/")[0] not in HEADS:
            problems[name] = f"({show(shapes[name])}) is not there"
        elif name in found and name not in shapes:
            problems[name] = f"({show(found[name])}) has no place in the model"
        elif name in found and found[name] != shapes[name]:
            problems[name] = f"is {show(found[name])}, expected {show(shapes[name])}"
    if problems:
        raise ConfigError("config.init_from", f"{where}: {list_problems(problems)}")


def _shapes(params: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in params.items()}
