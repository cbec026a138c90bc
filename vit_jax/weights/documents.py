"""Read the JSON documents beside weights, such as `config.json`."""

import json
import math
import pathlib
from collections.abc import Mapping
from types import UnionType
from typing import Any

from vit_jax.errors import DataError

Json = Mapping[str, Any]

MAX_BYTES = 8 << 20  # parsed, JSON can take thirty times as much memory


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
      DataError: The file is too large, cannot be read, or is not a JSON object.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes; expected at most {MAX_BYTES:,}")
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
      expected: The type of the value. Only `bool` accepts booleans.
      where: The name of the document, for errors.

    Raises:
      DataError: The key is missing, or its value has another type or is not finite.
    """
    value = document.get(key)
    is_number = not isinstance(value, float) or math.isfinite(value)
    is_truth = isinstance(value, bool) and expected is not bool
    if not isinstance(value, expected) or is_truth or not is_number:
        name = getattr(expected, "__name__", expected)
        raise DataError(f"{where}: {key}: expected {name}, got {value!r:.60}")
    return value
