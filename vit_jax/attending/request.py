"""What the command attend draws, from its flags."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vit_jax import models
from vit_jax.console.progress import say_aside
from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.interpretation.hooks import POOL, attention_layers, has_probe
from vit_jax.interpretation.overview import OF_IMAGES, OF_MODEL

TOP = "top"  # stands for the most probable class of each image


class Request(NamedTuple):
    """What is drawn.

    Attributes:
      names: Names of maps.
      is_explicit: Whether the user named them, so that none may be missing.
      layers: Layers whose attention is drawn.
      label: Index of the class of the relevance; None: the most probable one of each image.
      width: Width of a picture in pixels.
      foreground: Whether components are only those of patches in the foreground.
      arrays: Whether the numbers are written, too.
    """

    names: frozenset[str]
    is_explicit: bool
    layers: tuple[str, ...]
    label: int | None
    width: int
    foreground: bool
    arrays: bool

    def without(self, lacking: Mapping[tuple[str, ...], Exception]) -> "Request":
        """Return the request without the maps that the model lacks; print why.

        Args:
          lacking: The reasons by the names of the maps.

        Raises:
          ConfigError: The user named one of them.
          InputMissingError: The user named one that needs a package that is not installed.
        """
        for names, error in lacking.items():
            if self.is_explicit:
                raise error
            problem = error.problem if isinstance(error, ConfigError) else error
            say_aside(f"note      no {', '.join(names)}: {problem}")
        return self._replace(names=self.names.difference(*lacking))


def choose_maps(text: str) -> frozenset[str]:
    """Return the names of the maps to draw.

    Args:
      text: Names that are separated by commas; empty for all.

    Raises:
      ConfigError: There is no such map.
    """
    known = dict.fromkeys((*OF_IMAGES, *OF_MODEL))
    names = text.split(",") if text else known
    for name in names:
        pick(known, name, "--maps")
    return frozenset(names)


def choose_layers(text: str, model: models.Transformer) -> tuple[str, ...]:
    """Return the names of the layers whose attention is drawn.

    Args:
      text: `last`, `all`, or names that are separated by commas.
      model: The model.

    Raises:
      ConfigError: There is no such layer.
    """
    known = attention_layers(model) + ((POOL,) if has_probe(model) else ())
    named = {"last": known[-1:], "all": known}
    if text in named:
        return named[text]
    table = dict.fromkeys(known)
    for name in text.split(","):
        pick(table, name, "--layers")
    return tuple(text.split(","))


def find_class(label: str, labels: Sequence[str]) -> int | None:
    """Return the index of the class of the relevance, or None for the most probable one.

    Args:
      label: Name of the class, or `top`.
      labels: Names of all classes.

    Raises:
      ConfigError: There is no such class.
    """
    if label == TOP:
        return None
    if label in labels:
        return labels.index(label)
    hint = suggest(label, labels)
    if not hint.endswith("?"):
        hint = f"the model has {len(labels):,} classes, such as {', '.join(labels[:3])}"
    raise ConfigError("--class", f"unknown '{label}'; {hint if labels else 'the model has none'}")


def parse_size(text: str, stride: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of images in pixels.

    Args:
      text: `HEIGHTxWIDTH`, or one number for both.
      stride: Height and width of a patch in pixels.

    Raises:
      ConfigError: It is not a size, or the stride does not divide it.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise ConfigError("--size", f"expected HEIGHTxWIDTH, such as 448x336, got {text}")
    size = (int(match[1]), int(match[2] or match[1]))
    height, width = (
        max(step, round(side / step) * step) for side, step in zip(size, stride, strict=True)
    )
    fitting = (height, width)
    if size != fitting:
        problem = f"expected multiples of {_by(stride)} pixels, got {_by(size)}"
        raise ConfigError("--size", f"{problem}; {_by(fitting)} is near")
    return size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
