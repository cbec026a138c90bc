"""Safe reading of JSON documents from unknown sources."""

import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from vit_jax.console.workdir import is_local

# The maximum size of a document. A parsed document may take thirty times as much memory.
MAX_BYTES = 16 * 2**20


def is_regular(path: epath.Path) -> bool:
    """Return whether a path is a regular file. For epath, pipes and devices are files too."""
    return os.path.isfile(path) if is_local(path) else path.is_file()


def read_json(path: epath.Path) -> Any:
    """Return the content of a JSON file.

    Raises:
      OSError: The file does not exist or cannot be read.
      ValueError: The path is not a regular file, or the file is too large or not valid JSON. The
        message is one line and does not have the path.
    """
    if path.exists() and not is_regular(path):
        raise ValueError("not a regular file")
    if (size := path.stat().length) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, expected at most {MAX_BYTES:,}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 ({error.reason} at byte {error.start:,})") from None
    return parse_json(text)


def parse_json(content: str) -> Any:
    """Return the content of a JSON text.

    Raises:
      ValueError: The text is not valid JSON, is nested too deeply, or has a duplicate key. The
        message is one line.
    """
    try:
        return json.loads(content, object_pairs_hook=_to_dict_without_duplicates)
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({' '.join(str(error).split())})") from None


def _to_dict_without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"duplicate key {key!r:.60}")
        result[key] = value
    return result
