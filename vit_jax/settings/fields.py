"""Fields of a dataclass schema: declaration, type checks, range checks and parsing of flags.

Every error is a `ConfigError` with the full path of the field.
"""

import ast
import dataclasses
import math
import numbers
import operator
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from vit_jax.errors import ConfigError, pick, suggest

# How a run that starts from pretrained weights treats a field of the run that trained them.
Inherit = Literal[
    "fixed",  # inherited; any other value is an error
    "adapted",  # inherited; a run may set another value, to which the weights are adapted
    "free",  # inherited; a run may set another value
    "never",  # not inherited
]

# The types that a scalar field accepts, and their names in errors.
SCALARS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "an integer"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
}


def field(
    default: Any,
    help: str,
    *,
    low: int | float | None = None,
    high: int | float | None = None,
    above: int | float | None = None,
    below: int | float | None = None,
    choices: Mapping[str, Any] | None = None,
    inherit: Inherit = "never",
) -> Any:
    """Declare a field. For a tuple, the bounds and choices apply to each item.

    Args:
      default: Default value.
      help: Description, with the unit.
      low: Inclusive lower bound.
      high: Inclusive upper bound.
      above: Exclusive lower bound.
      below: Exclusive upper bound.
      choices: Table whose keys are the allowed names.
      inherit: How a run that starts from pretrained weights treats the field.
    """
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "above": above,
        "below": below,
        "choices": choices,
        "inherit": inherit,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """Base class of the sections of a schema; records which fields were passed to it."""

    passed: ClassVar[frozenset[str]] = frozenset()  # names of these fields

    def __new__(cls, *args: Any, **kwargs: Any) -> "Section":
        """Record the names of the arguments."""
        section = super().__new__(cls)
        names = [declaration.name for declaration in dataclasses.fields(cls)]  # type: ignore[arg-type]
        object.__setattr__(section, "passed", frozenset([*names[: len(args)], *kwargs]))
        return section


def build(schema: type, values: Mapping[Any, Any], path: str) -> Any:
    """Build a section from a mapping; missing fields get their defaults.

    Args:
      schema: Dataclass of the section.
      values: Values by name.
      path: Path of the section, for errors.

    Raises:
      ConfigError: A field is unknown, has the wrong type or is out of range.
    """
    hints = typing.get_type_hints(schema)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{path}.{key}", f"no such field; {suggest(str(key), hints)}")
    declared = {declaration.name: declaration for declaration in dataclasses.fields(schema)}
    built = {}
    for key, value in values.items():
        built[key] = coerce(value, hints[key], f"{path}.{key}")
        check_value(built[key], declared[key], f"{path}.{key}")
    return schema(**built)


def coerce(value: Any, hint: Any, path: str) -> Any:
    """Convert a value to the type of its field: lists to tuples, integers to floats for a float.

    Args:
      value: The value.
      hint: Type of the field.
      path: Path of the field, for errors.

    Raises:
      ConfigError: The value has another type.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(path, f"expected a section, got {value!r}")
        return build(hint, value, path)
    if hint in SCALARS:
        fits = isinstance(value, SCALARS[hint][0]) and isinstance(value, bool) == (hint is bool)
        if fits and not (hint is float and not math.isfinite(value)):
            return hint(value)
    elif typing.get_origin(hint) is tuple and isinstance(value, tuple | list):
        args = typing.get_args(hint)
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(items) == len(value):
            pairs = enumerate(zip(value, items, strict=True))
            return tuple(coerce(v, t, f"{path}[{i}]") for i, (v, t) in pairs)
    elif typing.get_origin(hint) is Mapping and isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(path, f"expected {_describe(hint)}, got {value!r}")


def parse_flag(text: str, hint: Any, path: str) -> Any:
    """Parse the text of a flag.

    Args:
      text: The text after `=`.
      hint: Type of the field.
      path: Path of the field, for errors.

    Raises:
      ConfigError: The text is not a value of that type.
    """
    if hint is str:
        return text
    if hint is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
        raise ConfigError(path, f"expected true or false, got {text!r}")
    is_tuple = typing.get_origin(hint) is tuple
    inner = f"({text.rstrip(',')},)" if text else "()"
    literal = inner if is_tuple and text[:1] not in ("(", "[") else text
    try:
        return ast.literal_eval(literal)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if is_tuple:  # of words without quotes, such as regexes
            return tuple(word.strip() for word in text.split(","))
        raise ConfigError(path, f"expected {_describe(hint)}, got {text!r}") from None


def _describe(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        count = "any number of" if args[-1] is Ellipsis else str(len(args))
        return f"{count} values (each {_describe(args[0])})"
    return SCALARS[hint][1] if hint in SCALARS else "a section"


def check_value(value: Any, declaration: dataclasses.Field[Any], path: str) -> None:
    """Check a value, or each item of a tuple, against the range and the choices of its field.

    Args:
      value: The value, of the type of the field.
      declaration: The dataclass field.
      path: Path of the field, for errors.

    Raises:
      ConfigError: The value is out of range, or not one of the choices.
    """
    for item in value if isinstance(value, tuple) else (value,):
        for key, (holds, text) in _RANGES.items():
            bound = declaration.metadata.get(key)
            if bound is not None and not holds(item, bound):
                raise ConfigError(path, f"expected {text} {bound}, got {item}")
        choices = declaration.metadata.get("choices")
        if choices is not None:
            pick(choices, item, path)


_RANGES: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "low": (operator.ge, "at least"),
    "high": (operator.le, "at most"),
    "above": (operator.gt, "more than"),
    "below": (operator.lt, "less than"),
}
