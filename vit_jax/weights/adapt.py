"""Adapt parameters to another model: another grid, patch, number of channels or set of classes.

Each function also returns notes, which tell the user what it changed.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax.errors import ConfigError
from vit_jax.weights.rules import Shape, format_shape, list_problems

# Parameters whose shape depends on the grid: position embeddings, relative position biases, and the
# projections over tokens of low-rank attention.
TABLES = re.compile(r"posemb/grid|.*/bias/table|.*/mix_[kv]/grid")
KERNELS = re.compile(r"stem/.*kernel")  # only those that are applied to pixels are adapted
CLASSIFIERS = ("head", "head_dist")
HEADS = (*CLASSIFIERS, "representation")

Params = dict[str, Any]
Resize = Callable[[str, Any, Shape], Any]
AdaptChannels = Callable[[Any, int], Any]  # (kernel (h, w, c, d), number of channels) -> kernel
ResizePatch = Callable[[Any, tuple[int, int]], Any]  # (kernel, patch (h, w)) -> kernel


def resize_tables(
    params: Mapping[str, Any], shapes: Mapping[str, Shape], resize: Resize
) -> tuple[Params, tuple[str, ...]]:
    """Resample the tables of a grid for another image size or window.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      resize: Maps a name, a table (h, w, d) and the new shape to the new table.

    Returns:
      The parameters, and notes on the changes.
    """
    resized = dict(params)
    changes = {}
    for name in filter(TABLES.fullmatch, params.keys() & shapes.keys()):
        old = params[name].shape
        new = shapes[name]
        if old != new and old[2:] == new[2:]:
            resized[name] = resize(name, params[name], new)
            changes[name] = f"resampled from {format_shape(old[:2])} to {format_shape(new[:2])}"
    return resized, (list_problems(changes),) if changes else ()


def adapt_stem(
    params: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    adapt_channels: AdaptChannels,
    resize_patch: ResizePatch,
) -> tuple[Params, tuple[str, ...]]:
    """Adapt the kernels that are applied to pixels to another number of channels or patch size.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      adapt_channels: Adapts one kernel to a number of channels.
      resize_patch: Adapts one kernel to a patch size.

    Returns:
      The parameters, and notes on the changes.
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
            notes.append(
                f"{name} resampled from {format_shape(old[:2])} to {format_shape(new[:2])}"
            )
    return adapted, tuple(notes)


def replace_heads(
    params: Mapping[str, Any], shapes: Mapping[str, Shape], *, other_classes: bool = False
) -> tuple[Params, tuple[str, ...]]:
    """Remove the heads that do not fit the model. The model then initializes its own.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      other_classes: Whether the classes differ. Then classification heads are removed even if the
        number of classes is the same.

    Returns:
      The remaining parameters, and notes on the changes.
    """
    kept = dict(params)
    notes = []
    for head in HEADS:
        present = _select_layer(head, _shapes(params))
        wanted = _select_layer(head, shapes)
        renamed = other_classes and head in CLASSIFIERS and bool(present)
        if present != wanted or renamed:
            kept = {name: value for name, value in kept.items() if name not in present}
            size = wanted.get(f"{head}/bias", (0,))[0]
            why = ", for other classes" if present == wanted else ""
            notes.append(f"{head} new ({size} outputs{why})" if wanted else f"{head} left out")
    return kept, tuple(notes)


def check_fit(params: Mapping[str, Any], shapes: Mapping[str, Shape], where: str) -> None:
    """Check that parameters have the names and shapes of the model. Heads may be missing.

    Args:
      params: The parameters, by name.
      shapes: Shapes of the model's parameters, by name.
      where: The origin of the parameters, for errors.

    Raises:
      ConfigError: Names or shapes differ. The message lists all of them.
    """
    present = _shapes(params)
    problems = {}
    for name in sorted(present.keys() | shapes.keys()):
        if name not in present and name.split("/")[0] not in HEADS:
            problems[name] = f"({format_shape(shapes[name])}) is missing"
        elif name in present and name not in shapes:
            problems[name] = f"({format_shape(present[name])}) is an unexpected key"
        elif name in present and present[name] != shapes[name]:
            problems[name] = (
                f"is {format_shape(present[name])}, expected {format_shape(shapes[name])}"
            )
    if problems:
        raise ConfigError("config.init_from", f"{where}: {list_problems(problems)}")


def _select_layer(layer: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if name.split("/")[0] == layer}


def _shapes(params: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in params.items()}
