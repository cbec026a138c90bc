"""Read label sets from files that the user gives."""

from collections.abc import Sequence
from typing import Any

from etils import epath

from vit_jax.console.documents import MAX_BYTES, is_regular, read_json
from vit_jax.errors import ConfigError
from vit_jax.evaluation.label_sets.label_set import FLAG, LabelSet

EXPECTED = (
    "expected a class of the model on each line, or JSON: {CLASS: model's class or list of them}, "
    "or a list of correct classes for each of ImageNet's validation images"
)


def read_label_set(path: epath.Path, imagenet: Sequence[str]) -> LabelSet:
    """Read a label set: a list of classes, a mapping of classes, or the classes of each image.

    Args:
      path: A text with a class of the model on each line; or JSON, either an object from each
        class of the data set to the model's class or list of classes, or a list with the indices
        of the correct classes of each image of ImageNet's validation set, such as `real.json`
        (Beyer et al. 2020). A class is a name, a WordNet id, or a number from 0.
      imagenet: WordNet ids of ImageNet's classes, in the order of labels.

    Raises:
      ConfigError: The file cannot be read, or has another format.
    """
    if path.suffix.lower() != ".json":
        return LabelSet(path.name, str(path), {name: (name,) for name in read_lines(path)})
    content = _read_json(path)
    if isinstance(content, list):
        classes = {name: (name,) for name in imagenet}
        return LabelSet(path.name, str(path), classes, _check_correct(path, content))
    if not isinstance(content, dict) or not content:
        raise ConfigError(FLAG, f"{path}: {EXPECTED}")
    mapping = {name: _members(path, name, given) for name, given in content.items()}
    return LabelSet(path.name, str(path), mapping)


def read_lines(path: epath.Path) -> tuple[str, ...]:
    """Read a list of different classes, one on each line; empty lines are ignored.

    Raises:
      ConfigError: The file cannot be read, is empty, or has a class twice.
    """
    try:
        if not is_regular(path) or path.stat().length > MAX_BYTES:
            raise ConfigError(FLAG, f"{path}: {EXPECTED}")
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(FLAG, f"{path}: cannot be read as text: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = next((name for i, name in enumerate(names) if name in names[:i]), "")
    if twice or not names:
        what = f"'{twice}' is there twice" if twice else "no class"
        raise ConfigError(FLAG, f"{path}: {what}; {EXPECTED}")
    return names


def read_correct(path: epath.Path) -> tuple[tuple[int, ...], ...]:
    """Read the indices of the correct classes of each image, a JSON list of lists.

    Raises:
      ConfigError: The file cannot be read, or has another format.
    """
    return _check_correct(path, _read_json(path))


def _read_json(path: epath.Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(FLAG, f"{path}: {error}") from error


def _check_correct(path: epath.Path, content: Any) -> tuple[tuple[int, ...], ...]:
    for number, row in enumerate(content if isinstance(content, list) else [None], 1):
        if not isinstance(row, list) or not all(type(k) is int and 0 <= k < 1000 for k in row):
            problem = f"entry {number} is no list of classes from 0 to 999"
            raise ConfigError(FLAG, f"{path}: {problem}; {EXPECTED}")
    return tuple(map(tuple, content))


def _members(path: epath.Path, name: str, given: Any) -> tuple[str, ...]:
    """Return the model's classes of a class of a mapping."""
    members = given if isinstance(given, list) else [given]
    if not all(type(member) in (str, int) for member in members):
        raise ConfigError(FLAG, f"{path}: '{name}' has no classes of the model; {EXPECTED}")
    return tuple(map(str, members))
