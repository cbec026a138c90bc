"""The JSON files of a prepared TFDS data set, checked before TFDS opens them.

TFDS imports the module of every class that `features.json` or `dataset_info.json` names. Only the
names of classes that are already loaded are accepted: those of TFDS, and those of `--import`.
"""

import json
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vit_jax.console.documents import MAX_BYTES, is_regular, parse_json, read_json
from vit_jax.console.workdir import is_local
from vit_jax.errors import DataError

INFO = "dataset_info.json"
FEATURES = "features.json"
# Keys for the class name of a feature: in JSON, by protobuf, and in older versions.
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


def check_documents(folder: epath.Path) -> None:
    """Check that TFDS can open a prepared data set without importing a module.

    Raises:
      DataError: A document is corrupt, not a regular file or too large, or names a class that is
        not loaded.
    """
    if is_local(folder):
        for path in sorted(folder.iterdir()):
            if path.is_dir() or path.suffix not in (".json", ".txt", ".subwords", ""):
                continue
            if not is_regular(path) or path.stat().length > MAX_BYTES:
                limit = f"a regular file of at most {MAX_BYTES:,} bytes"
                raise DataError(f"{path}: expected {limit}")
    for name in (FEATURES, INFO):
        path = folder / name
        try:
            named = sorted(set(_named_classes(read_json(path)))) if path.exists() else []
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error
        for class_name in named:
            if class_name not in tfds.features.FeatureConnector._registered_features:
                problem = f"expected classes of TFDS, got {class_name!r:.100}"
                hint = "a file imports no module; import one of your own with --import=MODULE"
                raise DataError(f"{path}: {problem}; {hint}")


def default_config(folder: epath.Path) -> str:
    """Return the default config of a data set as TFDS recorded it, or an empty string.

    Raises:
      DataError: The record is corrupt, or is a path out of the folder.
    """
    path = folder / ".config" / "metadata.json"
    if not path.exists():
        return ""
    try:
        name = read_json(path).get("default_config_name")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: {error}") from error
    if name is not None and (not isinstance(name, str) or epath.Path(name).name != name):
        raise DataError(f"{path}: default_config_name: expected a name, got {name!r:.60}")
    return name or ""


def _named_classes(document: Any) -> Iterator[str]:
    """Yield the class names at any depth, also from strings that contain JSON.

    Raises:
      ValueError: A string contains ambiguous JSON, such as repeated keys.
    """
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            named = CLASS_KEYS if "content" in value else CLASS_KEYS[:2]
            yield from (value[key] for key in named if isinstance(value.get(key), str))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, str) and _is_json(value):
            waiting.append(parse_json(value))


def _is_json(text: str) -> bool:
    """Return whether a string contains a JSON object or list."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
