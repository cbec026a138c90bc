"""The sources of images, by name.

Every entry of `SOURCES` is called with the data section and a split, and returns a `Source`. Any
other name is the name of a TFDS data set.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable

import tensorflow_datasets as tfds_lib

from vit_jax import config as config_lib
from vit_jax.data.digits import Digits
from vit_jax.data.sources import tfds
from vit_jax.data.sources.base import Source
from vit_jax.data.sources.class_names import listed, order_is_clear, same
from vit_jax.data.sources.folder import Folder
from vit_jax.data.sources.folder.layout import SETTING
from vit_jax.data.sources.synthetic import Synthetic
from vit_jax.errors import ConfigError, DataError, InputMissingError

SOURCES: dict[str, Callable[[config_lib.Data, str], Source]] = {
    "digits": Digits,
    "synthetic": Synthetic,
}
FOLDER_STARTS = ("/", "./", "../", "~")  # what a folder starts with where a data set may stand too


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
      DataError: The split is empty, or the folder does not have one folder per class.
      InputMissingError: The data set is not prepared, or the folder does not exist.
    """
    index = [known for known, _ in config.eval.sets].index(name)
    where = config.eval.sets[index][1]
    return open_location(config.data, where, f"config.eval.sets[{index}]", class_names)


def open_location(
    data: config_lib.Data, where: str, path: str, class_names: tuple[str, ...] = ()
) -> Source:
    """Open the images that a text names: SPLIT, DATASET:SPLIT or FOLDER:SPLIT.

    Args:
      data: Data section of the config.
      where: The text.
      path: The field or flag that has the text, for errors.
      class_names: Expected class names, in order; empty: any.

    Raises:
      ConfigError: The data set or the split is unknown, or it has other classes.
      DataError: The split is empty, or the folder does not have one folder per class.
      InputMissingError: The data set is not prepared, or the folder does not exist.
    """
    of_set, split = locate(data, where, path)
    try:
        return _open(of_set, split, path, class_names)
    except ConfigError as error:
        raise ConfigError(path, error.problem + _hint(of_set.name)) from error
    except (DataError, InputMissingError) as error:
        problem = error.problem.replace(SETTING, "the folder ")  # the text has no such setting
        raise type(error)(problem, path=path) from error


def locate(data: config_lib.Data, where: str, path: str) -> tuple[config_lib.Data, str]:
    """Return the data section of the images that a text names, and their split.

    Args:
      data: Data section of the config.
      where: SPLIT, DATASET:SPLIT or FOLDER:SPLIT.
      path: The field or flag that has the text, for errors.

    Raises:
      ConfigError: The text is a folder without a split.
    """
    dataset, split = split_location(where)
    if split.startswith(FOLDER_STARTS):
        raise ConfigError(path, f"'{where}' names no split; expected FOLDER:SPLIT, {where}:val")
    if dataset.startswith(FOLDER_STARTS):
        return dataclasses.replace(data, name="", root=dataset), split
    return dataclasses.replace(data, name=dataset, root="") if dataset else data, split


def split_location(where: str) -> tuple[str, str]:
    """Return data set and split of `DATASET:SPLIT`; the data set is empty for `SPLIT`.

    A colon within brackets belongs to the split: `cifar10:3.0.2:test[:100]`.
    """
    brackets = where.find("[", where.rfind("/") + 1)
    dataset, _, split = where[: brackets if brackets >= 0 else None].rpartition(":")
    return dataset, split + (where[brackets:] if brackets >= 0 else "")


def _hint(name: str) -> str:
    """Return a hint for a folder that is written like a data set, or `""`."""
    may_be = name and name not in SOURCES and os.path.isdir(name)
    return f"; for the folder, write ./{name}" if may_be else ""


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
        problem = f"'{split}' of {data.root or data.name} holds no image"
        raise DataError("; ".join([problem, *source.notes]), path=path)
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
