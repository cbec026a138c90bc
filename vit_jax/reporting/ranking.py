"""The ranking of runs by top-1 accuracy: only those that were measured on the same images."""

from collections.abc import Sequence
from typing import NamedTuple

from vit_jax.reporting.runs import RunSummary, Score

# The set that ranks a run, and that its report shows: the first of these that there is.
SETS = ("test", "val")

BEST = "best"
CLOSE = "not distinguishable from the best"
BEHIND = "behind the best"
ALONE = "the only run on these images"


class Entry(NamedTuple):
    """A run and its place in a ranking, if it has a score."""

    run: RunSummary
    score: Score | None = None
    standing: str = ""


class Ranking(NamedTuple):
    """Runs on the same images, the best first."""

    data: str
    set: str  # test or val
    split: str
    images: int
    entries: list[Entry]

    @property
    def title(self) -> str:
        """The images, such as `digits, test, 360 images`."""
        split = self.set if self.split == self.set else f"{self.set} ({self.split})"
        return f"{self.data or 'unknown data'}, {split}, {self.images:,} images"


def rank(runs: Sequence[RunSummary]) -> tuple[list[Ranking], list[Entry]]:
    """Return a ranking of the runs on each set of images, and the runs without a score.

    The images are the same if the data set, the split and the number of images are; a folder of
    images is known by its name. Runs whose intervals overlap with that of the best are not
    distinguishable from it.

    Args:
      runs: The runs.
    """
    groups: dict[tuple[str, str, str, int], list[tuple[RunSummary, Score]]] = {}
    others = []
    for run in runs:
        label = next((name for name in SETS if name in run.scores), None)
        if label is None:
            others.append(Entry(run))
            continue
        score = run.scores[label]
        groups.setdefault((run.data, label, score.split, score.images), []).append((run, score))
    rankings = [Ranking(*key, _entries(found)) for key, found in groups.items()]
    return sorted(rankings, key=lambda ranking: -len(ranking.entries)), others


def _entries(found: Sequence[tuple[RunSummary, Score]]) -> list[Entry]:
    ordered = sorted(found, key=lambda pair: -pair[1].top1)
    best = ordered[0][1]
    return [Entry(run, score, _standing(score, best, len(found))) for run, score in ordered]


def _standing(score: Score, best: Score, number: int) -> str:
    if number == 1:
        return ALONE
    if score.top1 == best.top1:
        return BEST
    return CLOSE if score.high >= best.low else BEHIND
