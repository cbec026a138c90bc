"""Folder names that mean a split: `Training`, `train_set` and `images-train` all mean `train`."""

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
# What people write beside them, with or without something in between.
_FILLERS = "set|sets|split|data|dataset|image|images|img|imgs|picture|pictures|photo|photos|folder"
_WHOLE = re.compile(rf"(?:{_FILLERS})?({'|'.join(_WORDS)})(?:{_FILLERS})*")
_SEPARATORS = r"[\W\d_]+"


def split_of(folder_name: str) -> str:
    """Return `train`, `val` or `test`, whichever a folder's name means, or nothing."""
    match = _WHOLE.fullmatch(re.sub(_SEPARATORS, "", folder_name.casefold()))
    return _WORDS[match[1]] if match else ""


def mentions_split(folder_name: str) -> bool:
    """Return whether a split is a part of a folder's name, as in `seg_train`."""
    parts = re.split(_SEPARATORS, folder_name.casefold())
    return bool(split_of(folder_name)) or any(part in _WORDS for part in parts)
