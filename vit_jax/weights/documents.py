"""The JSON documents that libraries keep beside their weights."""

import json
import pathlib
from collections.abc import Mapping
from types import UnionType
from typing import Any

from vit_jax.errors import DataError

Json = Mapping[str, Any]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      DataError: The file is corrupt, or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: expected a JSON object, got {value!r:.40}")
    return dict(value)


def read_key(document: Json, key: str, expected: type | UnionType, where: str) -> Any:
    """Return a value of a document.

    Args:
      document: The document.
      key: The key of the value.
      expected: The type of the value.
      where: The document, for errors.

    Raises:
      DataError: The key is missing, or its value is of another type.
    """
    value = document.get(key)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        name = getattr(expected, "__name__", expected)
        raise DataError(f"{where}: {key}: expected {name}, got {value!r:.60}")
    return value
