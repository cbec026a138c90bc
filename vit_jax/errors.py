"""The mistakes that end a command: one line each, and an exit code a scheduler can act on.

The codes follow sysexits: 64 bad flag or config, 65 bad data, 66 input missing, 70 diverged,
73 cannot write, 74 checkpoint or other I/O, 75 interrupted (rerun the same command to continue).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """An error whose message is for the user: what, where, what was expected, a hint."""

    label = "error"
    exit_code = 1


class ConfigError(UserError):
    """A flag or a config field is wrong.

    Args:
      path: The full dotted path of the field, such as `config.optim.learning_rate`.
      problem: What was expected and what was got.
    """

    exit_code = 64

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class DataError(UserError):
    """A record, an image or a label is wrong."""

    exit_code = 65


class InputMissingError(UserError):
    """Something to be read is not there."""

    exit_code = 66


class DivergedError(UserError):
    """Training produced non-finite values too many times in a row."""

    exit_code = 70


class WorkdirError(UserError):
    """The work directory cannot be written, or another process is writing it."""

    exit_code = 73


class CheckpointError(UserError):
    """A checkpoint cannot be saved or restored."""

    exit_code = 74


class Interrupted(UserError):
    """SIGTERM or Ctrl-C: the state is saved, and rerun the same command to continue."""

    label = "stopped"
    exit_code = 75


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return the nearest right name, or all of them where none is near."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(choices)}"


def suggest_or_import(name: str, choices: Iterable[str]) -> str:
    """Return the same for a table that modules of the user may add to."""
    near = suggest(name, choices)
    if near.endswith("?"):
        return f"{near} Your own come with --import=MODULE"
    return f"{near}, or bring your own with --import=MODULE"


def pick(table: Mapping[str, T], key: str, path: str) -> T:
    """Look a name up in a table of parts; raise `ConfigError` with the choices."""
    if key not in table:
        raise ConfigError(path, f"unknown '{key}'; {suggest(key, table)}")
    return table[key]
