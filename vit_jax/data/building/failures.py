"""The reason why a preparation failed, as one line, from any exception of TFDS."""

import errno
import os

import requests
import tensorflow_datasets as tfds
from etils import epath

from vit_jax.data.building.downloads import ELSEWHERE, causes_of
from vit_jax.errors import ConfigError, DataError, InputMissingError, UserError, WorkdirError

FLAG = "--dataset"
EXTRA = "pip install 'vit_jax[tfds]'"

# Messages of exceptions, not all of them OSError, that mean that a file cannot be written.
UNWRITABLE = (
    *map(os.strerror, (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)),
    "Not enough disk space",  # TFDS's own
)


def explain(name: str, root: epath.Path, error: Exception) -> UserError:
    """Return the error to show for an exception of a preparation.

    It is made from the first exception in the chain of causes that has a known meaning.

    Args:
      name: The name of the data set.
      root: The directory of data sets.
      error: The exception.
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
