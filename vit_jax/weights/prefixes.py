"""Names of arrays without what a wrapper of the model put before all of them."""

import dataclasses
from collections.abc import Sequence

from vit_jax.weights.files import WeightFile, sets

# What scripts and wrappers call the model that they hold, such as torch's data parallelism
# (`module`), its compiler (`_orig_mod`) and Lightning (`model`).
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
# What is trained beside a model, and is no part of it: how the names of its arrays begin.
BESIDE = (
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
    """Return the arrays of a file under the names that they have in their model.

    Where the names show two models, the weights and their average, one of them is taken.

    Args:
      file: The file.
      weights: `ema` or `raw`; the average where there is one, if empty.

    Raises:
      ConfigError: There are no such weights.
    """
    inner = {name: name for name in file.headers}
    prefix = ""
    kind = file.kind
    notes = list(file.notes)
    while wrappers := _find_wrappers(list(inner.values())):
        wrapper = wrappers[0]
        if len(wrappers) > 1 or sets.AVERAGE.search(wrapper):
            chosen = sets.choose(wrappers, weights, file.path)
            wrapper = chosen.key
            kind = chosen.kind
            notes += chosen.notes
        notes += _left_out([own for own in inner.values() if _is_beside(own)])
        inner = {
            name: own.removeprefix(f"{wrapper}.")
            for name, own in inner.items()
            if own.startswith(f"{wrapper}.")
        }
        prefix += f"{wrapper}."
    if not prefix:
        return file
    notes.append(f"the names begin with {prefix}, which is left off")
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
    """Return the wrappers of which every name has one, apart from what is trained beside them."""
    firsts = [name.split(".", 1) for name in names if not _is_beside(name)]
    found = dict.fromkeys(parts[0] for parts in firsts)
    wrapped = found.keys() <= WRAPPERS and all(len(parts) == 2 for parts in firsts)
    return list(found) if wrapped else []


def _is_beside(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in BESIDE)


def _left_out(names: Sequence[str]) -> list[str]:
    """Return a note on what is trained beside a model."""
    if not names:
        return []
    parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
    return [f"left out, as it serves the training alone: {len(names)} arrays of {parts}"]
