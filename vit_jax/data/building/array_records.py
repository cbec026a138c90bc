"""array_record files for a data set that is already prepared in another format."""

import tempfile
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vit_jax.console.progress import say
from vit_jax.data.building.progress import Bar
from vit_jax.data.sources.tfds import ARRAY_RECORD, INFO
from vit_jax.errors import DataError, InputMissingError

_ADAPTERS = tfds.core.file_adapters.ADAPTER_FOR_FORMAT


def add_array_records(folder: epath.Path, builder: tfds.core.DatasetBuilder) -> None:
    """Write array_record files into the folder of a data set; its other files do not change.

    `dataset_info.json` is written last: readers use the new files once it names them.

    Args:
      folder: The folder of the prepared data set.
      builder: The builder that opened it.

    Raises:
      InputMissingError: A file is missing.
      DataError: A file is corrupt, or does not have the expected number of records.
      ImportError: TensorFlow, which reads the other format, is not installed.
    """
    say(f"prepare   array_record files in {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incomplete.") as scratch:
        for split in builder.info.splits.values():
            _write_split(split, builder.info.file_format, scratch)
        shards = list(epath.Path(scratch).iterdir())
        info = tfds.core.dataset_info.read_proto_from_builder_dir(folder)
        if ARRAY_RECORD.value not in info.alternative_file_formats:
            info.alternative_file_formats.append(ARRAY_RECORD.value)
        tfds.core.dataset_info.write_dataset_info_proto(info, dataset_info_dir=scratch)
        for path in [*shards, epath.Path(scratch) / INFO]:
            path.replace(folder / path.name)


def _write_split(split: Any, file_format: Any, scratch: str) -> None:
    """Write the shards of a split as array_record into a folder."""
    template = split.filename_template.replace(
        data_dir=scratch, filetype_suffix=_ADAPTERS[ARRAY_RECORD].FILE_SUFFIX
    )
    num_shards = len(split.shard_lengths)
    for shard, length in enumerate(split.shard_lengths):
        path = split.filepaths[shard]
        if not path.exists():
            raise InputMissingError(f"{path}: no such file")
        out = template.sharded_filepath(shard_index=shard, num_shards=num_shards)
        _write_shard(path, file_format, length, out)


def _write_shard(path: epath.Path, file_format: Any, length: int, out: epath.Path) -> None:
    reader = _ADAPTERS[file_format]
    writer = _ADAPTERS[ARRAY_RECORD]
    records = Bar(reader.make_tf_data(path), "Shuffling", length, "examples")
    try:
        writer.write_examples(out, ((i, record.numpy()) for i, record in enumerate(records)))
    except (ImportError, OSError):
        raise
    except Exception as error:  # TensorFlow's own exceptions
        raise DataError(f"{path}: {error!s:.200}") from error
    if (count := writer.num_examples(out)) != length:
        raise DataError(f"{path}: {count:,} records, expected {length:,}")
