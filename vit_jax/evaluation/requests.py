"""What to evaluate: the settings and the images of each set that the flags of a command name."""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from etils import epath

from vit_jax import config as config_lib
from vit_jax.config import SPLITS, stored
from vit_jax.config.identity import SETS
from vit_jax.config.layers import Layer
from vit_jax.console.workdir import open_path
from vit_jax.data import transforms
from vit_jax.data.sources import Source
from vit_jax.data.sources.folder import choose_splits
from vit_jax.data.sources.registry import locate, open_location, open_set, open_split
from vit_jax.errors import ConfigError


class Request(NamedTuple):
    """A set of images and the run to apply to them."""

    workdir: epath.Path
    resolved: config_lib.Resolved
    split: str  # the label of the results: train, val, test, the name of a set, or a TFDS split
    field: str  # the field of the data section that names the split, or `SETS`
    known: tuple[str, ...]  # the splits and sets of the run, for messages


def resolve(workdir: str, split: str, overrides: Mapping[str, str]) -> Request:
    """Return the request for one set of a run.

    Args:
      workdir: The run folder, from the flag `--workdir`.
      split: The name of a split or of a set of the run, any split of its data set, DATASET:SPLIT or
        FOLDER:SPLIT; by default `test`, or `val` for a run without a test split.
      overrides: The settings that the flags set, by path.

    Raises:
      ConfigError: A setting is wrong, or the run has no default split.
      InputMissingError: There is no such run.
    """
    directory, run = _read_run(workdir)
    merged = config_lib.merge(None, dict(overrides), run=run)
    chosen = choose_splits(merged)
    data, sets = chosen.config.data, dict(chosen.config.eval.sets)
    known = (*(name for name, field in SPLITS.items() if getattr(data, field)), *sets)
    name = split or _default_split(known)
    field = SETS if name in sets else SPLITS.get(name, "test_split")
    if field != SETS:
        text = getattr(data, field) if name in known else name
        if text != getattr(merged.config.data, field):
            overrides = {**overrides, f"data.{field}": text}
    resolved = _fit_to_run(directory, run, overrides)
    notes = [*resolved.notes, *chosen.notes[len(merged.notes) :]]
    if name != (split or "test"):
        notes.append(f"--split={name}, as the run has no test split")
    resolved = dataclasses.replace(resolved, notes=tuple(notes))
    return Request(directory, resolved, name, field, known)


def resolve_run(workdir: str, overrides: Mapping[str, str]) -> Request:
    """Return a request for images that are not of the data set of a run; it names no set.

    Args:
      workdir: The run folder, from the flag `--workdir`.
      overrides: The settings that the flags set, by path.

    Raises:
      ConfigError: A setting is wrong.
      InputMissingError: There is no such run.
    """
    directory, run = _read_run(workdir)
    return Request(directory, _fit_to_run(directory, run, overrides), "", "", ())


def _read_run(workdir: str) -> tuple[epath.Path, Layer]:
    """Return the path of a run folder, and its settings without the mesh."""
    if not workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    directory = open_path(workdir, "--workdir")
    return directory, stored.without_mesh(stored.read_layer(directory))


def _fit_to_run(
    directory: epath.Path, run: Layer, overrides: Mapping[str, str]
) -> config_lib.Resolved:
    """Return the settings of a run with overrides, checked against its weights."""
    trained = config_lib.merge(run=run).config
    resolved = config_lib.resolve(None, dict(overrides), run=run)
    resolved = config_lib.fit_to_weights(resolved, str(directory), trained)
    stored.check_places(resolved.config, run, overrides)
    transforms.check(resolved.config.data)
    return resolved


def resolve_all(workdir: str, splits: str, overrides: Mapping[str, str]) -> tuple[Request, ...]:
    """Return a request for each name of a list such as `val,test`; see `resolve`.

    Raises:
      ConfigError: A name is empty, or there twice.
    """
    names = splits.split(",")
    if len(names) > 1 and (not all(names) or len(set(names)) < len(names)):
        raise ConfigError("--split", f"expected different names with commas, got '{splits}'")
    return tuple(resolve(workdir, name, overrides) for name in names)


def open_images(
    request: Request, class_names: tuple[str, ...] = (), num_classes: int | None = None
) -> Source:
    """Open the images of a request, and check that they have the classes of the model.

    Args:
      request: The request.
      class_names: The class names of the model, in order; empty: any.
      num_classes: The number of classes of the model; None: any.

    Raises:
      ConfigError: There is no such split, or it has other classes.
      DataError: The split is empty.
      InputMissingError: The data set is not prepared.
    """
    config, field = request.resolved.config, request.field
    path = "config.eval.sets" if field == SETS else f"config.data.{field}"
    if field == SETS:
        source = open_set(config, request.split, class_names)
    elif request.split in request.known:
        source = open_split(config.data, field, class_names)
    else:
        path = "--split"
        source = _open_other(request, class_names)
    count = len(source.class_names)
    if num_classes is not None and count != num_classes:
        raise ConfigError(path, f"{source.title} has {count} classes, the model {num_classes}")
    return source


def splits_read(config: config_lib.Config, name: str) -> frozenset[tuple[str, str, str]]:
    """Return data set, folder and name of each split that a set reads, whole or in part.

    Args:
      config: The config.
      name: The name of a split or of a set, or a text such as `train[:90%]`.
    """
    field = SPLITS.get(name, "")
    where = dict(config.eval.sets).get(name) or (field and getattr(config.data, field)) or name
    data, split = locate(config.data, where, "--split")
    parts = set(re.split(r"\[[^]]*\]|\+", split)) - {""}
    return frozenset((data.name, data.root, part) for part in parts)


def _open_other(request: Request, class_names: tuple[str, ...]) -> Source:
    """Open images that the run does not name: SPLIT, DATASET:SPLIT or FOLDER:SPLIT."""
    config, split = request.resolved.config, request.split
    try:
        return open_location(config.data, split, "--split", class_names)
    except ConfigError as error:
        if ":" in split:
            raise
        names = ", ".join(request.known) or "no split of its own"
        problem = f"{error.problem.rstrip('.')}; the run has {names}"
        raise ConfigError("--split", problem) from error


def _default_split(known: tuple[str, ...]) -> str:
    """Return `test`, or `val` if the run has no test split.

    Args:
      known: The splits and sets of the run.

    Raises:
      ConfigError: It has neither.
    """
    for split in ("test", "val"):
        if split in known:
            return split
    others = f"the run has {', '.join(known)}" if known else "the run has no splits"
    raise ConfigError("--split", f"there is no test or val split ({others}); pass --split=NAME")
