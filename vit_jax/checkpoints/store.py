"""The items of one checkpoint on disk: how they are read, checked and written.

STEP/params, STEP/ema, STEP/rest    arrays: parameters, their average, all else that training needs
STEP/meta                           JSON: the run's config and a fingerprint of its data
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vit_jax.checkpoints import seals
from vit_jax.errors import CheckpointError

PARAMS = "params"
EMA = "ema"
REST = "rest"


def read_item(path: epath.Path, shapes: Any) -> Any:
    """Return one item of a checkpoint.

    Args:
      path: Its directory.
      shapes: Tree of `jax.ShapeDtypeStruct` with shardings.

    Raises:
      CheckpointError: It cannot be read, or holds parameters of another model.
    """
    with failing("restore", path), ocp.StandardCheckpointer() as checkpointer:
        if path.name != REST:
            check_shapes(path, shapes)
        return checkpointer.restore(path.absolute(), shapes)


def read_numpy_params(path: epath.Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of parameters as NumPy arrays; see `read_item`."""
    params: dict[str, Any] = {}
    with failing("restore", path), ocp.PyTreeCheckpointer() as checkpointer:
        check_shapes(path, shapes)
        for key, part in shapes.items():  # one by one: all at once take twice the memory
            types = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), {key: part})
            args = ocp.args.PyTreeRestore({key: part}, restore_args=types, partial_restore=True)
            params |= checkpointer.restore(path.absolute(), args=args)
    return params


def read_meta(path: epath.Path) -> dict[str, Any]:
    """Return the `config` and the `data` of the run that wrote a checkpoint."""
    return json.loads((path / "meta" / "metadata").read_text())


def write_params(
    workdir: epath.Path, params: Any, data: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write parameters that were not trained here as the sealed checkpoint of step 0.

    Args:
      workdir: The run folder.
      params: Tree of NumPy arrays.
      data: What a trained run says about its data; the classes at least.
      config: The resolved config.

    Raises:
      CheckpointError: It cannot be written.
    """
    path = workdir / "checkpoints" / "0"
    # By default Orbax copies all arrays first, and collects all that it writes: twice the memory.
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy))
    arrays = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    with failing("save", path):
        with ocp.Checkpointer(arrays) as checkpointer:
            checkpointer.save((path / PARAMS).absolute(), params)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            checkpointer.save((path / "meta").absolute(), {"config": config, "data": data})
        seals.seal(path, None)


def check_shapes(path: epath.Path, shapes: Any) -> None:
    """Check the names and shapes of the parameters in a checkpoint against those of the model.

    Raises:
      CheckpointError: They differ; the first name that does.
    """
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path.absolute()).tree
    stored, expected = (
        {jax.tree_util.keystr(p, simple=True, separator="/"): tuple(leaf.shape) for p, leaf in tree}
        for tree in map(jax.tree_util.tree_leaves_with_path, (saved, shapes))
    )
    for name in sorted(stored.keys() | expected.keys()):
        if stored.get(name) != expected.get(name):
            raise CheckpointError(
                f"{path}: the checkpoint is of another model: {name} is "
                f"{stored.get(name, 'not there')}, expected {expected.get(name, 'none')}"
            )


@contextlib.contextmanager
def failing(verb: str, path: epath.Path) -> Iterator[None]:
    """Turn what Orbax and the file system raise into one `CheckpointError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: cannot {verb} the checkpoint: {first[:300]}") from error
