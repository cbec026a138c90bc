"""Sheets: pictures in rows, each with a caption, as one Pillow image."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vit_jax.viz.drawing import FAINT, INK

_MARGIN = 10
_GAP = 8  # between pictures
_FONT_SIZE = 13
_LINE = 18  # height of a line of text


class Picture(NamedTuple):
    """An image and the line of text below it."""

    image: Image.Image
    caption: str = ""


class Row(NamedTuple):
    """Pictures beside each other, and the line of text above them."""

    title: str
    pictures: Sequence[Picture]


def sheet(rows: Sequence[Row], columns: int = 13) -> Image.Image:
    """Return rows of pictures as one image on white.

    Args:
      rows: The rows.
      columns: Maximum number of pictures in a line; a row with more has several lines.
    """
    lines = [
        (row.title if not start else "", row.pictures[start : start + columns])
        for row in rows
        for start in range(0, len(row.pictures), columns)
    ]
    heights = [_height(title, pictures) for title, pictures in lines]
    width = max(
        sum(picture.image.width + _GAP for picture in pictures) - _GAP for _, pictures in lines
    )
    width = max(width, *(round(_font().getlength(title)) for title, _ in lines))
    size = (width + 2 * _MARGIN, sum(heights) + 2 * _MARGIN - _GAP)
    canvas = Image.new("RGB", size, "white")
    top = _MARGIN
    for (title, pictures), height in zip(lines, heights, strict=True):
        _draw_line(canvas, top, title, pictures)
        top += height
    return canvas


def _draw_line(canvas: Image.Image, top: int, title: str, pictures: Sequence[Picture]) -> None:
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_MARGIN, top), title, fill=INK, font=_font())
        top += _LINE
    bottom = top + max(picture.image.height for picture in pictures)
    left = _MARGIN
    for picture in pictures:
        canvas.paste(picture.image, (left, top))
        right = left + picture.image.width
        frame = (left - 1, top - 1, right, top + picture.image.height)
        draw.rectangle(frame, outline=FAINT)
        caption = _shorten(picture.caption, picture.image.width)
        draw.text((left, bottom + 2), caption, fill=INK, font=_font())
        left = right + _GAP


def _height(title: str, pictures: Sequence[Picture]) -> int:
    """Return the height of a line of pictures, with its texts and the gap below it."""
    texts = bool(title) + any(picture.caption for picture in pictures)
    return max(picture.image.height for picture in pictures) + _LINE * texts + _GAP


def _shorten(text: str, width: int) -> str:
    """Return as much of a text as fits into a width in pixels."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)
