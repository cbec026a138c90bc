"""Numbers as text, and intervals; a value that is not defined reads `n/a`."""

import math
from collections.abc import Callable
from typing import TypeGuard

NONE = "n/a"

Number = float | int

# From a number to text.
Format = Callable[[Number | None], str]


def percent(value: Number | None) -> str:
    """Return a share from 0 to 1 in per cent, such as `99.44 %`."""
    return f"{100 * value:.2f} %" if _is_defined(value) else NONE


def short_percent(value: Number | None) -> str:
    """Return a share from 0 to 1 in per cent with few digits, such as `99 %`, for ticks."""
    return f"{100 * value:.4g} %" if _is_defined(value) else NONE


def points(value: Number | None) -> str:
    """Return a difference of shares in points, with its sign, such as `+1.25`."""
    return f"{100 * value:+.2f}" if _is_defined(value) else NONE


def decimal(value: Number | None) -> str:
    """Return a number with four significant digits."""
    return f"{value:,.4g}" if _is_defined(value) else NONE


def count(value: Number | None) -> str:
    """Return a number of things, such as `50,000`."""
    return f"{value:,.0f}" if _is_defined(value) else NONE


def interval(low: Number | None, high: Number | None, form: Format) -> str:
    """Return an interval as text, such as `98.0 % to 99.8 %`; empty if there is none."""
    return f"{form(low)} to {form(high)}" if _is_defined(low) and _is_defined(high) else ""


def seconds(value: Number | None) -> str:
    """Return a duration, such as `1:02:03`, or `12.3 s` below a minute."""
    if not _is_defined(value):
        return NONE
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _is_defined(value: Number | None) -> TypeGuard[Number]:
    return value is not None and math.isfinite(value)
