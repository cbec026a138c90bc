"""Escaping of text for terminals and for JSON."""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

# Unicode categories: control characters, surrogates (undecodable bytes of a file name), and line
# and paragraph separators.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}

# Bidirectional controls, which can make a name look like another one.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u061c\u200e\u200f"


def printable(text: str, encoding: str | None) -> str:
    """Escape control characters, and characters that a terminal cannot display.

    Args:
      text: One line of text.
      encoding: The encoding of the terminal; None for UTF-8.
    """
    if not text.isprintable():
        text = "".join(
            _escape_character(character) if _is_control(character) else character
            for character in text
        )
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def to_json(content: Any, indent: int | None = None) -> str:
    """Return JSON in printable ASCII. NaN and infinities are not valid JSON and become null."""
    text = json.dumps(_with_nulls(content), indent=indent, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _with_nulls(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _with_nulls(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_nulls(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _is_control(character: str) -> bool:
    is_bidirectional = unicodedata.bidirectional(character) in _DIRECTIONS or character in _MARKS
    return is_bidirectional or unicodedata.category(character) in _ESCAPED


def _escape_character(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
