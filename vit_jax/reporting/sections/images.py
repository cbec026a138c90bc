"""Images of a set with their predictions and maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reporting.content import Exhibit, Thumbnail
from vit_jax.reporting.markup import EMPTY, Markup, tag
from vit_jax.reporting.numbers import percent


def gallery(
    entries: Sequence[Mapping[str, Any]], names: Sequence[str], exhibit: Exhibit | None
) -> Markup:
    """Return a list of images, each with what the model says about it.

    Args:
      entries: As in `mistakes` and `uncertain` of an analysis.
      names: The names of the classes.
      exhibit: The pictures; None shows no pictures.
    """
    thumbnails = exhibit.thumbnails if exhibit else {}
    items = [
        tag(
            "li",
            show_thumbnail(thumbnails.get(entry["index"]), names[entry["label"]]),
            tag("div", *_describe(entry, names)),
        )
        for entry in entries
    ]
    return tag("ul", *items, class_="pictures")


def _describe(entry: Mapping[str, Any], names: Sequence[str]) -> list[Markup]:
    """Return the predicted class and the true one with their probabilities, and the image's id."""
    label, predicted = names[entry["label"]], names[entry["predicted"]]
    truth = tag("p", "correct")
    if entry["label"] != entry["predicted"]:
        share = percent(entry["label_probability"])
        truth = tag("p", "true class ", tag("strong", label), f" {share}")
    first = tag("p", tag("strong", predicted), f" {percent(entry['probability'])}")
    return [first, truth, tag("p", str(entry["id"]), class_="unit")]


def show_thumbnail(thumbnail: Thumbnail | None, name: str) -> Markup:
    """Return an image beside its map, if it has one."""
    if thumbnail is None:
        return EMPTY
    kind = "small" if thumbnail.is_small else None
    image = tag("img", src=thumbnail.image, alt=f"An image of the class {name}", class_=kind)
    if thumbnail.map is None:
        return tag("div", image, class_="pair")
    text = "Its map: where the prediction looks"
    return tag("div", image, tag("img", src=thumbnail.map, alt=text), class_="pair")
