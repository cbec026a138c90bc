"""The sources of images, by name.

Every entry of `SOURCES` is called with the data section and a split, and returns a `Source`. Any
other name is the name of a TFDS data set.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable

import tensorflow_datasets as tfds_lib

from vit_jax import config as config_lib
from vit_jax.data.digits import Digits
from vit_jax.data.sources import tfds
from vit_jax.data.sources.base import Source
from vit_jax.data.sources.class_names import listed, order_is_clear, same
from vit_jax.data.sources.folder import Folder
from vit_jax.data.sources.synthetic import Synthetic
from vit_jax.errors import ConfigError, DataError, InputMissingError

SOURCES: dict[str, Callable[[config_lib.Data, str], Source]] = {
    "digits": Digits,
    "synthetic": Synthetic,
}


def open_split(data: config_lib.Data, field: str, class_names: tuple[str, ...] = ()) -> Source:
    """Open the split that a field of the data section names, such as `train_split`.

    Args:
      data: Data section of the config.
      field: Name of the field that names the split.
      class_names: Expected class names, in order; empty: any.

    Raises:
      ConfigError: The data set or the split is unknown, or it has other classes.
      DataError: The split is empty.
    """
    return _open(data, getattr(data, field), f"config.data.{field}", class_names)


def open_set(config: config_lib.Config, name: str, class_names: tuple[str, ...] = ()) -> Source:
    """Open an additional evaluation set of a run, from `config.eval.sets`.

    Args:
      config: Config of the run.
      name: Name of the set.
      class_names: Expected class names, in order; empty: any.

    Raises:
      ConfigError: The data set or the split is unknown, or it has other classes.
      DataError: The split is empty.
      InputMissingError: The data set is not prepared.
    """
    index = [known for known, _ in config.eval.sets].index(name)
    path = f"config.eval.sets[{index}]"
    dataset, split = split_location(config.eval.sets[index][1])
    data = dataclasses.replace(config.data, name=dataset, root="") if dataset else config.data
    try:
        return _open(data, split, path, class_names)
    except ConfigError as error:
        raise ConfigError(path, error.problem) from error
    except InputMissingError as error:
        raise InputMissingError(f"{path}: {error}") from error


def split_location(where: str) -> tuple[str, str]:
    """Return data set and split of `DATASET:SPLIT`; the data set is empty for `SPLIT`.

    A colon within brackets belongs to the split: `cifar10:3.0.2:test[:100]`.
    """
    brackets = where.find("[")
    dataset, _, split = where[: brackets if brackets >= 0 else None].rpartition(":")
    return dataset, split + (where[brackets:] if brackets >= 0 else "")


def _open(data: config_lib.Data, split: str, path: str, class_names: tuple[str, ...]) -> Source:
    """Open a split of a data set; `path` is the path of the field that names the split."""
    if not (data.name or data.root):
        problem = "expected a folder of images; pass --config.data.root=DIR"
        raise ConfigError("config.data.root", f"{problem}, or a data set: --config.data.name=NAME")
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
        problem = f"{path}: '{split}' of {data.root or data.name} holds no image"
        raise DataError("; ".join([problem, *source.notes]))
    if class_names and not same(source.class_names, class_names):
        actual, expected = listed(source.class_names), listed(class_names)
        raise ConfigError(path, f"the classes of {source.title} are {actual}, expected {expected}")
    return source


def note_on_order(source: Source) -> str:
    """Return a note that a model without class names is assumed to have those of a source.

    Raises:
      DataError: The class names have another order as text than as numbers.
    """
    names = source.class_names
    if isinstance(source, Folder) and not order_is_clear(names):
        problem = f"the weights have no class names, and the folders are {listed(names)} as texts"
        hint = "vit_jax.convert takes the names in the order of the outputs: --labels=FILE"
        raise DataError(f"{source.title}: {problem}, in another order as numbers; {hint}")
    return f"the weights have no class names: their outputs are taken for {listed(names)}"
