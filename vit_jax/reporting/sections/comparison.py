"""Two runs on the same images: the paired test, and the images on which they differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reporting.content import Content, Exhibit
from vit_jax.reporting.markup import Markup, join, tag
from vit_jax.reporting.numbers import count, decimal, interval, points
from vit_jax.reporting.sections.images import show_thumbnail
from vit_jax.reporting.sections.metrics import side_by_side
from vit_jax.reporting.sections.provenance import differing_settings
from vit_jax.reporting.tables import table


def comparison(content: Content) -> Markup:
    """Return two runs side by side, on each set.

    Args:
      content: What the report shows, with `against` and `other`.
    """
    first = content.folder.name
    second = f"{content.other.name if content.other else ''} (other)"
    parts = []
    for against in content.against:
        names = content.analyses[against["set"]]["class_names"]
        columns = {first: against["first"], second: against["second"]}
        parts += [
            tag("h3", f"On {against['set']}"),
            tag("p", _verdict(against, first, second)),
            tag(
                "div",
                side_by_side(f"{count(against['count'])} images", columns),
                _outcomes(against, first, second),
                class_="row",
            ),
            _differing(against, first, second, names, content.exhibits.get(against["set"])),
        ]
    if content.other:
        parts += [tag("h3", "Settings"), differing_settings(content.folder, content.other)]
    return join(parts)


def _verdict(against: Mapping[str, Any], first: str, second: str) -> str:
    """Return the difference of the accuracies and the test of it, as a sentence."""
    difference, test = against["difference"], against["mcnemar"]
    found = interval(difference["low"], difference["high"], points)
    return (
        f"Top-1 accuracy of {first} minus that of {second}: {points(difference['value'])} points "
        f"(95 % interval {found or 'not defined'}, paired bootstrap). McNemar's test "
        f"({test['method']}) of the images on which only one of the two is right: "
        f"p = {decimal(test['p'])}."
    )


def _outcomes(against: Mapping[str, Any], first: str, second: str) -> Markup:
    rows = [
        [f"{first} right", count(against["both"]), count(against["first_only"])],
        [f"{first} wrong", count(against["second_only"]), count(against["neither"])],
    ]
    return table("Images", ["outcome", f"{second} right", f"{second} wrong"], rows)


def _differing(
    against: Mapping[str, Any],
    first: str,
    second: str,
    names: Sequence[str],
    exhibit: Exhibit | None,
) -> Markup:
    """Return the images on which only one of the two is right."""
    entries = against["differing"]
    if not entries:
        return tag("p", "There is no image on which only one of the two is right.")
    thumbnails = exhibit.thumbnails if exhibit else {}
    rows = [
        [
            str(entry["id"]),
            show_thumbnail(thumbnails.get(entry["index"]), names[entry["label"]]),
            *(names[entry[key]] for key in ("label", "first", "second")),
        ]
        for entry in entries
    ]
    columns = ["image", "picture", "true class", first, second]
    total = against["first_only"] + against["second_only"]
    caption = f"Images on which only one is right: {count(len(rows))} of {count(total)}"
    return table(caption, columns, rows, text=columns[1:], tall=True)
