"""What a run learns: the fields of each objective, by its name.

A table of `training.objectives` has, by the same names, what they compute.
"""

import dataclasses
from collections.abc import Iterator

from vit_jax.settings.fields import Section, field


@dataclasses.dataclass(frozen=True)
class Objective(Section):
    """The fields of an objective: none."""

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield each field that contradicts others, and how."""
        yield from ()


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """The label of an image, by one of the cross-entropies."""

    loss: str = field("softmax", "softmax, sigmoid, binary (cross-entropies)")
    label_smoothing: float = field(0.0, "label smoothing", low=0, high=1)

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield a smoothing that the loss would undo."""
        if self.loss == "binary" and self.label_smoothing:
            problem = "with loss=binary every target above 0 counts as 1; expected 0"
            yield "label_smoothing", problem


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """The label, and what a teacher says (Hinton et al. 2015; Touvron et al. 2021, DeiT)."""

    teacher: str = field(
        "", "run folder of the teacher (its average, if any), or converted weights"
    )
    kind: str = field(
        "hard", "hard: the teacher's top-1 class as the label; soft: its probabilities"
    )
    alpha: float = field(
        0.5, "weight of the teacher's loss; the label's is 1 - alpha", low=0, high=1
    )
    temperature: float = field(1.0, "temperature of soft distillation", low=0.01)

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield also a teacher that is missing."""
        yield from super().find_problems()
        if not self.teacher:
            yield "teacher", "expected the run folder of the teacher, or converted weights"


OBJECTIVES: dict[str, type[Objective]] = {
    "classification": Classification,
    "distillation": Distillation,
}
