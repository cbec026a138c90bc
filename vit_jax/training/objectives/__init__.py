"""Objectives, by name: what a run learns from its images."""

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
    """Add an objective, and its settings to the config, under a name: `config.objective=NAME`."""
    config_lib.OBJECTIVES[name] = objective.settings
    OBJECTIVES[name] = objective


def find_objective(config: config_lib.Config) -> type[Objective]:
    """Return the objective that a config names."""
    return OBJECTIVES[config.objective["name"]]
