"""Class names: how they are compared, and whether their order is clear."""

import re
import unicodedata
from collections.abc import Iterable, Sequence


def form(name: str) -> str:
    """Return a name in Unicode form NFC; macOS may write the same name in form NFD."""
    return unicodedata.normalize("NFC", name)


def same(names: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether two lists name the same classes in the same order."""
    return list(map(form, names)) == list(map(form, others))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names as text, with `...` if there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def find_lookalikes(names: Iterable[str]) -> list[list[str]]:
    """Return groups of names that differ only in case or white space."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(form(name).casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def order_is_clear(names: Sequence[str]) -> bool:
    """Return whether sorting as text and as numbers gives the same order; 0, 1, 10, 2 does not."""
    return list(names) != sorted(names) or list(names) == sorted(names, key=_by_numbers)


def _by_numbers(name: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
