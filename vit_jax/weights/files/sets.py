"""Choose one set of weights from a file that has several: the raw weights or their EMA.

Training scripts save the weights under one key and their moving average under another, beside
optimizer states, settings and counters.
"""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vit_jax.errors import ConfigError, DataError

CHOICES = ("ema", "raw")

# Words in the keys of an average. The teachers of DINO and I-JEPA are averages of the students.
AVERAGE_KEY = re.compile(r"(^|[._])(ema|avg|averaged?|swa|teacher|target_encoder)($|[._])", re.I)
# The usual keys of the raw weights.
MODEL_KEYS = frozenset(
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
# Keys of entries that are not a model.
NON_MODEL_KEY = re.compile(
    r"optim|sched|scaler|loss|criterion|metric|callback|param_groups|hyper|config"
)
# Keys of heads that are stored beside their backbone. Without the head the weights are incomplete.
HEAD_KEY = re.compile(r"(^|[._])(head|fc|classifier|linear)$")
MAX_DEPTH = 3  # of nested keys


class WeightSet(NamedTuple):
    """The chosen set of weights.

    Attributes:
      key: The key of the set, such as `state_dict_ema`; empty if the set is the whole file.
      kind: `ema` or `raw`; empty if the file has no average.
      notes: Notes for the user.
    """

    key: str
    kind: str
    notes: tuple[str, ...]


def choose_set(keys: Sequence[str], weights: str, path: pathlib.Path) -> WeightSet:
    """Choose one of several sets of weights; by default the average, as timm does.

    Args:
      keys: The keys of the sets, such as `state_dict` and `state_dict_ema`.
      weights: `ema`, `raw`, or an empty string for the average if there is one.
      path: The path of the file, for errors.

    Raises:
      ConfigError: `weights` is `raw`, and the file has only an average.
      DataError: The choice is ambiguous.
    """
    averages = [key for key in keys if AVERAGE_KEY.search(key)]
    others = [key for key in keys if key not in averages]
    if weights == "raw" and averages and not others:
        problem = f"{path} has only an average ({averages[0]}); omit the flag"
        raise ConfigError("--weights", problem)
    takes_average = bool(averages) and weights != "raw"
    key = _choose_key(averages if takes_average else others, path)
    notes = []
    if takes_average and others:
        notes.append(f"using the average of the weights ({key}); --weights=raw uses the others")
    elif takes_average:
        notes.append(f"the weights are an average ({key})")
    elif averages:
        notes.append(f"using the raw weights ({key}), not their average")
    ignored = [other for other in others if other != key and not takes_average]
    if ignored:
        notes.append(f"using the weights in {key}; ignored: {', '.join(ignored)}")
    return WeightSet(key, "ema" if takes_average else "raw" if averages else "", tuple(notes))


def find_sets(
    content: Mapping[Any, Any], is_array: Callable[[Any], bool]
) -> dict[str, Mapping[Any, Any]]:
    """Return the sets of arrays in nested mappings, by their keys joined with dots.

    Args:
      content: The content of a file.
      is_array: Returns whether a value is an array.
    """
    sets = dict(_walk(content, (), is_array))
    if any(key and _is_model_key(key) for key in sets):
        sets.pop("", None)  # metrics beside the weights
    return {"": content} if "" in sets else sets


def _walk(
    content: Mapping[Any, Any],
    keys: tuple[str, ...],
    is_array: Callable[[Any], bool],
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield each mapping with arrays. Below the top level, none inside of another one."""
    has_arrays = any(map(is_array, content.values()))
    if has_arrays:
        yield ".".join(keys), content
    if len(keys) == MAX_DEPTH or (has_arrays and keys):
        return
    for key, value in content.items():
        if (
            isinstance(key, str)
            and isinstance(value, Mapping)
            and not NON_MODEL_KEY.search(key.lower())
        ):
            yield from _walk(value, (*keys, key), is_array)


def _choose_key(keys: Sequence[str], path: pathlib.Path) -> str:
    """Return the only key, or the only usual one."""
    usual = [key for key in keys if _is_model_key(key)] if len(keys) > 1 else list(keys)
    if len(usual) != 1 or any(HEAD_KEY.search(key) for key in keys if key not in usual):
        names = ", ".join(keys)
        raise DataError(f"{path}: several sets of weights ({names}); save one of them alone")
    return usual[0]


def _is_model_key(key: str) -> bool:
    return key.split(".")[0] in MODEL_KEYS or AVERAGE_KEY.search(key) is not None
