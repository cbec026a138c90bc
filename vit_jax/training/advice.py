"""Notes on settings that are valid, but that the user probably did not want."""

import dataclasses
import math
from collections.abc import Iterator

from vit_jax import models
from vit_jax.config import Resolved
from vit_jax.config.layers import DEFAULT, FLAG
from vit_jax.models.profile import profile

PROBE_RATE = 1e-2  # of Adam, for a linear probe; measured, see docs/your_photos.md
USUAL_SIZE = 224  # pixels; what most pretrained weights are fine-tuned at
EXPENSIVE = 2.0  # GFLOPs relative to the usual size


def add_advice(resolved: Resolved) -> Resolved:
    """Return the same settings with notes on those that probably are not meant."""
    notes = (*_on_probe_rate(resolved), *_on_image_size(resolved))
    return dataclasses.replace(resolved, notes=(*resolved.notes, *notes))


def _on_probe_rate(resolved: Resolved) -> Iterator[str]:
    """Note a linear probe, asked for by a flag, at the learning rate of a whole model."""
    optim = resolved.config.optim
    tuned_by, rate_by = (
        resolved.origins.get(f"optim.{name}", FLAG) for name in ("tune", "learning_rate")
    )
    is_adam = optim.name in ("adam", "adamw")
    if optim.tune == "head" and tuned_by == FLAG and rate_by != FLAG:
        if is_adam and optim.learning_rate >= PROBE_RATE:
            return
        by = "the default" if rate_by == DEFAULT else rate_by
        problem = f"config.optim.learning_rate is {optim.learning_rate:g} ({by})"
        rate = f"{PROBE_RATE:g}" if is_adam else "RATE"
        hint = f"a linear probe needs a higher one: --config.optim.learning_rate={rate}"
        yield f"{problem}, which is meant for all parameters; {hint}"


def _on_image_size(resolved: Resolved) -> Iterator[str]:
    """Note an image size that was inherited from the source model and is expensive."""
    size = resolved.config.data.image_size
    origin = resolved.origins.get("data.image_size", FLAG)
    if not origin.startswith("init_from ") or math.prod(size) < EXPENSIVE * USUAL_SIZE**2:
        return
    model = models.create(**resolved.config.model)
    height, width = (max(1, round(USUAL_SIZE / side)) * side for side in model.stride)
    usual = (height, width)
    ratio = profile(model, size).gflops / profile(model, usual).gflops
    if ratio < EXPENSIVE:
        return
    tokens = math.prod(pixels // side for pixels, side in zip(size, model.stride, strict=True))
    cost = f"{tokens:,} patch tokens per image, {ratio:.1f} times the GFLOPs of {_shown(usual)}"
    hint = f"--config.data.image_size={height},{width} is cheaper"
    yield f"config.data.image_size is {_shown(size)} ({origin}): {cost}; {hint}"


def _shown(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
