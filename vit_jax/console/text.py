"""Text for a terminal: control characters, and those that it does not have, are escaped."""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

# Control characters, halves of surrogate pairs (bytes of a file name that are no text), and the
# separators that end a line or paragraph.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}

# What turns the direction of the text around it: a name could look like another.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u061c\u200e\u200f"


def printable(text: str, encoding: str | None) -> str:
    """Return a line in which characters that a terminal would act upon, or lacks, are escaped.

    Args:
      text: The line.
      encoding: Of the terminal; None for UTF-8.
    """
    if not text.isprintable():
        text = "".join(_escape(character) if _acts(character) else character for character in text)
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def to_json(content: Any, indent: int | None = None) -> str:
    """Return JSON in printable ASCII, where NaN and infinities, which JSON has not, become null."""
    text = json.dumps(_with_nulls(content), indent=indent, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _with_nulls(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _with_nulls(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _acts(character: str) -> bool:
    turns = unicodedata.bidirectional(character) in _DIRECTIONS or character in _MARKS
    return turns or unicodedata.category(character) in _ESCAPED


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
