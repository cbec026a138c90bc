"""Objectives, by name: the losses that a run minimizes."""

from vit_jax import config as config_lib
from vit_jax.training.objectives.base import Aux, Objective
from vit_jax.training.objectives.classification import Classification
from vit_jax.training.objectives.distillation import Distillation

__all__ = ["OBJECTIVES", "Aux", "Objective", "add_objective", "find_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "classification": Classification,
    "distillation": Distillation,
}


def add_objective(name: str, objective: type[Objective]) -> None:
    """Register an objective and its settings under a name, for `config.objective=NAME`."""
    config_lib.OBJECTIVES[name] = objective.settings
    OBJECTIVES[name] = objective


def find_objective(config: config_lib.Config) -> type[Objective]:
    """Return the objective that a config names."""
    return OBJECTIVES[config.objective["name"]]
