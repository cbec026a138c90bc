"""Search the largest batch that fits a device, and the changes that make the config's batch fit.

The answer never rests on an estimate: the whole step is compiled at the largest batch, and at the
next one, which does not fit. The search is a pure function of `measure`, which compiles a step.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, UserError
from vit_jax.planning.batches import Batches, find_batches
from vit_jax.planning.changes import Change, combine, find_changes
from vit_jax.planning.estimate import Line, Part, estimate, split, through
from vit_jax.planning.trials import Measured, Trial, Trials, to_flags

# Trials of the whole step that follow an estimate; all later ones halve the range.
_GUIDED = 6
# A range of so few batch sizes is halved at once.
_NARROW = 4

Measure = Callable[[config_lib.Config], Measured]
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
      batch_size: The batch size of the config.
      batches: The batch sizes that the run can have.
      line: The estimate of the memory by models with few blocks; None if there is none.
      trials: All trials, in order.
      largest: The largest batch that fits; 0 if none does.
      too_large: The smallest batch above it that does not fit; 0 if the run can have none.
    """

    batch_size: int
    batches: Batches
    line: Line | None
    trials: tuple[Trial, ...]
    largest: int
    too_large: int

    @property
    def fitting_changes(self) -> list[Trial]:
        """The trials of changes with which the batch of the config fits."""
        return _fitting_changes(self.trials)

    def to_json(self) -> dict[str, Any]:
        """Return the search as a JSON document."""
        return {
            "batch_size": self.batch_size,
            "largest": self.largest,
            "too_large": self.too_large,
            "end": self.batches.end,
            "estimate": dataclasses.asdict(self.line) if self.line else None,
            "trials": [trial.to_json() for trial in self.trials],
        }


def search(
    config: config_lib.Config,
    first: Measured,
    measure: Measure,
    num_images: int,
    tell: Tell = lambda line: None,
) -> Search:
    """Search the largest batch that fits; if it is below the config's, what makes that one fit.

    Args:
      config: The config of the run.
      first: The report on its step.
      measure: Compiles the step of a config.
      num_images: The number of images of the training split.
      tell: Is called with each line for the user, as soon as it is known.

    Raises:
      UserError: The memory of the devices is not known, or a step cannot be compiled.
    """
    limit = first.limit_bytes
    if limit is None:
        raise ConfigError("--search", "the memory of these devices is not known")
    batches = find_batches(config, first.num_devices, num_images)
    parts = split(config.model) if len(batches.sizes) > _NARROW else []
    for text in _announce(config, batches, parts, first):
        tell(text)
    trials = Trials(config, first, measure, tell)
    line = _estimate(config.batch_size, batches.sizes, parts, trials, tell)
    if line:
        tell(_describe_estimate(line, limit))
    _find_largest(batches.sizes, line, limit, trials)
    largest, too_large = _bracket(trials.sizes)
    tell(_describe_largest(largest, too_large, batches.end))
    rate = config.optim.learning_rate
    tell(f"          another batch_size changes the optimization; learning_rate={rate} is kept")
    if not first.fits:
        tell(f"changes   that keep batch_size={config.batch_size}")
        _try_changes(find_changes(config, first.num_devices, largest), trials)
        tell(f"          {_describe_changes(config.batch_size, trials.made)}")
    return Search(config.batch_size, batches, line, tuple(trials.made), largest, too_large)


def _estimate(
    batch_size: int,
    sizes: tuple[int, ...],
    parts: Sequence[Part],
    trials: Trials,
    tell: Tell,
) -> Line | None:
    """Return the memory as estimated at the config's batch and half of it; None without parts."""
    if not parts:
        return None
    upper = max(1, bisect.bisect_right(sizes, batch_size) - 1)
    lower = max(0, bisect.bisect_right(sizes, sizes[upper] // 2) - 1)

    def measure_peak(change: Change) -> int:
        return trials.measure(change).peak_bytes

    try:
        return estimate(parts, (sizes[lower], sizes[upper]), measure_peak)
    except UserError as error:
        tell(f"estimate  none, because a model with few blocks cannot be compiled: {error}")
        return None


def _find_largest(sizes: Sequence[int], line: Line | None, limit: int, trials: Trials) -> None:
    """Measure batches until there is none between one that fits and one that does not."""
    for number in itertools.count():
        largest, too_large = _bracket(trials.sizes)
        between = [s for s in sizes if largest < s and (not too_large or s < too_large)]
        if not between:
            return
        guess = _guess(line, limit, trials.reports)
        if number < _GUIDED and math.isfinite(guess):
            size = max((s for s in between if s <= guess), default=between[0])
        else:
            size = between[len(between) // 2]
        trials.attempt({"batch_size": size})


def _bracket(fits: Mapping[int, bool]) -> tuple[int, int]:
    """Return the largest batch that fits, and the smallest above it that does not; 0 for none."""
    largest = max((size for size in fits if fits[size]), default=0)
    return largest, min((size for size in fits if size > largest), default=0)


def _guess(line: Line | None, limit: int, reports: Mapping[int, Measured]) -> float:
    """Return the batch at which the memory reaches the limit, by what is known; infinite if none.

    It follows the line through the two measured batches whose peaks are nearest to the limit, at
    most to twice the largest of all or to where the estimate leads; or the estimate, moved to the
    only measured one if that fits.
    """
    estimated = line.solve(limit) if line else math.inf
    points = [(size, float(report.peak_bytes)) for size, report in reports.items()]
    points.sort(key=lambda point: abs(point[1] - limit))
    if len(points) > 1:
        farthest = max(2.0 * max(reports), estimated if line else 0.0)
        return min(through(points[0], points[1]).solve(limit), farthest)
    if line and points[0][1] <= limit:
        size, peak = points[0]
        return Line(peak - line.per_image * size, line.per_image).solve(limit)
    return estimated


def _try_changes(kinds: Mapping[str, Sequence[Change]], trials: Trials) -> None:
    """Try the changes of each kind until one fits; if none does, all kinds at once."""
    fits = [any(trials.attempt(change) for change in changes) for changes in kinds.values()]
    if len(kinds) > 1 and not any(fits):
        trials.attempt(combine(kinds))


def _announce(
    config: config_lib.Config, batches: Batches, parts: Sequence[Part], first: Measured
) -> Iterator[str]:
    """Yield lines that say which batches are tried, and how many compiles that takes."""
    usual = 2 * len(parts) + 2
    most = 2 * len(parts) + _GUIDED + len(batches.sizes).bit_length()
    unit = batches.shards * batches.accum_steps
    text = f"(shards {batches.shards} x micro-batches {batches.accum_steps})"
    yield f"search    batches are multiples of {unit} {text}, a sixteenth apart at most"
    yield f"          {usual} compiles if the estimate is good, at most {most}"
    if not first.fits:
        kinds = find_changes(config, first.num_devices, config.batch_size)
        changes = sum(map(len, kinds.values())) + 1
        text = f"changes that make batch_size={config.batch_size} fit"
        yield f"          then at most {changes} for {text}"


def _describe_estimate(line: Line, limit: int) -> str:
    fixed, per_image = line.fixed / 2**30, line.per_image / 2**20
    size = line.solve(limit)
    text = f"about {size:,.0f} images fit" if math.isfinite(size) else "it does not grow"
    return f"estimate  {fixed:.2f} GiB + {per_image:.2f} MiB per image: {text}"


def _describe_largest(largest: int, too_large: int, end: str) -> str:
    if not largest:
        return f"largest   none: not even batch_size={too_large} fits"
    rest = f"{too_large} does not" if too_large else f"a larger one is not possible: {end}"
    return f"largest   batch_size={largest} fits; {rest}"


def _describe_changes(batch_size: int, trials: Sequence[Trial]) -> str:
    fitting = _fitting_changes(trials)
    if not fitting:
        return "none of them fits: use more devices, a smaller model or smaller images"
    flags = ", or ".join(to_flags(trial.change) for trial in fitting)
    return f"batch_size={batch_size} fits with {flags}"


def _fitting_changes(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.fits and "batch_size" not in trial.change]
