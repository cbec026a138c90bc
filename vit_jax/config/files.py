"""Config files: Python files whose `get_config()` returns a tree of settings."""

import difflib
import pathlib
import runpy
import traceback

import ml_collections

from vit_jax.console.workdir import local_path
from vit_jax.errors import ConfigError, UserError
from vit_jax.settings.recorded import RECIPES, Settings


def split_config_path(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the file of `--config`, and the argument that follows it, if any."""
    file, suffix, argument = path.partition(".py:")
    return (f"{file}.py", (argument,)) if suffix else (path, ())


def load_config_file(path: str) -> ml_collections.ConfigDict:
    """Run a config file and return what its `get_config()` gives.

    Args:
      path: The path of the file; an argument of `get_config` follows a colon, as in
        `configs/deit.py:s`. `configs/NAME.py` is a recipe of this package unless there is such a
        file below the current directory.

    Raises:
      ConfigError: There is no such file, or it fails; with file and line.
    """
    if not path:
        raise ConfigError("--config", "expected a config file, as in --config=configs/digits.py")
    path, argument = split_config_path(path)
    file = str(_find(path))
    try:
        get_config = runpy.run_path(file).get("get_config")
        tree = get_config(*argument) if get_config else None
        if isinstance(tree, ml_collections.ConfigDict) and not isinstance(tree, Settings):
            tree = _set_by(path, tree)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}:{line}" if line else path
        raise ConfigError(where, f"{type(error).__name__}: {error}") from error
    if get_config is None:
        raise ConfigError(path, "expected a function get_config()")
    if not isinstance(tree, ml_collections.ConfigDict):
        raise ConfigError(path, f"expected get_config() to return a ConfigDict, got {type(tree)}")
    return tree


def _find(path: str) -> pathlib.Path:
    """Return the config file at a path: a local file, or else the recipe of that name.

    Raises:
      ConfigError: There is neither.
    """
    file = local_path(path, "--config")
    if file.is_file():
        return file
    recipes = {f"configs/{recipe.name}": recipe for recipe in RECIPES.glob("*.py")}
    if file.as_posix() in recipes:
        return recipes[file.as_posix()]
    near = difflib.get_close_matches(file.as_posix(), recipes, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "expected a path or a recipe."
    names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.py")))
    problem = f"no such file: '{path}'; {hint} The recipes are configs/NAME.py with NAME one of"
    raise ConfigError("--config", f"{problem} {names}")


def _set_by(path: str, tree: ml_collections.ConfigDict) -> Settings:
    """Return a tree that does not remember who set it as one that a file sets whole."""
    settings = Settings()
    for key in tree:
        settings.record(key, tree[key], path)
    return settings
