"""Match the classes of a label set with those of a data set and those of a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vit_jax.data.sources.class_names import form, listed
from vit_jax.errors import ConfigError, suggest
from vit_jax.evaluation.label_sets.label_set import FLAG, LabelSet
from vit_jax.evaluation.label_sets.published import imagenet_classes, stand_for_themselves


class Match(NamedTuple):
    """How to score the logits of a model on a data set by a label set.

    Attributes:
      name: Name of the label set.
      class_names: Names of its classes.
      columns: The model's classes of each class.
      labels: The class of each class of the data set, or -1 for one that is left out.
      correct: The correct classes of each image of ImageNet's validation set; empty: its label.
      notes: What was decided, one line each.
    """

    name: str
    class_names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    labels: Int[np.ndarray, " s"]
    correct: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


class _Model:
    """The classes of a model, by name, by WordNet id or by number."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._indices = {form(name): index for index, name in enumerate(names)}
        self._ids: Mapping[str, int] = {}
        if len(names) == len(imagenet_classes()):
            self._ids = {name: index for index, name in enumerate(imagenet_classes())}
        self.by_position = False  # whether a WordNet id was found by its place among ImageNet's

    def find(self, name: str) -> int | None:
        """Return the index of a class, or None."""
        if form(name) in self._indices:
            return self._indices[form(name)]
        if name in self._ids:
            self.by_position = True
            return self._ids[name]
        is_index = name.isdecimal() and int(name) < len(self.names)
        return int(name) if is_index else None

    def find_all(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the indices of classes.

        Raises:
          ConfigError: The model has no such class.
        """
        found = {name: self.find(name) for name in names}
        for name, index in found.items():
            if index is None:
                problem = f"the model has no class '{name}'; {_suggest(name, self.names)}"
                raise ConfigError(FLAG, problem)
        return tuple(index for index in found.values() if index is not None)


def match(label_set: LabelSet, of_data: Sequence[str], of_model: Sequence[str]) -> Match:
    """Match a label set with a data set and a model.

    A class of the data set is the class of the label set with this name, or else the one that
    stands for the model's class with this name. Images of other classes of the model are left out.

    Args:
      label_set: The label set.
      of_data: Class names of the data set, in the order of labels.
      of_model: Class names of the model, in the order of logits.

    Raises:
      ConfigError: The model has no such class, two classes stand for the same class of the model,
        or a class of the data set is unknown.
    """
    model = _Model(of_model)
    given = label_set.classes or stand_for_themselves(of_data)
    classes = {name: model.find_all(members) for name, members in given.items() if members}
    owner = _owners(classes)
    places = {form(name): -1 for name in given}
    places |= {form(name): place for place, name in enumerate(classes)}
    labels = []
    for name in of_data:
        index = None if form(name) in places else model.find(name)
        if index is None and form(name) not in places:
            problem = f"'{name}' of the data set is no class of {label_set.name} or of the model"
            raise ConfigError(FLAG, f"{problem}; {_suggest(name, [*classes, *of_model])}")
        labels.append(places[form(name)] if index is None else owner.get(index, -1))
    if max(labels, default=-1) < 0:
        raise ConfigError(FLAG, f"{label_set.name} has no class of the data set, {listed(of_data)}")
    names = [
        of_model[found[0]] if given[name] == (name,) else name for name, found in classes.items()
    ]
    absent = [name for name, label in zip(of_data, labels, strict=True) if label < 0]
    notes = _notes(label_set, len(names), len(of_model), absent, model.by_position)
    columns = tuple(classes.values())
    correct = tuple(tuple(owner[i] for i in row) for row in _correct(label_set, model))
    return Match(label_set.name, tuple(names), columns, np.array(labels), correct, notes)


def _suggest(name: str, choices: Sequence[str]) -> str:
    """Return a hint for an unknown class: the most similar one, or else the first ones."""
    near = suggest(name, choices)
    return near if near.endswith("?") else f"there are {listed(choices)}"


def _owners(classes: Mapping[str, tuple[int, ...]]) -> dict[int, int]:
    """Return the place of the class that stands for each class of the model.

    Raises:
      ConfigError: Two classes stand for the same class of the model.
    """
    owner: dict[int, int] = {}
    names = list(classes)
    for place, (name, found) in enumerate(classes.items()):
        for index in found:
            if owner.setdefault(index, place) != place:
                other = names[owner[index]]
                problem = f"'{other}' and '{name}' stand for the same class of the model ({index})"
                raise ConfigError(FLAG, problem)
    return owner


def _correct(label_set: LabelSet, model: _Model) -> Iterable[tuple[int, ...]]:
    """Return the model's correct classes of each validation image of ImageNet."""
    if not label_set.correct:
        return ()
    indices = model.find_all(imagenet_classes())
    return (tuple(indices[i] for i in row) for row in label_set.correct)


def _notes(
    label_set: LabelSet, count: int, of_model: int, absent: Sequence[str], by_position: bool
) -> tuple[str, ...]:
    of = f"{count:,} classes, from the {of_model:,} of the model"
    notes = [f"labels {label_set.name}: {of} ({label_set.source})"]
    if by_position:
        notes.append("the outputs of the model are taken in the order of ImageNet's WordNet ids")
    if absent:
        classes = f"{len(absent):,} classes of the data set: {listed(absent)}"
        notes.append(f"images are left out if they are of {classes}")
    return tuple(notes)
