"""Which set of weights is taken from a file that has several: the weights, or their average.

Training scripts save the state of the model under one key and its moving average under another,
beside optimizers, settings and counters.
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.errors import ConfigError, DataError

CHOICES = ("ema", "raw")

# Words in the keys of an average. A teacher that learns from its student is one (DINO, I-JEPA).
AVERAGE = re.compile(r"(^|[._])(ema|avg|averaged?|swa|teacher|target_encoder)($|[._])", re.I)
# The usual keys of the weights of the model itself.
USUAL = frozenset(
    {
        "state_dict",
        "model",
        "model_state_dict",
        "model_state",
        "module",
        "net",
        "network",
        "params",
        "weights",
        "student",
        "encoder",
        "backbone",
    }
)
# Keys of what is no model.
OTHER = re.compile(r"optim|sched|scaler|loss|criterion|metric|callback|param_groups|hyper|config")
# Keys of what belongs to the model, though it is beside it.
HEAD = re.compile(r"(^|[._])(head|fc|classifier|linear)$")
DEPTH = 3  # keys on the way to a set


class Chosen(NamedTuple):
    """The set that is taken.

    Attributes:
      key: Where it is, such as `state_dict_ema`; empty where it is the whole file.
      kind: `ema` or `raw`; empty where nothing says so.
      notes: What the user should know.
    """

    key: str
    kind: str
    notes: tuple[str, ...]


def choose(keys: Sequence[str], weights: str, path: pathlib.Path) -> Chosen:
    """Choose one of several sets of weights: by default the average, as timm does.

    Args:
      keys: Where the sets are, such as `state_dict` and `state_dict_ema`.
      weights: `ema` or `raw`; the average where there is one, if empty.
      path: The file, for errors.

    Raises:
      ConfigError: There is an average only, and `raw` is asked for.
      DataError: It is not clear which.
    """
    averages = [key for key in keys if AVERAGE.search(key)]
    others = [key for key in keys if key not in averages]
    if weights == "raw" and averages and not others:
        problem = f"{path} has an average only ({averages[0]}); leave it out, or give ema"
        raise ConfigError("--weights", problem)
    takes_average = bool(averages) and weights != "raw"
    key = _pick(averages if takes_average else others, path)
    notes = []
    if takes_average and others:
        notes.append(f"took the average of the weights ({key}); --weights=raw takes the others")
    elif takes_average:
        notes.append(f"the weights are an average ({key})")
    elif averages:
        notes.append(f"took the weights themselves ({key}), not their average")
    left_out = [other for other in others if other != key and not takes_average]
    if left_out:
        notes.append(f"took the weights in {key}; left out: {', '.join(left_out)}")
    return Chosen(key, "ema" if takes_average else "raw" if averages else "", tuple(notes))


def find_sets(
    content: Mapping[Any, Any], is_array: Callable[[Any], bool]
) -> dict[str, Mapping[Any, Any]]:
    """Return the sets of arrays in nested mappings, by the keys that lead to them.

    Args:
      content: Of a file.
      is_array: Whether a value is an array.
    """
    found = dict(_walk(content, (), is_array))
    if any(key and _is_usual(key) for key in found):
        found.pop("", None)  # figures beside the weights
    return {"": content} if "" in found else found


def _walk(
    content: Mapping[Any, Any],
    keys: tuple[str, ...],
    is_array: Callable[[Any], bool],
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield each mapping that has arrays; below the first keys, none that is inside of another."""
    has_arrays = any(map(is_array, content.values()))
    if has_arrays:
        yield ".".join(keys), content
    if len(keys) == DEPTH or (has_arrays and keys):
        return
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not OTHER.search(key.lower()):
            yield from _walk(value, (*keys, key), is_array)


def _pick(keys: Sequence[str], path: pathlib.Path) -> str:
    """Return the only key, or the only usual one."""
    usual = [key for key in keys if _is_usual(key)] if len(keys) > 1 else list(keys)
    if len(usual) != 1 or any(HEAD.search(key) for key in keys if key not in usual):
        names = ", ".join(keys)
        raise DataError(f"{path}: several sets of weights ({names}); save one of them by itself")
    return usual[0]


def _is_usual(key: str) -> bool:
    return key.split(".")[0] in USUAL or AVERAGE.search(key) is not None
