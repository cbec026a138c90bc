"""Sections of settings that record which values were set, and by which line of which file."""

import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jaxtyping
import ml_collections

_PACKAGE = pathlib.Path(__file__).parents[1]

# The recipes of this package: inside of it in a wheel, beside it in a clone.
RECIPES = _PACKAGE / "configs"
if not RECIPES.is_dir():
    RECIPES = _PACKAGE.parent / "configs"

# A value is set by the code that calls these packages. (jaxtyping wraps functions in tests.)
_PACKAGES = tuple(
    f"{folder}{os.sep}"
    for folder in (
        _PACKAGE,
        pathlib.Path(ml_collections.__file__).parent,
        pathlib.Path(jaxtyping.__file__).parent,
    )
)


class Setting(NamedTuple):
    """A value and its origin."""

    value: Any
    origin: str  # such as `configs/x.py:12`


class Settings(ml_collections.ConfigDict):
    """A section of settings that config files assign to.

    Values that are passed to the constructor are defaults; values that are assigned are set. To
    assign a mapping sets all of its leaves. To assign another `Settings` keeps what that recorded.
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_origins", {})
        object.__setattr__(self, "_stale", set())
        super().__init__(type_safe=False, sort_keys=False)
        for key, value in (defaults or {}).items():
            section = Settings(value) if isinstance(value, Mapping) else value
            super().__setitem__(key, section)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.record(key, value, calling_line())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        object.__setattr__(self, "_origins", dict(state["_origins"]))
        object.__setattr__(self, "_stale", set(state["_stale"]))

    def update(self, *others: Any, **values: Any) -> None:
        """Set the values of mappings, recursively; other values are unchanged."""
        for other in (*others, values):
            for key, value in dict(other).items():
                section = self.get(key)
                if isinstance(section, Settings) and not isinstance(value, str):
                    section.update(value)
                else:
                    self[key] = value

    def copy_and_resolve_references(self, visit_map: dict[int, Any] | None = None) -> "Settings":
        """Return a copy with the same records, in which plain values replace references."""
        resolved = Settings()
        for key in self:
            value = self[key]
            if isinstance(value, Settings):
                value = value.copy_and_resolve_references()
            resolved.record(key, value, self._origins.get(key, ""))
        object.__setattr__(resolved, "_stale", set(self._stale))
        return resolved

    def record(self, key: Any, value: Any, origin: str) -> None:
        """Set a value and record its origin.

        A text that is assigned to a section with a name sets that name. Values that were set in the
        section for another name become stale.

        Args:
          key: Name of the setting.
          value: The value.
          origin: File and line that set it, such as `configs/x.py:12`; empty: a default.
        """
        section = self.get(key)
        if isinstance(value, str) and isinstance(section, Settings) and "name" in section:
            section.record("name", value, origin)
            return
        if not isinstance(value, Settings) and isinstance(
            value, Mapping | ml_collections.ConfigDict
        ):
            section = Settings()
            for name in value:
                section.record(name, value[name], origin)
            value = section
        if key == "name" and self.get("name", value) != value:
            self._stale.update(self._origins.keys() - {"name"})
        super().__setitem__(key, value)
        self._stale.discard(key)
        if origin:
            self._origins[key] = origin

    def leaves(self) -> Iterator[tuple[str, Setting]]:
        """Yield the path and the setting of every leaf; the origin of a default is empty."""
        for key in self:
            value = self[key]
            if isinstance(value, Settings):
                yield from ((f"{key}.{path}", setting) for path, setting in value.leaves())
            else:
                yield str(key), Setting(value, self._origins.get(key, ""))

    def stale(self) -> Iterator[str]:
        """Yield the path of each leaf that was set before the name of its section changed."""
        for key in self:
            value = self[key]
            if isinstance(value, Settings):
                yield from (f"{key}.{path}" for path in value.stale())
            elif key in self._stale:
                yield str(key)


def calling_line() -> str:
    """Return file and line of the nearest caller that is a config file or outside of this package.

    The path is relative to the current directory or, of a recipe of this package, begins with
    `configs/`.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_internal(frame.f_code.co_filename):
        frame = frame.f_back
    file = frame.f_code.co_filename.removeprefix(f"{os.getcwd()}{os.sep}")
    if _is_recipe(file):
        file = file.removeprefix(f"{RECIPES.parent}{os.sep}")
    return f"{file}:{frame.f_lineno}"


def _is_internal(file: str) -> bool:
    return file.startswith(_PACKAGES) and not _is_recipe(file)


def _is_recipe(file: str) -> bool:
    return file.startswith(f"{RECIPES}{os.sep}")
