"""Why a preparation failed, in one line: data set code and TFDS raise anything."""

import errno
import os

import requests
import tensorflow_datasets as tfds
from etils import epath

from vit_jax.data.building.downloads import ELSEWHERE, causes_of
from vit_jax.errors import ConfigError, DataError, InputMissingError, UserError, WorkdirError

FLAG = "--dataset"  # names the data set
EXTRA = "pip install 'vit_jax[tfds]'"

# Texts of errors, not all of them an OSError, that mean that nothing more can be written.
UNWRITABLE = (
    *map(os.strerror, (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)),
    "Not enough disk space",  # TFDS's own
)


def explain(name: str, root: epath.Path, error: Exception) -> UserError:
    """Return the error to show for what a preparation raised, by the first cause that says why.

    Args:
      name: The data set.
      root: The directory of data sets.
      error: What was raised.
    """
    for cause in causes_of(error):
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, ImportError):
            module = (cause.name or "").partition(".")[0] or str(cause)
            if module == "tensorflow":
                return ConfigError(FLAG, f"preparing '{name}' needs TensorFlow; {EXTRA}")
            return ConfigError(FLAG, f"preparing '{name}' needs {module}; pip install {module}")
        if isinstance(cause, requests.RequestException | tfds.download.DownloadError):
            return InputMissingError(f"{cause}; {ELSEWHERE}")
        if isinstance(cause, FileNotFoundError):
            return InputMissingError(f"{name}: {cause}")
        if any(text in str(cause) for text in UNWRITABLE):
            return WorkdirError(f"--data_dir: cannot write {root}: {cause!s:.200}")
    return DataError(f"{name}: TFDS cannot prepare it: {type(error).__name__}: {error!s:.300}")
