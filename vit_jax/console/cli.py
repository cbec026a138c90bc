"""The frame of every command: flags, config overrides, one-line errors and exit codes."""

import logging as stdlib_logging
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from absl import flags, logging
from etils import epath

from vit_jax.cluster import hosts
from vit_jax.console.imports import import_modules
from vit_jax.console.progress import complain
from vit_jax.errors import (
    CheckpointError,
    ConfigError,
    UserError,
    suggest,
)

# The default of JAX's cache of compiled programs; JAX_COMPILATION_CACHE_DIR sets another folder.
CACHE = epath.Path("~/.cache/vit_jax/compiled")

# Renamed flags, and their replacements.
RENAMED = {"raw": "--weights=raw"}
HELP_FLAGS = ("?", "h", "help", "helpfull", "helpshort", "helpxml")

Main = Callable[[flags.FlagValues, Any], None]


def new_flags() -> flags.FlagValues:
    """Return a new set of flags with those that every command has."""
    values = flags.FlagValues()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    text = "Modules to import first, with your own parts: NAME,NAME."
    flags.DEFINE_string("import", "", text, flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def define_allow_flag(values: flags.FlagValues) -> None:
    """Define the flag `--allow_config_change` of commands that read a run."""
    text = (
        "A key of the run's config.json, such as data.mean, that may differ from the config of the "
        "checkpoint. Repeat the flag for several keys."
    )
    flags.DEFINE_multi_string("allow_config_change", [], text, flag_values=values)


def define_weights_flag(values: flags.FlagValues) -> None:
    """Define the flag `--weights`, which selects the EMA or the raw weights of a checkpoint."""
    text = "ema (exponential moving average) or raw. Default: ema if the checkpoint has it."
    flags.DEFINE_enum("weights", None, ["ema", "raw"], text, flag_values=values)


def run(
    main: Main,
    values: flags.FlagValues,
    doc: str,
    argv: Sequence[str] | None = None,
    parse: Callable[[Sequence[str], flags.FlagValues], Any] | None = None,
) -> int:
    """Run a command and return its exit code. An error is reported as one line on stderr.

    Args:
      main: The command; called with the flags and the result of `parse`.
      values: The flags of the command.
      doc: The help text, shown by `--help`.
      argv: The command line; `sys.argv` by default.
      parse: Parses the arguments that are not flags; `parse_overrides` by default.
    """
    argv = list(sys.argv if argv is None else argv)
    logging.set_verbosity(logging.FATAL)  # hide Orbax's messages: errors are reported below
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined, unused-ignore]
        jax.config.update("jax_compilation_cache_dir", str(CACHE.expanduser()))
    values.mark_as_parsed()  # so that `debug` can be read even if parsing fails
    try:
        rest = values(argv, known_only=True)[1:]
        if values.help:
            print(f"{doc.strip()}\n\n{values.get_help()}")
            return 0
        with hosts.joined(values):
            hosts.run_and_compare(lambda: import_modules(values["import"].value or ""))
            main(values, hosts.run_and_compare(lambda: (parse or parse_overrides)(rest, values)))
    except (UserError, flags.Error) as error:
        return _report(error, error if isinstance(error, UserError) else ConfigError, values.debug)
    except OSError as error:
        return _report(error, CheckpointError, values.debug)
    except KeyboardInterrupt:
        print("stopped: immediately, without saving a checkpoint", file=sys.stderr, flush=True)
        return 130
    return 0


def _report(error: Exception, described_by: UserError | type[UserError], debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    complain(f"{described_by.label}: {message}")
    return described_by.exit_code


def parse_overrides(
    rest: Sequence[str], values: flags.FlagValues, sections: tuple[str, ...] = ("config.",)
) -> dict[str, str]:
    """Parse config overrides: `--config.a.b=c` or `--config.a.b c`.

    Args:
      rest: The arguments of the command line that are not flags.
      values: The flags of the command, to suggest one for a misspelled name.
      sections: The prefixes of overrides.

    Returns:
      The text of each override, by path without `config.`.

    Raises:
      ConfigError: An argument is neither a flag nor an override.
    """
    overrides: dict[str, str] = {}
    items = list(rest)
    while items:
        item = items.pop(0)
        name, equals, text = item.removeprefix("-").removeprefix("-").partition("=")
        if not item.startswith("-") or not name.startswith(sections):
            hint = suggest_flag(name, [*values, *(f"{section}KEY" for section in sections)])
            if "." in name and sections == ("config.",):
                hint = f"did you mean '--config.{name}'?"
            if name in RENAMED and "weights" in values:
                hint = f"pass {RENAMED[name]}"
            if not item.startswith("-"):
                config = f", such as --config={item}" if item.split(":")[0].endswith(".py") else ""
                raise ConfigError(item, f"expected flags, --NAME=VALUE{config}")
            raise ConfigError(item.partition("=")[0], f"no such flag; {hint}")
        if not equals:
            if not items:
                raise ConfigError(name, f"expected a value, as in --{sections[0]}key=value")
            text = items.pop(0)
        overrides[name.removeprefix("config.")] = text
    return overrides


def suggest_flag(name: str, flag_names: Iterable[str]) -> str:
    """Return a hint for a misspelled flag, without dashes: the most similar one, or else all."""
    return suggest(f"--{name}", [f"--{flag}" for flag in flag_names if flag not in HELP_FLAGS])


def parse_operands(rest: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Parse positional arguments, such as files. All arguments after `--` are positional.

    Args:
      rest: The arguments of the command line that are not flags.
      values: The flags of the command, to suggest one for a misspelled name.

    Raises:
      ConfigError: An argument looks like a flag that does not exist.
    """
    items = list(rest)
    end = items.index("--") if "--" in items else len(items)
    for item in items[:end]:
        if item.startswith("-") and item != "-":
            name = item.lstrip("-").partition("=")[0]
            raise ConfigError(item.partition("=")[0], f"no such flag; {suggest_flag(name, values)}")
    return items[:end] + items[end + 1 :]


def parse_operands_and_overrides(
    rest: Sequence[str], values: flags.FlagValues
) -> tuple[list[str], dict[str, str]]:
    """Parse positional arguments among config overrides, which have the form `--config.a.b=c`.

    Args:
      rest: The arguments of the command line that are not flags.
      values: The flags of the command, to suggest one for a misspelled name.

    Raises:
      ConfigError: An argument looks like a flag that does not exist, or an override has no value.
    """
    end = list(rest).index("--") if "--" in rest else len(rest)
    settings = [item for item in rest[:end] if item.startswith("--config.")]
    operands = [item for i, item in enumerate(rest) if i >= end or item not in settings]
    return parse_operands(operands, values), parse_overrides(settings, values)
