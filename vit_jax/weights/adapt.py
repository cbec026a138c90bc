"""Parameters made to fit another model: position grids of another size, heads for other classes.

Each is a function of its own, and says what it did.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.errors import ConfigError
from vit_jax.weights.rules import Shape, list_problems, show

# Parameters that belong to a size of grid: positions, biases by offset, mixtures of tokens.
TABLES = re.compile(r"posemb/grid|.*/bias/table|.*/mix_[kv]/grid")
HEADS = ("head", "head_dist", "representation")

Params = dict[str, Any]
Resize = Callable[[str, Any, Shape], Any]


def resize_tables(
    params: Mapping[str, Any], shapes: Mapping[str, Shape], resize: Resize
) -> tuple[Params, tuple[str, ...]]:
    """Makes the tables of a size of grid those of another image size or window.

    Args:
      params: By name.
      shapes: Of the model's parameters.
      resize: From a name, a table (h, w, d) and a shape, to a table of that shape.

    Returns:
      The parameters, and what was done.
    """
    resized, done = dict(params), {}
    for name in filter(TABLES.fullmatch, params.keys() & shapes.keys()):
        old, new = params[name].shape, shapes[name]
        if old != new and old[2:] == new[2:]:
            resized[name] = resize(name, params[name], new)
            done[name] = f"resampled from {show(old[:2])} to {show(new[:2])}"
    return resized, (list_problems(done),) if done else ()


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
