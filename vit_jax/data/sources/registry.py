"""The sources of images by name.

Every entry of `SOURCES` is called with the data section and a split, and returns a `Source`; any
other name is that of a TFDS data set.
"""

import functools
import logging
from collections.abc import Callable

import tensorflow_datasets as tfds_lib

from vit_jax import config as config_lib
from vit_jax.data.sources import tfds
from vit_jax.data.sources.base import Source
from vit_jax.data.sources.folder import Folder
from vit_jax.data.sources.synthetic import Synthetic
from vit_jax.errors import ConfigError, DataError

SOURCES: dict[str, Callable[[config_lib.Data, str], Source]] = {
    "digits": tfds.digits,
    "synthetic": Synthetic,
}


def open_split(data: config_lib.Data, field: str, class_names: tuple[str, ...] = ()) -> Source:
    """Open the split that a field of the data section names, such as `train_split`.

    Args:
      data: The data section.
      field: The field that names the split.
      class_names: The classes of another split or of a run, which must be the same.

    Raises:
      ConfigError: The data set or the split is unknown, or its classes are others.
      DataError: The split is empty.
    """
    split = getattr(data, field)
    path = f"config.data.{field}"
    if not (data.name or data.root):
        problem = "names no images; give --config.data.name or --config.data.root"
        raise ConfigError("config.data.name", problem)
    tfds_lib.disable_progress_bar()
    logging.getLogger("tensorflow_datasets").setLevel(logging.ERROR)
    try:
        if data.root:
            source: Source = Folder(data, split, class_names)
        else:
            by_name = functools.partial(tfds.open_dataset, others=tuple(SOURCES))
            source = SOURCES.get(data.name, by_name)(data, split)
    except ValueError as error:
        raise ConfigError(path, str(error).split(" See format at")[0]) from error
    if not len(source):
        raise DataError(f"{path}: '{split}' of {data.root or data.name} holds no image")
    if class_names and source.class_names != class_names:
        actual = ", ".join(source.class_names[:5])
        expected = ", ".join(class_names[:5])
        raise ConfigError(path, f"the classes of {source.name} are {actual}, expected {expected}")
    return source
