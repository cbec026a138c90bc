"""Calibration: how often the model is right, by its confidence (Guo et al. 2017)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.reporting.charts.reliability import reliability_chart
from vit_jax.reporting.markup import Markup, join, tag
from vit_jax.reporting.numbers import count, decimal
from vit_jax.reporting.sections.metrics import side_by_side


def calibration(analysis: Mapping[str, Any]) -> Markup:
    """Return the reliability diagram, and what a temperature changes if one was fitted."""
    scaled = analysis.get("temperature")
    curves = [("as trained", analysis["reliability"])]
    if scaled:
        curves.append((f"temperature {decimal(scaled['value'])}", scaled["reliability"]))
    parts = [reliability_chart(curves)]
    if scaled:
        parts.append(_temperature(analysis["metrics"], scaled))
    return join(parts)


def _temperature(metrics: Mapping[str, Any], scaled: Mapping[str, Any]) -> Markup:
    columns = {
        "as trained": {key: metrics[key] for key in ("loss", "ece") if key in metrics},
        "scaled": {key: scaled[key] for key in ("loss", "ece") if key in scaled},
    }
    text = (
        f"The logits divided by {decimal(scaled['value'])}, which minimizes the loss of the "
        f"{count(scaled['count'])} images of {scaled['fitted_on']}. The accuracy stays the same."
    )
    return tag("div", side_by_side("Temperature scaling", columns), tag("p", text, class_="note"))
