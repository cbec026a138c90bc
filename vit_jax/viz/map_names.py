"""The maps of an atlas, by name, and which of them are drawn."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from vit_jax.console.progress import say_aside
from vit_jax.errors import ConfigError, InputMissingError, pick

T = TypeVar("T")

OF_IMAGES = ("heads", "mean", "rollout", "relevance", "components")
OF_MODEL = ("filters", "positions", "distances")
OF_ATTENTION = ("heads", "mean", "distances")  # those that are made of attention weights


class Maps:
    """The maps to draw. One that the model does not have is left out with a note.

    Args:
      names: Their names; empty for all. A map that is named must exist.

    Raises:
      ConfigError: A name is unknown.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        known = dict.fromkeys((*OF_IMAGES, *OF_MODEL))
        for name in names:
            pick(known, name, "--maps")
        self._are_named = bool(names)
        self._drawn = set(names or known)

    def any_of(self, *names: str) -> bool:
        """Return whether one of these maps is drawn."""
        return not self._drawn.isdisjoint(names)

    def make(self, names: Sequence[str], function: Callable[[], T]) -> T | None:
        """Return what the function returns for these maps, or None if none of them is drawn.

        Raises:
          ConfigError: The model does not have a map that was named.
          InputMissingError: A package that it needs is not installed.
        """
        if not self.any_of(*names):
            return None
        try:
            return function()
        except (ConfigError, InputMissingError) as error:
            if self._are_named:
                raise
            dropped = [name for name in names if name in self._drawn]
            problem = error.problem if isinstance(error, ConfigError) else error
            say_aside(f"note      no {', '.join(dropped)}: {problem}")
            self._drawn.difference_update(dropped)
            return None
