"""Tables of a page: numbers are aligned, and a table that is too wide scrolls by itself."""

from collections.abc import Sequence

from vit_jax.reporting.markup import Markup, tag


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[str] = (),
    tall: bool = False,
) -> Markup:
    """Return a table in a container that scrolls, and that the keyboard reaches.

    Args:
      caption: What the table shows.
      columns: The heading of each column; the first one names the rows.
      rows: The cells of each row: text, which is escaped, or `Markup`.
      text: The columns besides the first one that hold text; the others hold numbers.
      tall: Whether a long table scrolls too.
    """
    kinds = [None if i == 0 or name in text else "number" for i, name in enumerate(columns)]
    head = [
        tag("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)
    ]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    content = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
    )
    return scrolling(content, caption, tall=tall)


def scrolling(content: Markup, label: str, *, tall: bool = False) -> Markup:
    """Return content in a container of its own that scrolls, by keyboard too."""
    kind = "scroll tall" if tall else "scroll"
    return tag("div", content, class_=kind, role="group", aria_label=label, tabindex="0")


def folded(summary: str, *content: str) -> Markup:
    """Return content that is shown on request."""
    return tag("details", tag("summary", summary), *content)
