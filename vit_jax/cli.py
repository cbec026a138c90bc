"""What every command shares: flags, config overrides, one-line errors and exit codes."""

import json
import logging as stdlib_logging
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence

import jax
import ml_collections
from absl import flags, logging
from etils import epath

from vit_jax import config as config_lib
from vit_jax.errors import (
    CheckpointError,
    ConfigError,
    InputMissingError,
    UserError,
    suggest,
)

# Compiled programs, from one run of a command to the next; JAX_COMPILATION_CACHE_DIR moves it.
CACHE = epath.Path("~/.cache/vit_jax/compiled")

Main = Callable[[flags.FlagValues, dict[str, str]], None]


def new_flags() -> flags.FlagValues:
    """Returns the flags that every command has."""
    values = flags.FlagValues()
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def run(main: Main, values: flags.FlagValues, doc: str, argv: Sequence[str] | None = None) -> int:
    """Parses flags, runs a command and returns its exit code; an error is one line on stderr."""
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
        main(values, parse_overrides(rest, values))
    except (UserError, flags.Error) as error:
        return _say(error, error if isinstance(error, UserError) else ConfigError, values.debug)
    except OSError as error:
        return _say(error, CheckpointError, values.debug)
    except KeyboardInterrupt:
        print("stopped: at once; what was not saved yet is lost", file=sys.stderr, flush=True)
        return 130
    return 0


def _say(error: Exception, kind: UserError | type[UserError], debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    print(f"{kind.label}: {message}", file=sys.stderr, flush=True)
    return kind.exit_code


def parse_overrides(rest: Sequence[str], values: flags.FlagValues) -> dict[str, str]:
    """Reads `--config.a.b=c` or `--config.a.b c` from what no flag took.

    Raises:
      ConfigError: An argument is neither a flag nor an override.
    """
    overrides: dict[str, str] = {}
    items = list(rest)
    while items:
        item = items.pop(0)
        name, equals, text = item.removeprefix("-").removeprefix("-").partition("=")
        if not item.startswith("-") or not name.startswith("config."):
            known = suggest(name, [*values, "config.KEY"])
            raise ConfigError(item.partition("=")[0], f"no such flag; {known}")
        if not equals:
            if not items:
                raise ConfigError(name, "expected a value, as in --config.key=value")
            text = items.pop(0)
        overrides[name.removeprefix("config.")] = text
    return overrides


def load_config_file(path: str) -> ml_collections.ConfigDict:
    """Runs a config file and returns what its `get_config()` gives.

    Raises:
      ConfigError: There is no such file, or it fails; with file and line.
    """
    if not path:
        raise ConfigError("--config", "expected a config file, as in --config=configs/digits.py")
    if not epath.Path(path).is_file():
        raise ConfigError("--config", f"no file {path}")
    try:
        get_config = runpy.run_path(path).get("get_config")
        tree = get_config() if get_config else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}:{line}" if line else path
        raise ConfigError(where, f"{type(error).__name__}: {error}") from error
    if get_config is None:
        raise ConfigError(path, "expected a function get_config()")
    if not isinstance(tree, ml_collections.ConfigDict):
        raise ConfigError(path, f"expected get_config() to return a ConfigDict, got {type(tree)}")
    return tree


def load_run_config(workdir: epath.Path) -> config_lib.Config:
    """Reads the resolved config of a run from its `config.json`; runs no Python file.

    Raises:
      InputMissingError: There is no such file, or it is not one of ours.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputMissingError(f"{path}: no such file; expected the work directory of a run")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise InputMissingError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputMissingError(f"{path}: expected the settings of a run, got {values!r:.40}")
    return config_lib.resolve(values)
