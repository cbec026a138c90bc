"""Published label sets of ImageNet; their lists are read from packages, without importing them."""

import functools
import importlib.util
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import tensorflow_datasets as tfds
from etils import epath

from vit_jax.errors import ConfigError, InputMissingError, suggest
from vit_jax.evaluation.label_sets.files import read_correct, read_label_set, read_lines
from vit_jax.evaluation.label_sets.label_set import FLAG, LabelSet


class Published(NamedTuple):
    """A label set of ImageNet, and the files of timm that have its lists."""

    paper: str
    classes: str = ""  # WordNet ids of a subset; empty: all 1,000 classes
    correct: str = ""  # the correct classes of each validation image; empty: the labels


# By the name of the data set in TFDS.
LABEL_SETS: dict[str, Published] = {
    "imagenet2012": Published("Russakovsky et al. 2015, arXiv 1409.0575"),
    "imagenet2012_corrupted": Published("Hendrycks and Dietterich 2019, arXiv 1903.12261"),
    "imagenet2012_real": Published(
        "Beyer et al. 2020, arXiv 2006.07159", correct="imagenet_real_labels.json"
    ),
    "imagenet_a": Published(
        "Hendrycks et al. 2021, arXiv 1907.07174", classes="imagenet_a_synsets.txt"
    ),
    "imagenet_r": Published(
        "Hendrycks et al. 2021, arXiv 2006.16241", classes="imagenet_r_synsets.txt"
    ),
    "imagenet_sketch": Published("Wang et al. 2019, arXiv 1905.13549"),
    "imagenet_v2": Published("Recht et al. 2019, arXiv 1902.10811"),
}
BY_NAME = "by_name"


def find_label_set(text: str) -> LabelSet:
    """Return the label set that the flag names.

    Args:
      text: A name of `LABEL_SETS`; `by_name` for the classes of the data set; or the path of a
        file, see `files.read_label_set`.

    Raises:
      ConfigError: There is no such label set or file, or the file is not a label set.
      InputMissingError: The package that has the lists is not installed.
    """
    if text == BY_NAME:
        return LabelSet(BY_NAME, "the classes of the data set, by name", {})
    if text in LABEL_SETS:
        return _read(text, LABEL_SETS[text])
    path = epath.Path(text).expanduser()
    if not path.exists():
        problem = f"unknown '{text}', and no such file; {suggest(text, [*LABEL_SETS, BY_NAME])}"
        raise ConfigError(FLAG, problem)
    return read_label_set(path, imagenet_classes())


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1,000 classes, in the order of labels (from TFDS)."""
    lines = tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().splitlines()
    return tuple(lines)


def stand_for_themselves(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return classes that each stand for the class of the model with the same name."""
    return {name: (name,) for name in names}


def _read(name: str, published: Published) -> LabelSet:
    """Return a published label set with its lists."""
    file = published.classes
    classes = read_lines(_find_list(name, file)) if file else imagenet_classes()
    file = published.correct
    correct = read_correct(_find_list(name, file)) if file else ()
    lists = " and ".join(f"timm's {file}" for file in published[1:] if file)
    source = f"{published.paper}; {lists or 'the labels of tensorflow_datasets'}"
    return LabelSet(name, source, stand_for_themselves(classes), correct)


def _find_list(name: str, file: str) -> epath.Path:
    """Return the path of a list of timm.

    Raises:
      InputMissingError: timm is not installed, or this version has no such list.
    """
    spec = importlib.util.find_spec("timm")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = epath.Path(pathlib.Path(folder) / "data" / "_info" / file)
        if path.exists():
            return path
    problem = f"{FLAG}: {name} needs {file} of the package timm"
    raise InputMissingError(f"{problem}; run pip install --no-deps timm, or pass such a file")
