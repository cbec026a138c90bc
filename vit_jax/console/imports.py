"""`--import=MODULE`: imports the user's modules, which register parts, families and objectives.

Modules are imported only if the command line names them, never because of a run or a weight file.
"""

import importlib
import os
import pathlib
import sys
import traceback

from vit_jax.errors import ConfigError, UserError


def import_modules(names: str) -> None:
    """Import modules from the current directory or from Python's path.

    Args:
      names: Module names, separated by commas.

    Raises:
      ConfigError: A module does not exist, or importing it fails. The message has the file and
        line.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in filter(None, names.split(",")):
        if name.endswith(".py") or os.sep in name:
            example = name.removesuffix(".py").strip("./").replace(os.sep, ".")
            problem = f"expected the name of a module, got the file {name}; pass --import={example}"
            raise ConfigError("--import", problem)
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise _describe(name, error) from error


def _describe(name: str, error: BaseException) -> ConfigError:
    """Return the error to report for a module that cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name in (name, name.split(".")[0]):
        problem = f"no module '{name}' in {os.getcwd()} or in the installed packages"
        return ConfigError("--import", problem)
    frames = traceback.extract_tb(error.__traceback__)
    foreign = (sys.base_prefix, sys.prefix, str(pathlib.Path(__file__).parents[1]), "<")
    own = [frame for frame in frames if not frame.filename.startswith(foreign)]
    line = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
    if isinstance(error, SyntaxError):
        line = f"{error.filename}:{error.lineno}: "
    return ConfigError("--import", f"{name}: {line}{type(error).__name__}: {error}")
