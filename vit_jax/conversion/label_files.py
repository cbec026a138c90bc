"""Read label files: one class name per line, in the order of the logits."""

import codecs
import pathlib
import re
from collections.abc import Iterator, Sequence

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.class_names import make_unique

MAX_BYTES = 16 << 20
# The encoding of a text by its byte-order mark.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_labels(path: pathlib.Path, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a label file.

    Args:
      path: A text file in UTF-8, or in another encoding with a byte-order mark.
      count: The number of classes of the model.

    Returns:
      A different name for each class, and notes on names that were changed to be unique.

    Raises:
      ConfigError: The file cannot be read.
      DataError: The file is not a list of `count` names.
    """
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path}: more than {MAX_BYTES:,} bytes; expected one class name per line"
            )
        content = path.read_bytes()
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror or error}"
        raise ConfigError("--labels", problem) from error
    lines = [line.strip() for line in _LINE_END.split(_decode(path, content))]
    while lines and not lines[-1]:
        lines.pop()
    is_json = len(lines) > 0 and lines[0].startswith(("[", "{")) and lines[-1].endswith(("]", "}"))
    if is_json or path.suffix.lower() in (".json", ".csv", ".tsv"):
        raise DataError(
            f"{path}: expected plain text with one class name per line, got JSON or CSV"
        )
    if "" in lines:
        raise DataError(
            f"{path}: line {lines.index('') + 1} is empty; expected one class name per line"
        )
    if len(lines) != count:
        raise DataError(f"{path}: {len(lines)} class names, but the model has {count} classes")
    names = make_unique(lines)
    return names, tuple(_describe(lines, names))


def _describe(given: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield a note on the names that were changed."""
    changed = [(old, new) for old, new in zip(given, names, strict=True) if old != new]
    if not changed:
        return
    repeated = dict.fromkeys(old for old, _ in changed)
    first = next(iter(repeated))
    count = "1 name occurs" if len(repeated) == 1 else f"{len(repeated)} names occur"
    became = ", ".join([repr(new) for old, new in changed if old == first][:2])
    yield f"{count} more than once; {first!r} became {became}"


def _decode(path: pathlib.Path, content: bytes) -> str:
    """Decode the content of a text file.

    Raises:
      DataError: The content is not text, or in an unsupported encoding.
    """
    encoding = next((e for mark, e in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\r|\n", content[: error.start]))
        raise DataError(
            f"{path}: line {line} is not {encoding.upper()}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: not text in UTF-8; save it as UTF-8")
    return text
