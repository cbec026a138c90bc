"""The record of a label set, and the flag that names one."""

from collections.abc import Mapping
from typing import NamedTuple

FLAG = "--label_set"


class LabelSet(NamedTuple):
    """Classes to score a model by, each of which stands for one or more classes of the model.

    Attributes:
      name: Name of the label set, or of its file.
      source: The paper, and where the lists are from.
      classes: The model's classes of each class: names, WordNet ids, or numbers from 0. A class
        without any is left out. Empty: the classes of the data set, by their names.
      correct: The correct classes of each image of ImageNet's validation set, as indices of
        ImageNet's classes, in the order of the image numbers. Empty: the data set has the labels.
    """

    name: str
    source: str
    classes: Mapping[str, tuple[str, ...]]
    correct: tuple[tuple[int, ...], ...] = ()
