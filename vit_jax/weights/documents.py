"""The JSON documents that libraries keep beside their weights."""

import json
import math
import pathlib
from collections.abc import Mapping
from types import UnionType
from typing import Any

from vit_jax.errors import DataError

Json = Mapping[str, Any]

MAX_BYTES = 8 << 20  # what JSON makes of them is thirty times more


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      DataError: The file is corrupt, or holds something else.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes, far more than such a document needs")
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
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
    is_number = not isinstance(value, float) or math.isfinite(value)
    is_truth = isinstance(value, bool) and expected is not bool
    if not isinstance(value, expected) or is_truth or not is_number:
        name = getattr(expected, "__name__", expected)
        raise DataError(f"{where}: {key}: expected {name}, got {value!r:.60}")
    return value
