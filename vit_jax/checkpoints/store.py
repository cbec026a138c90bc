"""Read, check and write the items of one checkpoint.

STEP/params, STEP/ema               arrays: the parameters, and their EMA if the run has one
STEP/collections                    arrays: the other collections of the model, if it has any
STEP/ema_collections                arrays: the collections that belong to the EMA
STEP/rest                           arrays: the rest of the training state
STEP/meta                           JSON: the config of the run and a fingerprint of its data
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vit_jax.checkpoints import seals
from vit_jax.console.documents import read_json
from vit_jax.errors import CheckpointError, UserError

PARAMS = "params"
EMA = "ema"
COLLECTIONS = "collections"
EMA_COLLECTIONS = "ema_collections"
REST = "rest"


META = "meta"
ORBAX_FILES = ("_CHECKPOINT_METADATA", "commit_success.txt")  # written beside the items


def is_incomplete_save(path: epath.Path) -> bool:
    """Return whether a step without a seal is an interrupted save of this program."""
    if not path.is_dir():
        return False
    names = {child.name for child in path.iterdir() if not child.name.startswith(".")}
    items = {PARAMS, EMA, COLLECTIONS, EMA_COLLECTIONS, REST, META}
    return names >= {PARAMS, META} or names <= items | set(ORBAX_FILES)


def split_variables(variables: Mapping[str, Any], *, ema: bool = False) -> dict[str, Any]:
    """Return the items that store variables: the parameters and, if any, the other collections.

    Args:
      variables: Trees by collection. One collection is `params`.
      ema: Whether the variables are the EMA.
    """
    others = {name: tree for name, tree in variables.items() if name != "params"}
    items = {EMA if ema else PARAMS: variables["params"]}
    return items | ({EMA_COLLECTIONS if ema else COLLECTIONS: others} if others else {})


def join_variables(items: Mapping[str, Any], *, ema: bool = False) -> dict[str, Any]:
    """Return the variables, by collection, from their items; the inverse of `split_variables`."""
    others = items.get(EMA_COLLECTIONS if ema else COLLECTIONS, {})
    return {"params": items[EMA if ema else PARAMS], **others}


def read_item(path: epath.Path, shapes: Any) -> Any:
    """Return one item of a checkpoint.

    Args:
      path: The directory of the item.
      shapes: Tree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      A tree of `jax.Array`.

    Raises:
      CheckpointError: The item cannot be read, or has variables of another model.
    """
    with reporting_errors("restore", path), ocp.StandardCheckpointer() as checkpointer:
        if path.name != REST:
            check_shapes(path, shapes)
        return checkpointer.restore(path.absolute(), shapes)


def read_variables(path: epath.Path, shapes: Mapping[str, Any], *, ema: bool) -> dict[str, Any]:
    """Return the variables in a checkpoint, by collection; see `read_item`.

    Args:
      path: The directory of a step.
      shapes: Trees of `jax.ShapeDtypeStruct` with shardings, by collection.
      ema: Whether to read the EMA.

    Raises:
      CheckpointError: The variables cannot be read, or belong to another model.
    """
    wanted = _items_of(path, shapes, ema=ema)
    items = {name: read_item(path / name, tree) for name, tree in wanted.items()}
    return join_variables(items, ema=ema)


def read_numpy_variables(
    path: epath.Path, shapes: Mapping[str, Any], *, ema: bool
) -> dict[str, Any]:
    """Return the variables in a checkpoint as NumPy arrays; see `read_variables`."""
    wanted = _items_of(path, shapes, ema=ema)
    items = {name: _read_numpy(path / name, tree) for name, tree in wanted.items()}
    return join_variables(items, ema=ema)


def check_collections(path: epath.Path, wanted: Mapping[str, Any]) -> None:
    """Check that a checkpoint has no collections that the model lacks.

    Args:
      path: The directory of a step.
      wanted: The items to read, by name.

    Raises:
      CheckpointError: The checkpoint has such collections.
    """
    for name, variables in ((COLLECTIONS, PARAMS), (EMA_COLLECTIONS, EMA)):
        if variables in wanted and name not in wanted and (path / name).exists():
            problem = f"it has {name} (such as batch statistics), which the model does not have"
            raise CheckpointError(f"{path}: the checkpoint is of another model: {problem}")


def _items_of(path: epath.Path, shapes: Mapping[str, Any], *, ema: bool) -> dict[str, Any]:
    """Return the shapes by item, after a check that the checkpoint has every item."""
    wanted = split_variables(shapes, ema=ema)
    check_collections(path, wanted)
    for name, tree in wanted.items():
        if name in (COLLECTIONS, EMA_COLLECTIONS) and not (path / name).exists():
            problem = f"has no {', '.join(sorted(tree))} ({name}), which the model needs"
            raise CheckpointError(f"{path}: the checkpoint {problem}")
    return wanted


def _read_numpy(path: epath.Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    with reporting_errors("restore", path), ocp.PyTreeCheckpointer() as checkpointer:
        check_shapes(path, shapes)
        for key, part in shapes.items():  # one by one, as all at once take twice the memory
            types = jax.tree.map(_as_numpy, {key: part})
            args = ocp.args.PyTreeRestore({key: part}, restore_args=types, partial_restore=True)
            arrays |= checkpointer.restore(path.absolute(), args=args)
    return arrays


def _as_numpy(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)


def read_meta(path: epath.Path) -> dict[str, Any]:
    """Return the `config` and `data` of the run that wrote a checkpoint.

    Args:
      path: The directory of a step.

    Raises:
      CheckpointError: The file cannot be read, or does not have both.
    """
    file = path / META / "metadata"
    try:
        meta = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not isinstance(meta, dict) or not all(
        isinstance(meta.get(key), dict) for key in ("config", "data")
    ):
        raise CheckpointError(f"{file}: expected an object with `config` and `data`")
    return meta


def write_variables(
    workdir: epath.Path,
    variables: Mapping[str, Any],
    data: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Write imported variables as the sealed checkpoint of step 0.

    Args:
      workdir: The run folder.
      variables: Trees of NumPy arrays, by collection.
      data: The fingerprint of the data, as a trained run has it. The class names suffice.
      config: The resolved config.

    Raises:
      CheckpointError: The checkpoint cannot be written.
    """
    path = workdir / "checkpoints" / "0"
    # By default Orbax copies all arrays and collects all that it writes, which doubles the memory.
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy))
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with reporting_errors("save", path):
        with ocp.Checkpointer(arrays) as checkpointer:
            for name, tree in split_variables(variables).items():
                checkpointer.save((path / name).absolute(), tree)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            checkpointer.save((path / "meta").absolute(), {"config": config, "data": data})
        seals.seal(path, None)


def check_shapes(path: epath.Path, shapes: Any) -> None:
    """Check the names and shapes of the variables in a checkpoint against those of the model.

    Args:
      path: The directory of an item.
      shapes: Tree of `jax.ShapeDtypeStruct`.

    Raises:
      CheckpointError: A name or shape differs. The message has the first one.
    """
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path.absolute()).tree
    stored, expected = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape) for p, leaf in tree}
        for tree in map(jax.tree_util.tree_leaves_with_path, (saved, shapes))
    )
    _check_chunks(path, saved)
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            raise CheckpointError(
                f"{path}: the checkpoint is of another model: {name} is "
                f"{stored.get(name, 'missing')}, expected {expected.get(name, 'none')}"
            )


def _check_chunks(path: epath.Path, saved: Any) -> None:
    """Check that no chunk is larger than its array. Such a chunk could fill the memory."""
    for key, leaf in jax.tree_util.tree_leaves_with_path(saved):
        chunk = leaf.storage.chunk_shape if getattr(leaf, "storage", None) else None
        if any(part > max(side, 1) for part, side in zip(chunk or (), leaf.shape, strict=False)):
            name = jax.tree_util.keystr(key, simple=True, separator="/")
            raise CheckpointError(f"{path}: {name} is {leaf.shape}, stored in chunks of {chunk}")


@contextlib.contextmanager
def reporting_errors(verb: str, path: epath.Path) -> Iterator[None]:
    """Turn exceptions of Orbax and of the file system into a one-line `CheckpointError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise anything on a corrupt file
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot {verb} the checkpoint: {first[:300]}") from error
