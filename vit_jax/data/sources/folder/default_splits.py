"""The splits that a run takes from a folder of images, where the user names none."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax import config as config_lib
from vit_jax.config.layers import DEFAULT, FLAG, was_set
from vit_jax.data.sources.folder.layout import Layout, find_layout, find_root
from vit_jax.data.sources.folder.source import names_of_splits
from vit_jax.errors import UserError

NONE = "none"  # how a split that a run does not have is shown


def choose_splits(resolved: config_lib.Resolved) -> config_lib.Resolved:
    """Return settings whose splits are those of the folder `data.root`.

    The folder's own splits are `train`, `val` and `test`. They replace defaults, and what a config
    file says about the splits of another data set. Where the folder has no `val`, a part of `train`
    takes its place. The splits of a run that is evaluated stay if the folder has them. Splits that
    are set by a flag, or by a config file for the folder itself, always stay.

    Returns:
      The same settings if `data.root` is empty or cannot be read; opening it raises the error.
    """
    data = resolved.config.data
    open_fields = [field for field in config_lib.SPLITS.values() if _is_open(field, resolved)]
    if not data.root or not open_fields:
        return resolved
    fixed = [getattr(data, f) for f in config_lib.SPLITS.values() if f not in open_fields]
    try:
        layout = find_layout(find_root(data.root), names_of_splits(fixed))
    except UserError:
        return resolved
    cuts = all(
        field in open_fields and not _is_of_run(field, resolved)
        for field in ("train_split", "val_split")
    )
    of_folder = _splits_of(layout, round(100 * data.val_share), cuts=cuts)
    chosen = {
        field: of_folder[field]
        for field in open_fields
        if of_folder[field] != getattr(data, field)
        and not (_is_of_run(field, resolved) and _has(layout, getattr(data, field)))
    }
    origin = f"data {data.root}"
    splits: dict[str, Any] = dict(chosen)
    return config_lib.Resolved(
        dataclasses.replace(resolved.config, data=dataclasses.replace(data, **splits)),
        {**resolved.origins, **{f"data.{field}": origin for field in chosen}},
        (*resolved.notes, *_describe(resolved, chosen), *_describe_unusable(layout, chosen)),
    )


def _is_open(field: str, resolved: config_lib.Resolved) -> bool:
    """Return whether a split may be replaced by the folder's."""
    origin = _origin(f"data.{field}", resolved)
    root_by_flag = _origin("data.root", resolved) == FLAG
    if origin == DEFAULT:
        return True
    if _is_of_run(field, resolved):
        return root_by_flag
    by_name = _origin("data.name", resolved)
    is_named = bool(resolved.config.data.name) and was_set(by_name) and by_name != FLAG
    return origin != FLAG and was_set(origin) and is_named and root_by_flag


def _is_of_run(field: str, resolved: config_lib.Resolved) -> bool:
    """Return whether a split is that of the `config.json` of a run that is evaluated."""
    return _origin(f"data.{field}", resolved).endswith("config.json")


def _origin(path: str, resolved: config_lib.Resolved) -> str:
    return resolved.origins.get(path, FLAG)


def _splits_of(layout: Layout, val_percent: int, *, cuts: bool) -> dict[str, str]:
    """Return the folder's own split for each field.

    Args:
      layout: The layout of the folder.
      val_percent: The share of the images in `val`, where the folder has none.
      cuts: Whether a part of `train` may become the validation split.
    """
    has = layout.splits or ("train", *(["val"] if val_percent else []))
    found = {"train_split": "train", "val_split": "", "test_split": ""}
    if "val" in has:
        found["val_split"] = "val"
    elif cuts and val_percent:
        found |= {
            "train_split": f"train[{val_percent}%:]",
            "val_split": f"train[:{val_percent}%]",
        }
    if "test" in has and "test" not in layout.unusable:
        found["test_split"] = "test"
    return found


def _has(layout: Layout, split: str) -> bool:
    """Return whether a folder has all splits of a specification."""
    names = names_of_splits([split])
    return bool(names) and names <= set(layout.splits or ("train", "val"))


def _describe_unusable(layout: Layout, chosen: Mapping[str, str]) -> list[str]:
    """Return a note on a folder `test` that cannot be evaluated, such as one without classes."""
    if "test" not in layout.unusable or "test_split" not in chosen:
        return []
    return [f"no split test: {layout.unusable['test']}"]


def _describe(resolved: config_lib.Resolved, chosen: Mapping[str, str]) -> list[str]:
    """Return notes on replaced settings, and on a validation split that is cut from `train`."""
    data = resolved.config.data
    notes = []
    replaced = {
        field: getattr(data, field)
        for field in chosen
        if _origin(f"data.{field}", resolved) != DEFAULT
    }
    if replaced:
        now = ", ".join(f"{field} {chosen[field] or NONE}" for field in replaced)
        before = ", ".join(split or NONE for split in replaced.values())
        notes.append(f"the splits are those of {data.root}: {now} (not {before})")
    if chosen.get("val_split", "").startswith("train["):
        problem = f"{data.root} has no folder val: config.data.val_split is {chosen['val_split']}"
        notes.append(f"{problem}, config.data.train_split is {chosen['train_split']}")
    return notes
