"""The results of probes as lines of text."""

from collections.abc import Callable
from typing import Any

from vit_jax.evaluation.probes.task import Result

# What a line says about how a probe was fitted, by the key of the result.
DETAILS: dict[str, Callable[[Any], str]] = {
    "neighbours": lambda count: f"{count} neighbours",
    "temperature": lambda temperature: f"temperature {temperature:g}",
    "penalty": lambda penalty: f"penalty {penalty:,.4g}",
    "choosing_top1": lambda top1: f"chosen at top-1 {top1:.2%}",
    "at_limit": lambda at_limit: "an end of the range of penalties" if at_limit else "",
    "converged": lambda converged: "" if converged else "not converged",
}


def format_result(name: str, result: Result) -> list[str]:
    """Return the lines of a result: the accuracy with its interval, and how it was fitted.

    Args:
      name: The name of the probe.
      result: Its result.
    """
    details = [DETAILS[key](value) for key, value in result.items() if key in DETAILS]
    text = ", ".join(detail for detail in details if detail)
    if "shots" in result:
        return [f"{name}: {text}", *(_format_shots(*item) for item in result["shots"].items())]
    value, low, high = (result["top1"][key] for key in ("value", "low", "high"))
    return [f"{name}: top-1 {value:.2%} [{100 * low:.1f}, {100 * high:.1f}]  ({text})"]


def _format_shots(shots: str, result: Result) -> str:
    """Return the line of one number of images a class."""
    draws = len(result["top1"])
    noun = "draw" if draws == 1 else "draws"
    extent = f"{result['min']:.2%} to {result['max']:.2%} in {draws} {noun}"
    line = f"  {shots} a class: top-1 {result['mean']:.2%}, {extent}, {result['images']:,} images"
    if small := result["small_classes"]:
        return f"{line}, all there are of {small:,} classes"
    return line
