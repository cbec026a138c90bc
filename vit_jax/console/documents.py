"""JSON documents that somebody else may have written: small, whole, and without repeated keys."""

import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from vit_jax.console.workdir import is_local

# The largest document that is read; parsed, one may take thirty times as much memory.
MAX_BYTES = 16 * 2**20


def is_regular(path: epath.Path) -> bool:
    """Return whether there is a file that ends: no pipe and no device, which epath takes too."""
    return os.path.isfile(path) if is_local(path) else path.is_file()


def read_json(path: epath.Path) -> Any:
    """Return what a JSON document holds.

    Raises:
      OSError: It is not there, or cannot be read.
      ValueError: It is no regular file, too large, or not valid JSON; in one line, without its
        path.
    """
    if path.exists() and not is_regular(path):
        raise ValueError("no regular file")
    if (size := path.stat().length) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MAX_BYTES:,} of a document")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not in UTF-8 ({error.reason} at byte {error.start:,})") from None
    return parse_json(text)


def parse_json(content: str) -> Any:
    """Return what a text in JSON holds.

    Raises:
      ValueError: It is not valid JSON, is nested too deeply, or has a key twice; in one line.
    """
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({' '.join(str(error).split())})") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.60} is there twice")
        found[key] = value
    return found
