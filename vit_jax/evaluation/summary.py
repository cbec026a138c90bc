"""What a command prints about an analysis: the main figures, with 95 % intervals in brackets."""

import math
from collections.abc import Iterator

from vit_jax.evaluation.analysis import Document

PAIRS = 3  # the pairs of classes that are shown
INDENT = " " * 10
FEW = 20  # images on which only one of two models is right, for the bootstrap of their difference


def describe(analysis: Document) -> Iterator[str]:
    """Yield the lines about an analysis that follow the line of its metrics."""
    metrics = analysis["metrics"]
    top5, loss = _range(metrics["top5"], 100.0, 1), _range(metrics["loss"])
    balanced, error = metrics["balanced_accuracy"], metrics["ece"]
    others = f"balanced accuracy {_percent(balanced)}  ECE {_number(error)}"
    yield f"{INDENT}top-5 {top5}  loss {loss}  {others}"
    if found := analysis["temperature"]:
        fitted = f"fitted on {found['fitted_on']}, {found['count']:,} images"
        after = f"loss {_number(found['loss'])}  ECE {_number(found['ece'])}"
        yield f"{INDENT}temperature {found['value']:.3f} ({fitted}): {after}"
    if pairs := analysis["confused_pairs"][:PAIRS]:
        names, classes = analysis["class_names"], analysis["classes"]
        texts = [
            f"{names[pair['label']]} as {names[pair['predicted']]} "
            f"({pair['count']:,} of {classes[pair['label']]['count']:,})"
            for pair in pairs
        ]
        yield f"{INDENT}most confused: {', '.join(texts)}"
    if count := analysis["not_finite"]:
        of = f"{count:,} of {analysis['count']:,} images"
        yield f"note      outputs are not finite for {of}, which count as wrong"


def describe_against(against: Document) -> Iterator[str]:
    """Yield the lines about the comparison with another model."""
    first, second = (_percent(against[key]["top1"]) for key in ("first", "second"))
    model = f"{against['other']}, step {against['step']:,}"
    if against["weights"]:
        model += f" ({against['weights']} weights)"
    of = f"on {against['set']}: top-1 {second}, here {first}  ({against['count']:,} images)"
    yield f"against   {model}, {of}"
    difference = against["difference"]
    shown = f"{100 * difference['value']:+.2f} {_range(difference, 100.0, 2, '+')}"
    only = f"{against['first_only']:,} images are right only here, {against['second_only']:,} there"
    p = against["mcnemar"]["p"]
    yield f"{INDENT}difference in points {shown}  McNemar's p {p:.2g}  ({only})"
    if 0 < against["first_only"] + against["second_only"] < FEW:
        yield "note      few images differ: the interval is too narrow then; go by McNemar's p"


def _percent(metric: Document) -> str:
    return f"{metric['value']:.2%} {_range(metric, 100.0, 1)}"


def _number(metric: Document) -> str:
    return f"{metric['value']:.4f} {_range(metric)}"


def _range(metric: Document, scale: float = 1.0, digits: int = 4, sign: str = "-") -> str:
    low, high = metric["low"], metric["high"]
    if not math.isfinite(low + high):
        return "[undefined]"
    return f"[{scale * low:{sign}.{digits}f}, {scale * high:{sign}.{digits}f}]"
