"""Text for a terminal: control characters, and those that it does not have, are escaped."""

import json
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


def to_json(content: Mapping[str, Any]) -> str:
    """Return JSON in printable ASCII, on one line.

    Raises:
      ValueError: There is a number in it that JSON has not, such as NaN.
    """
    return json.dumps(content, allow_nan=False).replace("\x7f", "\\u007f")


def _acts(character: str) -> bool:
    turns = unicodedata.bidirectional(character) in _DIRECTIONS or character in _MARKS
    return turns or unicodedata.category(character) in _ESCAPED


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
