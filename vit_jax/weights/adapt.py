"""Parameters made to fit another model: other grids, patches and channels, heads of other classes.

Each function returns notes on what it did.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.errors import ConfigError
from vit_jax.weights.rules import Shape, list_problems, show

# Parameters that belong to a size of grid: positions, biases by offset, mixtures of tokens.
TABLES = re.compile(r"posemb/grid|.*/bias/table|.*/mix_[kv]/grid")
KERNELS = re.compile(r"stem/.*kernel")  # some of which see pixels
CLASSIFIERS = ("head", "head_dist")
HEADS = (*CLASSIFIERS, "representation")

Params = dict[str, Any]
Resize = Callable[[str, Any, Shape], Any]
AdaptChannels = Callable[[Any, int], Any]  # from a kernel (h, w, c, d) and a number of channels
ResizePatch = Callable[[Any, tuple[int, int]], Any]  # from a kernel and a size of patch


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


def adapt_stem(
    params: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    adapt_channels: AdaptChannels,
    resize_patch: ResizePatch,
) -> tuple[Params, tuple[str, ...]]:
    """Adapt the kernels that see pixels to other channels, and to patches of another size.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      adapt_channels: What adapts one kernel to a number of channels.
      resize_patch: What adapts one kernel to a size of patch.

    Returns:
      The parameters, and notes on what was done.
    """
    adapted = dict(params)
    notes = []
    for name in sorted(filter(KERNELS.fullmatch, params.keys() & shapes.keys())):
        old, new = tuple(params[name].shape), shapes[name]
        if len(old) != 4 or len(new) != 4 or old[3] != new[3]:
            continue
        if old[2] != new[2]:
            how = "summed" if new[2] == 1 else "repeated and scaled"
            adapted[name] = adapt_channels(adapted[name], new[2])
            notes.append(f"{name} {how} from {old[2]} to {new[2]} channels")
        if old[:2] != new[:2]:
            adapted[name] = resize_patch(adapted[name], (new[0], new[1]))
            notes.append(f"{name} resampled from {show(old[:2])} to {show(new[:2])}")
    return adapted, tuple(notes)


def replace_heads(
    params: Mapping[str, Any], shapes: Mapping[str, Shape], *, other_classes: bool = False
) -> tuple[Params, tuple[str, ...]]:
    """Remove the heads that are not those of the model, which initializes its own.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      other_classes: Whether the outputs are other classes, even where there are as many.

    Returns:
      The parameters that are kept, and notes on what was done.
    """
    kept = dict(params)
    notes = []
    for head in HEADS:
        present = _of_layer(head, _shapes(params))
        wanted = _of_layer(head, shapes)
        renamed = other_classes and head in CLASSIFIERS and bool(present)
        if present != wanted or renamed:
            kept = {name: value for name, value in kept.items() if name not in present}
            size = wanted.get(f"{head}/bias", (0,))[0]
            why = ", for other classes" if present == wanted else ""
            notes.append(f"{head} new ({size} outputs{why})" if wanted else f"{head} left out")
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
