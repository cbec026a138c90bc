"""Parameters made to fit another model: position grids of another size, heads for other classes.

Each function returns notes on what it did.
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
    """Resample the tables that belong to a size of grid for another image size or window.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      resize: From a name, a table (h, w, d) and a shape, to a table of that shape.

    Returns:
      The parameters, and notes on what was done.
    """
    resized = dict(params)
    done = {}
    for name in filter(TABLES.fullmatch, params.keys() & shapes.keys()):
        old = params[name].shape
        new = shapes[name]
        if old != new and old[2:] == new[2:]:
            resized[name] = resize(name, params[name], new)
            done[name] = f"resampled from {show(old[:2])} to {show(new[:2])}"
    return resized, (list_problems(done),) if done else ()


def replace_heads(
    params: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> tuple[Params, tuple[str, ...]]:
    """Remove the heads that are not those of the model, which initializes its own.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.

    Returns:
      The parameters that are kept, and notes on what was done.
    """
    kept = dict(params)
    notes = []
    for head in HEADS:
        present = _of_layer(head, _shapes(params))
        wanted = _of_layer(head, shapes)
        if present != wanted:
            kept = {name: value for name, value in kept.items() if name not in present}
            size = wanted.get(f"{head}/bias", (0,))[0]
            notes.append(f"{head} new ({size} outputs)" if wanted else f"{head} left out")
    return kept, tuple(notes)


def check_fit(params: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> None:
    """Check that parameters are those of the model; heads may be missing.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      where: Where the parameters come from, for errors.

    Raises:
      ConfigError: Names or shapes do not fit; all of them are listed.
    """
    present = _shapes(params)
    problems = {}
    for name in sorted(present.keys() | shapes.keys()):
        if name not in present and name.split("/")[0] not in HEADS:
            problems[name] = f"({show(shapes[name])}) is missing"
        elif name in present and name not in shapes:
            problems[name] = f"({show(present[name])}) is an unexpected key"
        elif name in present and present[name] != shapes[name]:
            problems[name] = f"is {show(present[name])}, expected {show(shapes[name])}"
    if problems:
        raise ConfigError("config.init_from", f"{where}: {list_problems(problems)}")


def _of_layer(layer: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if name.split("/")[0] == layer}


def _shapes(params: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in params.items()}
