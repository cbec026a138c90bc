"""Errors that end a command: a one-line message, and an exit code that a scheduler can act on.

The exit codes follow sysexits.h: 64 invalid flag or config, 65 invalid data, 66 missing input, 69
cannot compile, 70 diverged, 73 cannot write, 74 checkpoint or other I/O error, 75 interrupted
(rerun the same command to resume).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """An error to report to the user: what is wrong, where, what was expected, and what to do.

    Args:
      problem: What was expected and what was given.
      path: The full dotted path of the field, such as `config.optim.learning_rate`, or the flag;
        empty if the problem says where it is.
    """

    label = "error"
    exit_code = 1

    def __init__(self, problem: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


class ConfigError(UserError):
    """A flag or a config field is invalid.

    Args:
      path: The full dotted path of the field, such as `config.optim.learning_rate`.
      problem: What was expected and what was given.
    """

    exit_code = 64

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem, path=path)


class DataError(UserError):
    """A record, an image or a label is invalid."""

    exit_code = 65


class InputMissingError(UserError):
    """An input file, folder, data set or package is missing."""

    exit_code = 66


class DivergedError(UserError):
    """Too many consecutive training steps had a non-finite loss or gradient."""

    exit_code = 70


class WorkdirError(UserError):
    """The work directory cannot be written, or another process uses it."""

    exit_code = 73


class CheckpointError(UserError):
    """A checkpoint cannot be saved or restored."""

    exit_code = 74


class CompileError(UserError):
    """A program cannot be compiled."""

    exit_code = 69


class Interrupted(UserError):
    """SIGTERM or Ctrl-C ended the run after it saved a checkpoint; rerun the command to resume."""

    label = "stopped"
    exit_code = 75


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return a hint for a misspelled name: the most similar choice, or else all choices.

    Args:
      name: The name that was given.
      choices: The valid names.
    """
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(choices)}"


def suggest_or_import(name: str, choices: Iterable[str]) -> str:
    """Return the hint of `suggest` for a table that the user can extend with `--import`."""
    near = suggest(name, choices)
    if near.endswith("?"):
        return f"{near} For your own, pass --import=MODULE"
    return f"{near}, or add your own with --import=MODULE"


def pick(table: Mapping[str, T], key: str, path: str) -> T:
    """Return the entry of a table.

    Args:
      table: The entries by name.
      key: The name to look up.
      path: The config field or flag that gave the name, for the error message.

    Raises:
      ConfigError: The table has no such name; the message suggests a valid one.
    """
    if key not in table:
        raise ConfigError(path, f"unknown '{key}'; {suggest(key, table)}")
    return table[key]
