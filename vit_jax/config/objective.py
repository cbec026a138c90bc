"""The fields of each objective, by name.

`training.objectives` implements the objectives of the same names.
"""

import dataclasses
from collections.abc import Iterator

from vit_jax.settings.fields import Section, field


@dataclasses.dataclass(frozen=True)
class Objective(Section):
    """Base class of the fields of an objective."""

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each field that contradicts others, and the problem."""
        yield from ()


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Classification of labelled images with a cross-entropy loss."""

    loss: str = field(
        "softmax",
        "cross-entropy: softmax, sigmoid, binary (sigmoid with every target above 0 set to 1)",
    )
    label_smoothing: float = field(
        0.0, "label smoothing: probability mass that is spread over all classes", low=0, high=1
    )

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield a problem if the loss would undo label smoothing."""
        if self.loss == "binary" and self.label_smoothing:
            problem = "expected 0 with loss=binary, where every target above 0 counts as 1"
            yield "label_smoothing", problem


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """Classification with a teacher (Hinton et al. 2015; Touvron et al. 2021, DeiT, section 4)."""

    teacher: str = field(
        "", "run folder or converted weights of the teacher; its EMA is used, if any"
    )
    kind: str = field(
        "hard", "hard: the top-1 class of the teacher is the label; soft: its probabilities"
    )
    alpha: float = field(
        0.5, "weight of the distillation loss; the label loss has 1 - alpha", low=0, high=1
    )
    temperature: float = field(1.0, "temperature of soft distillation", low=0.01)

    def find_problems(self) -> Iterator[tuple[str, str]]:
        """Yield also a problem if there is no teacher."""
        yield from super().find_problems()
        if not self.teacher:
            yield (
                "teacher",
                "expected the run folder of the teacher; pass --config.objective.teacher=DIR",
            )


OBJECTIVES: dict[str, type[Objective]] = {
    "classification": Classification,
    "distillation": Distillation,
}
