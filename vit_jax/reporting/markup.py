"""HTML and SVG that is escaped by construction: text becomes markup only through `tag`."""

import html
from collections.abc import Iterable

from vit_jax.console.text import printable

# Elements that have no content and no end tag.
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into a page."""

    __slots__ = ()


EMPTY = Markup("")

Attribute = str | int | float | bool | None


def tag(element: str, /, *children: str, **attributes: Attribute) -> Markup:
    """Return an element with escaped text and attributes.

    Args:
      element: The name of the element.
      children: `Markup`, or text, which is escaped; controls that change how text reads are shown.
      attributes: Values by name; `class_` stands for `class`, and `_` within a name for `-`. True
        stands for an attribute without a value; None and False leave it out.
    """
    opened = "".join(
        f" {key}" if value is True else f' {key}="{_escape(_format(value))}"'
        for key, value in ((_name(key), value) for key, value in attributes.items())
        if value is not None and value is not False
    )
    if element in _VOID:
        return Markup(f"<{element}{opened}>")
    return Markup(f"<{element}{opened}>{join(children)}</{element}>")


def join(children: Iterable[str], separator: str = "") -> Markup:
    """Return pieces of a page, one after the other; text is escaped."""
    return Markup(
        separator.join(child if isinstance(child, Markup) else _escape(child) for child in children)
    )


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _format(value: Attribute) -> str:
    """Return a value as text; pixels need no more than two digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    return html.escape(printable(text, None))
