"""What every command shares: flags, config overrides, one-line errors and exit codes."""

import logging as stdlib_logging
import sys
import traceback
from collections.abc import Callable, Sequence
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

# Compiled programs, from one run of a command to the next; JAX_COMPILATION_CACHE_DIR moves it.
CACHE = epath.Path("~/.cache/vit_jax/compiled")

# Flags that were renamed, and what says the same now.
RENAMED = {"raw": "--weights=raw"}

Main = Callable[[flags.FlagValues, Any], None]


def new_flags() -> flags.FlagValues:
    """Return the flags that every command has."""
    values = flags.FlagValues()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    text = "Modules with parts of your own, to import first: NAME,NAME."
    flags.DEFINE_string("import", "", text, flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def define_allow_flag(values: flags.FlagValues) -> None:
    """Define `--allow_config_change` for a command that reads a run folder."""
    text = (
        "A key of the run's config.json, such as data.mean, that may differ from what the "
        "checkpoint was trained with; may be repeated."
    )
    flags.DEFINE_multi_string("allow_config_change", [], text, flag_values=values)


def define_weights_flag(values: flags.FlagValues) -> None:
    """Add `--weights` to the flags of a command: which of two sets of weights it takes."""
    text = "ema (the average) or raw, where there are both; the average by default."
    flags.DEFINE_enum("weights", None, ["ema", "raw"], text, flag_values=values)


def run(
    main: Main,
    values: flags.FlagValues,
    doc: str,
    argv: Sequence[str] | None = None,
    parse: Callable[[Sequence[str], flags.FlagValues], Any] | None = None,
) -> int:
    """Run a command and return its exit code; an error is one line on stderr.

    Args:
      main: Called with the flags, and what `parse` makes of the rest of the command line.
      values: The command's flags.
      doc: What it does.
      argv: The command line.
      parse: `parse_overrides` unless given.
    """
    argv = list(sys.argv if argv is None else argv)
    logging.set_verbosity(logging.FATAL)  # Orbax's own; what fails is said in one line
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(CACHE.expanduser()))
    values.mark_as_parsed()  # `debug` is asked for even where parsing fails
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
        print("stopped: at once; what was not saved yet is lost", file=sys.stderr, flush=True)
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
    """Read `--config.a.b=c` or `--config.a.b c` from what no flag took.

    Args:
      rest: Of the command line.
      values: The command's flags.
      sections: How the names begin.

    Raises:
      ConfigError: An argument is neither a flag nor an override.
    """
    overrides: dict[str, str] = {}
    items = list(rest)
    while items:
        item = items.pop(0)
        name, equals, text = item.removeprefix("-").removeprefix("-").partition("=")
        if not item.startswith("-") or not name.startswith(sections):
            known = suggest(name, [*values, *(f"{section}KEY" for section in sections)])
            if name in RENAMED and "weights" in values:
                known = f"give {RENAMED[name]}"
            raise ConfigError(item.partition("=")[0], f"no such flag; {known}")
        if not equals:
            if not items:
                raise ConfigError(name, f"expected a value, as in --{sections[0]}key=value")
            text = items.pop(0)
        overrides[name.removeprefix("config.")] = text
    return overrides


def parse_operands(rest: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Read operands, such as files, from what no flag took; after `--` all is operands.

    Raises:
      ConfigError: There is no such flag.
    """
    items = list(rest)
    border = items.index("--") if "--" in items else len(items)
    for item in items[:border]:
        if item.startswith("-") and item != "-":
            name = item.lstrip("-").partition("=")[0]
            raise ConfigError(item.partition("=")[0], f"no such flag; {suggest(name, values)}")
    return items[:border] + items[border + 1 :]
