"""Folder names that mean a split; `Training`, `train_set` and `images-train` mean `train`."""

import re

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}
# Words that may stand before or after them, with or without a separator.
_FILLERS = "set|sets|split|data|dataset|image|images|img|imgs|picture|pictures|photo|photos|folder"
_WHOLE = re.compile(rf"(?:{_FILLERS})?({'|'.join(_WORDS)})(?:{_FILLERS})*")
_SEPARATORS = r"[\W\d_]+"


def split_of(folder_name: str) -> str:
    """Return the split that a folder name means: `train`, `val`, `test`, or `""` for none."""
    match = _WHOLE.fullmatch(re.sub(_SEPARATORS, "", folder_name.casefold()))
    return _WORDS[match[1]] if match else ""


def mentions_split(folder_name: str) -> bool:
    """Return whether a folder name contains the name of a split, as in `seg_train`."""
    parts = re.split(_SEPARATORS, folder_name.casefold())
    return bool(split_of(folder_name)) or any(part in _WORDS for part in parts)
