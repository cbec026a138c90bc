"""Strip the prefixes that wrappers of a model add to the names of its arrays."""

import dataclasses
from collections.abc import Sequence

from vit_jax.weights.files import WeightFile, sets

# Prefixes of scripts and wrappers, such as torch's data parallelism (`module`), its compiler
# (`_orig_mod`) and Lightning (`model`).
WRAPPERS = frozenset(
    {
        "module",
        "model",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_forward_module",
        "net",
        "network",
        "backbone",
        "encoder",
        "student",
        "teacher",
        "ema",
        "model_ema",
        "ema_model",
    }
)
# Prefixes of modules that are trained beside a model and are not part of it.
AUXILIARY = (
    "head.mlp",
    "head.last_layer",
    "dino_head",
    "ibot_head",
    "projection_head",
    "projector",
    "predictor",
    "criterion",
    "loss",
    "n_averaged",
)


def unwrap(file: WeightFile, weights: str = "") -> WeightFile:
    """Strip the prefixes that wrappers added to all names of a file.

    If the prefixes separate two models, the weights and their EMA, one of the two is chosen.

    Args:
      file: The open file.
      weights: `ema`, `raw`, or an empty string for the EMA if there is one.

    Returns:
      The same file with the bare names.

    Raises:
      ConfigError: The file does not have the requested `weights`.
    """
    inner = {name: name for name in file.headers}
    prefix = ""
    kind = file.kind
    notes = list(file.notes)
    while wrappers := _find_wrappers(list(inner.values())):
        wrapper = wrappers[0]
        if len(wrappers) > 1 or sets.AVERAGE_KEY.search(wrapper):
            chosen = sets.choose_set(wrappers, weights, file.path)
            wrapper = chosen.key
            kind = chosen.kind
            notes += chosen.notes
        notes += _note_auxiliary([own for own in inner.values() if _is_auxiliary(own)])
        inner = {
            name: own.removeprefix(f"{wrapper}.")
            for name, own in inner.items()
            if own.startswith(f"{wrapper}.")
        }
        prefix += f"{wrapper}."
    if not prefix:
        return file
    notes.append(f"the prefix {prefix} of all names was removed")
    names = {own: name for name, own in inner.items()}
    headers = {own: file.headers[name] for own, name in names.items()}
    return dataclasses.replace(
        file,
        headers=headers,
        read=lambda own: file.read(names[own]),
        notes=tuple(notes),
        kind=kind,
    )


def _find_wrappers(names: Sequence[str]) -> list[str]:
    """Return the outermost wrappers if every name, apart from auxiliary ones, has one; else []."""
    split = [name.split(".", 1) for name in names if not _is_auxiliary(name)]
    outermost = dict.fromkeys(parts[0] for parts in split)
    wrapped = outermost.keys() <= WRAPPERS and all(len(parts) == 2 for parts in split)
    return list(outermost) if wrapped else []


def _is_auxiliary(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in AUXILIARY)


def _note_auxiliary(names: Sequence[str]) -> list[str]:
    """Return a note on the auxiliary arrays that are ignored."""
    if not names:
        return []
    parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
    return [f"ignored, as only training needs them: {len(names)} arrays of {parts}"]
