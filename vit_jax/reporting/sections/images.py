"""Images of a set with their predictions and maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.reporting.content import Exhibit, Picture
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
    pictures = exhibit.pictures if exhibit else {}
    items = [
        tag(
            "li",
            thumbnails(pictures.get(entry["index"]), names[entry["label"]]),
            tag("div", *_words(entry, names)),
        )
        for entry in entries
    ]
    return tag("ul", *items, class_="pictures")


def _words(entry: Mapping[str, Any], names: Sequence[str]) -> list[Markup]:
    """Return the predicted class and the true one with their probabilities, and the image's id."""
    label, predicted = names[entry["label"]], names[entry["predicted"]]
    truth = tag("p", "correct")
    if entry["label"] != entry["predicted"]:
        share = percent(entry["label_probability"])
        truth = tag("p", "true class ", tag("strong", label), f" {share}")
    first = tag("p", tag("strong", predicted), f" {percent(entry['probability'])}")
    return [first, truth, tag("p", str(entry["id"]), class_="unit")]


def thumbnails(picture: Picture | None, name: str) -> Markup:
    """Return an image beside its map, if it has one."""
    if picture is None:
        return EMPTY
    kind = "small" if picture.is_small else None
    image = tag("img", src=picture.image, alt=f"An image of the class {name}", class_=kind)
    if picture.map is None:
        return tag("div", image, class_="pair")
    text = "Its map: where the prediction looks"
    return tag("div", image, tag("img", src=picture.map, alt=text), class_="pair")
