"""Preparation of a data set as array_record, unless it is prepared already."""

import tensorflow_datasets as tfds
from etils import epath

from vit_jax.data.building.array_records import add_array_records
from vit_jax.data.building.builders import build
from vit_jax.data.building.failures import FLAG, explain
from vit_jax.data.building.progress import show_progress
from vit_jax.data.sources import tfds as tfds_source
from vit_jax.errors import UserError, WorkdirError


def prepare_dataset(
    name: str, root: epath.Path, files: str, accept_checksums: bool
) -> tuple[tfds.core.DatasetBuilder, bool]:
    """Prepare a data set as array_record, unless it is prepared already.

    Args:
      name: NAME[/CONFIG][:VERSION].
      root: The directory of data sets.
      files: A folder with files to use instead of downloads; empty for none.
      accept_checksums: Whether to accept files whose checksums differ from TFDS's records.

    Returns:
      The builder of the data set, and whether it was prepared just now.

    Raises:
      UserError: It cannot be prepared. No partly prepared data set is left.
    """
    folder = tfds_source.find(name, root, FLAG)
    if folder is not None:
        builder = tfds_source.read(folder)
        try:
            if tfds_source.ARRAY_RECORD in builder.info.available_file_formats():
                return _open_checked(folder), False
        except UserError:
            if builder.info.file_format == tfds_source.ARRAY_RECORD:
                raise  # otherwise these files are written again
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--data_dir: cannot write {root}: {error}") from error
    try:
        with show_progress():
            if folder is None:
                folder = build(name, root, files, accept_checksums)
            else:
                add_array_records(folder, builder)
        return _open_checked(folder), True
    except Exception as error:  # the code of a data set may raise any exception
        raise explain(name, root, error) from error


def _open_checked(folder: epath.Path) -> tfds.core.DatasetBuilder:
    builder = tfds_source.open_folder(folder)
    for split in builder.info.splits.values():
        if split.num_examples:
            tfds_source.check_shards(builder, split.name)
    return builder
