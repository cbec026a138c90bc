"""Text is escaped for terminals and for JSON."""

import io
import json
import sys

import pytest

from vit_jax.console import progress
from vit_jax.console.text import printable, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本 \U0001f468\u200d\U0001f469 frame:100:.png", None),
        ("a\\nb [red]x[/red]", None),
        ("\x1b]0;title\x07\x1b[31m", "\\x1b]0;title\\x07\\x1b[31m"),
        ("a\nb\rc\td\x00\x7f\x9b", "a\\nb\\rc\\td\\x00\\x7f\\x9b"),
        ("line\u2028paragraph\u2029", "line\\u2028paragraph\\u2029"),
        ("gpj\u202e.exe \u2067x\u200f", "gpj\\u202e.exe \\u2067x\\u200f"),
        (b"b\xffd".decode(errors="surrogateescape"), "b\\udcffd"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text, "utf-8") == (text if shown is None else shown)
    assert printable(text, None) == (text if shown is None else shown)


def test_characters_outside_the_encoding_are_escaped():
    assert printable("ü 日", "latin-1") == "ü \\u65e5"
    assert printable("ü 日", "ascii") == "\\xfc \\u65e5"


def test_json_is_printable_and_keeps_its_text():
    content = {"image": "\x7f\n\x1b日\udcff", "value": 0.5}
    text = to_json(content)
    assert text.isascii() and text.isprintable()
    assert json.loads(text) == content


def test_non_finite_numbers_become_null():
    content = {"value": float("nan"), "list": (float("inf"), 1.5)}
    assert json.loads(to_json(content, indent=2)) == {"value": None, "list": [None, 1.5]}


NAME = "a\x1b[2J\n日\udc80.png"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_every_line_is_escaped(monkeypatch, stream, encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, stream, file)
    line = progress.Progress(9, 0, 0.0, NAME, aside=stream == "stderr")
    line.show(3, NAME)
    (progress.say if stream == "stdout" else progress.warn)(NAME)
    file.flush()
    lines = file.buffer.getvalue().decode(encoding).splitlines()
    sign = "日" if encoding == "utf-8" else "\\u65e5"
    assert len(lines) == 2
    assert all(f"a\\x1b[2J\\n{sign}\\udc80.png" in line for line in lines)
