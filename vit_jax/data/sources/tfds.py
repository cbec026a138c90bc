"""Data sets of TensorFlow Datasets, prepared as array_record; read without TensorFlow.

A prepared data set is opened from its files alone. No data set code is imported and no server is
contacted, so every data set can be read, also one with code that needs TensorFlow. The JSON files
of a data set cannot import modules either; see `tfds_documents`.
"""

import concurrent.futures
import difflib
import os
import shlex
from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vit_jax import config as config_lib
from vit_jax.console.documents import is_regular
from vit_jax.console.workdir import open_path
from vit_jax.data.sources.base import Record, Source
from vit_jax.data.sources.tfds_documents import INFO, check_documents, default_config
from vit_jax.errors import ConfigError, DataError, InputMissingError, suggest

ARRAY_RECORD = tfds.core.FileFormat.ARRAY_RECORD
PIXELS = (np.uint8, np.uint16)


class Tfds(Source):
    """A split of a prepared data set; only image and label are read, and images stay encoded."""

    def __init__(self, folder: epath.Path, data: config_lib.Data, split: str) -> None:
        builder = open_folder(folder)
        self._image = data.image_key
        self._label = data.label_key
        self._features = _features(builder.info.features, data)
        text = dict(builder.info.features.items()).get("file_name")
        has_name = isinstance(text, tfds.features.Text)
        self._file_name = tfds.features.FeaturesDict({"file_name": text}) if has_name else None
        encoded = isinstance(self._features[self._image], tfds.features.Image)
        self._decoders = {self._image: tfds.decode.SkipDecoding()} if encoded else None
        class_names = tuple(self._features[self._label].names)
        super().__init__(f"{builder.info.full_name}:{split}", class_names)
        self._records: Any = []
        if builder.info.splits[split].num_examples:  # TFDS cannot open an empty split
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=raw)
            check_shards(builder, split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        return {"image": example[self._image], "label": int(example[self._label])}

    def file_name(self, index: int) -> str:
        """Return the feature `file_name` of an image, which data sets of image files have."""
        if self._file_name is None:
            return self.describe(index)
        example = self._file_name.deserialize_example_np(self._records[index])
        return os.fsdecode(example["file_name"])


def open_dataset(data: config_lib.Data, split: str, others: Collection[str]) -> Source:
    """Open a split of the TFDS data set that `data.name` names: NAME[/CONFIG][:VERSION].

    Args:
      data: Data section of the config.
      split: Specification in TFDS's split arithmetic.
      others: Names of data sets outside TFDS, for suggestions.

    Raises:
      ConfigError: The data set is unknown, or has no such image or label feature.
      DataError: It is prepared in another format, or corrupt.
      InputMissingError: It is not prepared, or not in this version.
    """
    field = "config.data.name"
    root = data_root(data.data_dir, "config.data.data_dir")
    folder = find(data.name, root, field)
    if folder is not None:
        return Tfds(folder, data, split)
    name, _, _ = parse_name(data.name, field)
    variants = list_variants(root / name)
    if not variants and name not in known_names():
        raise unknown(name, root, others, field)
    available = f"; there are {', '.join(variants)}" if variants else ""
    problem = f"'{data.name}' is not prepared in {root}{available}"
    raise InputMissingError(f"{problem}; run {command(data.name, root)}", path=field)


def data_root(data_dir: str, flag: str) -> epath.Path:
    """Return the directory of prepared data sets; `""` stands for TFDS's default.

    Args:
      data_dir: Value of the flag or field.
      flag: Name of the flag or field, for errors.

    Raises:
      ConfigError: The extra for this object store is not installed.
    """
    return open_path(data_dir or str(tfds.core.constants.DATA_DIR), flag)


def parse_name(text: str, field: str) -> tuple[str, str, str]:
    """Return name, config and version of NAME[/CONFIG][:VERSION]; an absent part is empty.

    Raises:
      ConfigError: The text has another format; the error names `field`.
    """
    try:
        name, arguments = tfds.core.naming.parse_builder_name_kwargs(text)
    except ValueError:
        name, arguments = None, {}
    if name is None or name.namespace or arguments.keys() - {"config", "version"}:
        raise ConfigError(field, f"expected NAME, NAME/CONFIG or NAME:VERSION, got '{text}'")
    return name.name, arguments.get("config", ""), arguments.get("version", "")


def find(text: str, root: epath.Path, field: str) -> epath.Path | None:
    """Return the folder of the highest matching version of a prepared data set, or None.

    Without a config in the text, the default config that TFDS recorded is used.

    Raises:
      ConfigError: The text is not NAME[/CONFIG][:VERSION]; the error names `field`.
    """
    name, config, version = parse_name(text, field)
    folder = root / name
    if not config and not _versions(folder):
        config = default_config(folder)
    matching = [
        path
        for path in _versions(folder / config)
        if not version or tfds.core.Version(path.name).match(version)
    ]
    return matching[-1] if matching else None


def list_variants(folder: epath.Path) -> list[str]:
    """Return the prepared configs and versions of a data set, as NAME/CONFIG:VERSION."""
    if not folder.is_dir():
        return []
    configs = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    return [f"{folder.name}:{path.name}" for path in _versions(folder)] + [
        f"{folder.name}/{config.name}:{path.name}"
        for config in configs
        for path in _versions(config)
    ]


def _versions(folder: epath.Path) -> list[epath.Path]:
    """Return the folders of all prepared versions in a folder, the highest version last."""
    paths = folder.iterdir() if folder.is_dir() else ()
    versions = [path for path in paths if tfds.core.Version.is_valid(path.name)]
    return sorted(
        (path for path in versions if (path / INFO).exists()),
        key=lambda path: tfds.core.Version(path.name).tuple,
    )


def known_names() -> set[str]:
    """Return the names of all data sets of TFDS.

    TFDS lists only data sets with code that it can import. The files of recorded checksums name the
    others.
    """
    recorded = tfds.core.tfds_path("url_checksums").glob("*.txt")
    return {*tfds.list_builders(with_community_datasets=False), *(path.stem for path in recorded)}


def unknown(name: str, root: epath.Path, others: Collection[str], field: str) -> ConfigError:
    """Return the error for an unknown data set, with the most similar name."""
    paths = root.iterdir() if root.is_dir() else ()
    local = {*others, *(path.name for path in paths if list_variants(path))}
    near = difflib.get_close_matches(name, sorted({*local, *known_names()}), n=1)
    choices = [*sorted(local), "any data set of TFDS"]
    hint = suggest(name, near) if near else f"choose from {', '.join(choices)}"
    return ConfigError(field, f"unknown '{name}'; {hint}")


def command(name: str, root: epath.Path) -> str:
    """Return the command line that prepares a data set."""
    return shlex.join(
        ["python", "-m", "vit_jax.prepare", f"--dataset={name}", f"--data_dir={root}"]
    )


def read(folder: epath.Path) -> tfds.core.DatasetBuilder:
    """Open the prepared data set in a folder, in any file format.

    Raises:
      DataError: TFDS cannot read it, or would import a module.
    """
    check_documents(folder)
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS and protobuf raise exceptions of any type on a corrupt file
        raise DataError(f"{folder}: TFDS cannot open it: {error}") from error


def open_folder(folder: epath.Path) -> tfds.core.DatasetBuilder:
    """Open the prepared data set in a folder as array_record.

    Raises:
      DataError: It is prepared in another format, or TFDS cannot read it.
    """
    builder = read(folder)
    formats = builder.info.available_file_formats()
    if ARRAY_RECORD not in formats:
        names = ", ".join(sorted(file_format.value for file_format in formats))
        problem = f"{folder} is prepared as {names}, expected array_record"
        raise DataError(f"{problem}; run {_command_for(builder)}")
    builder.info.set_file_format(ARRAY_RECORD, override=True, override_if_initialized=True)
    return builder


def check_shards(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Check that the files of a split exist and have the record counts of `dataset_info.json`.

    Raises:
      DataError: A file is corrupt, or has fewer records.
      InputMissingError: A file is missing.
    """
    hint = f"run {_command_for(builder)}"
    if (
        ARRAY_RECORD not in builder.info.alternative_file_formats
    ):  # otherwise the command rewrites the file
        hint = f"remove {builder.data_dir} and {hint}"

    def check(shard: Any) -> None:
        path = epath.Path(shard.filename)
        if not is_regular(path):
            raise InputMissingError(f"{path}: no such file; {hint}")
        try:
            count = tfds.core.file_adapters.ArrayRecordFileAdapter.num_examples(path)
        except Exception as error:  # the reader does not document its exceptions
            raise DataError(f"{path}: {' '.join(str(error).split())}; {hint}") from error
        if count < shard.examples_in_shard:
            problem = f"{count:,} records, expected {shard.examples_in_shard:,}"
            raise DataError(f"{path}: {problem} as in {INFO}; {hint}")

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(check, builder.info.splits[split].file_instructions))


def _command_for(builder: tfds.core.DatasetBuilder) -> str:
    folder = epath.Path(builder.data_dir)
    if not builder.info.config_name:
        return command(f"{builder.name}:{builder.version}", folder.parents[1])
    name = f"{builder.name}/{builder.info.config_name}:{builder.version}"
    return command(name, folder.parents[2])


def _features(features: Any, data: config_lib.Data) -> tfds.features.FeaturesDict:
    """Return the features of image and label only."""
    names = sorted(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    available = ", ".join(names)
    for field in ("image_key", "label_key"):
        key = getattr(data, field)
        if key not in features:
            raise ConfigError(f"config.data.{field}", f"no feature '{key}'; there are {available}")
    image = features[data.image_key]
    label = features[data.label_key]
    is_pixels = isinstance(image, tfds.features.Tensor) and len(image.shape) == 3
    is_image = isinstance(image, tfds.features.Image) or is_pixels
    if not is_image or image.np_dtype not in (PIXELS[:1] if is_pixels else PIXELS):
        expected = "must be tfds.features.Image or a uint8 [h, w, c] Tensor"
        problem = f"'{data.image_key}' {expected}; there are {available}"
        raise ConfigError("config.data.image_key", problem)
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        problem = f"'{data.label_key}' must be tfds.features.ClassLabel; there are {available}"
        raise ConfigError("config.data.label_key", problem)
    return tfds.features.FeaturesDict({data.image_key: image, data.label_key: label})
