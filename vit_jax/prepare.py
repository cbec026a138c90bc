"""Download and prepare a data set of TensorFlow Datasets, to be read without TensorFlow.

  python -m vit_jax.prepare --dataset=NAME[/CONFIG][:VERSION] [--data_dir=DIR]
      [--downloads=DIR] [--accept_checksums]

Files that are in --downloads are not downloaded. A data set that is prepared as tfrecord stays, and
gets array_record files beside it.
"""

import contextlib
import errno
import os
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import requests
import tensorflow_datasets as tfds
from absl import flags
from etils import epath

from vit_jax.console import cli
from vit_jax.console.progress import Progress, format_seconds, say
from vit_jax.console.workdir import is_local
from vit_jax.data.building.downloads import ELSEWHERE, Downloads, causes_of
from vit_jax.data.sources import tfds as tfds_source
from vit_jax.data.sources.registry import SOURCES
from vit_jax.errors import (
    ConfigError,
    DataError,
    InputMissingError,
    UserError,
    WorkdirError,
    suggest,
)

FIELD = "--dataset"
EXTRA = "pip install 'vit_jax[tfds]'"

# Of errors that only some of the time are an OSError: nothing more can be written.
UNWRITABLE = (
    *map(os.strerror, (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS)),
    "Not enough disk space",  # TFDS's own
)


class Bar:
    """Takes the place of tqdm: whatever TFDS counts is shown on the one line."""

    VERBS = types.MappingProxyType(
        {"Dl": "download", "Extraction": "extract", "Generating": "encode", "Shuffling": "write"}
    )
    SILENT = ("url", "splits")
    line: "Line"
    lock = threading.RLock()

    def __init__(
        self,
        iterable: Iterable[Any] = (),
        desc: str = "",
        total: int | float | None = None,
        unit: str = "",
        **_: Any,
    ) -> None:
        self._iterable, self._unit = iterable, unit.strip()
        self._verb = self.VERBS.get(desc.partition(" ")[0], desc)
        self._began = time.monotonic()
        self._count: int | float = 0
        self.total = total or 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @classmethod
    def get_lock(cls) -> contextlib.AbstractContextManager:
        """Returns what TFDS holds while it counts in threads."""
        return cls.lock

    def refresh(self) -> None:
        """Does nothing: `update` shows the line."""

    def update(self, n: int | float = 1) -> None:
        """Counts on."""
        self._count += n
        if not self._count or self._unit in self.SILENT or not self.line.due():
            return
        rate = self._count / max(time.monotonic() - self._began, 1e-6)
        total = f"/{self.total:,.0f}" if self.total >= self._count else ""
        left = f", ETA {format_seconds((self.total - self._count) / rate)}" if total else ""
        count = f"{self._verb} {self._count:,.0f}{total} {self._unit}"
        self.line.tell(f"{count}, {rate:,.0f}/s{left}")


class Line(Progress):
    """The progress line of what has no known end."""

    def __init__(self) -> None:
        super().__init__(0, 0, every_seconds=10.0, label="")
        self._told = 0.0

    def due(self) -> bool:
        """Returns whether it is time for another line; on a terminal ten times a second."""
        return super().due() and time.monotonic() - self._told >= 0.1

    def tell(self, text: str) -> None:
        """Shows a line as it is."""
        self._told = self._last = time.monotonic()
        if self._live is None:
            say(text)
        else:
            self._live.update(self._task, description=text)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Shows TFDS's progress on one line instead of in its bars."""
    module = tfds.core.utils.tqdm_utils
    before, shown = module.tqdm_lib, module._active
    Bar.line = Line()
    module.tqdm_lib = types.SimpleNamespace(tqdm=Bar)
    tfds.enable_progress_bar()
    try:
        yield
    finally:
        module.tqdm_lib = before
        tfds.display_progress_bar(shown)
        Bar.line.close()


def _explain(name: str, root: epath.Path, error: Exception) -> UserError:
    """Returns what a failed preparation comes down to."""
    for cause in causes_of(error):
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, ImportError):
            module = (cause.name or "").partition(".")[0] or str(cause)
            if module == "tensorflow":
                return ConfigError(FIELD, f"preparing '{name}' needs TensorFlow; {EXTRA}")
            return ConfigError(FIELD, f"preparing '{name}' needs {module}; pip install {module}")
        if isinstance(cause, requests.RequestException | tfds.download.DownloadError):
            return InputMissingError(f"{cause}; {ELSEWHERE}")
        if isinstance(cause, FileNotFoundError):
            return InputMissingError(f"{name}: {cause}")
        if any(text in str(cause) for text in UNWRITABLE):
            return WorkdirError(f"--data_dir: cannot write {root}: {cause!s:.200}")
    return DataError(f"{name}: TFDS cannot prepare it: {type(error).__name__}: {error!s:.300}")


def _find_builder(text: str, root: epath.Path) -> tfds.core.DatasetBuilder:
    name, config, version = tfds_source.parse_name(text, FIELD)
    if name in SOURCES:
        raise ConfigError(FIELD, f"'{name}' comes with vit_jax; there is nothing to prepare")
    try:
        kind = tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError as error:
        if name in tfds_source.known_names():  # TFDS drops what it cannot import
            raise ConfigError(FIELD, f"the code of '{name}' needs more; {EXTRA}") from error
        raise tfds_source.unknown(name, root, (), FIELD) from error
    if config and config not in kind.builder_configs:
        known = suggest(config, kind.builder_configs) if kind.builder_configs else "it has none"
        raise ConfigError(FIELD, f"no config '{config}' of {name}; {known}")
    try:
        return kind(
            config=config or None,
            version=version or None,
            data_dir=str(root),
            file_format="array_record",
        )
    except AssertionError as error:
        raise ConfigError(FIELD, str(error)) from error  # no such version


def _prepare(name: str, root: epath.Path, files: str, accept: bool) -> epath.Path:
    """Prepares a data set that is not there yet and returns its folder."""
    builder = _find_builder(name, root)
    folder, downloads = epath.Path(builder.data_dir), root / "downloads"
    manual = epath.Path(files).expanduser() if files else downloads / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual.is_dir():
        problem = f"{name}: its files are not to be had by program; {ELSEWHERE}"
        raise InputMissingError(f"{problem}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    # Of its own: TFDS would take what it unpacked from another file of the same name.
    with tempfile.TemporaryDirectory(dir=root, prefix="incomplete.") as unpacked:

        def make_downloads(**_: Any) -> Downloads:
            return Downloads(
                manual,
                accept,
                download_dir=downloads,
                extract_dir=unpacked,
                url_infos=builder.url_infos,
                manual_dir_instructions=builder.MANUAL_DOWNLOAD_INSTRUCTIONS,
                dataset_name=builder.name,
                max_simultaneous_downloads=builder.MAX_SIMULTANEOUS_DOWNLOADS,
            )

        builder._make_download_manager = make_downloads
        builder._log_download_bytes = builder._log_download_done = lambda: None
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config)
        except OSError:
            if not (folder / tfds_source.INFO).exists():  # else another process was faster
                raise
    return folder


def _convert(folder: epath.Path, builder: tfds.core.DatasetBuilder) -> None:
    """Writes array_record files beside those of another format, which stay as they are.

    They count once `dataset_info.json` names them, which is written last.
    """
    adapters = tfds.core.file_adapters
    old = adapters.ADAPTER_FOR_FORMAT[builder.info.file_format]
    new = adapters.ADAPTER_FOR_FORMAT[tfds_source.ARRAY_RECORD]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="incomplete.") as scratch:
        for split in builder.info.splits.values():
            template = split.filename_template.replace(
                data_dir=scratch, filetype_suffix=new.FILE_SUFFIX
            )
            for shard, length in enumerate(split.shard_lengths):
                path = split.filepaths[shard]
                if not path.exists():
                    raise InputMissingError(f"{path}: no such file")
                bar = Bar(old.make_tf_data(path), "Shuffling", length, "examples")
                out = template.sharded_filepath(
                    shard_index=shard, num_shards=len(split.shard_lengths)
                )
                try:
                    new.write_examples(out, ((i, record.numpy()) for i, record in enumerate(bar)))
                except (ImportError, OSError):
                    raise
                except Exception as error:  # TensorFlow's own kinds
                    raise DataError(f"{path}: {error!s:.200}") from error
                if (count := new.num_examples(out)) != length:
                    raise DataError(f"{path}: {count:,} records, expected {length:,}")
        shards = list(epath.Path(scratch).iterdir())
        info = tfds.core.dataset_info.read_proto_from_builder_dir(folder)
        if tfds_source.ARRAY_RECORD.value not in info.alternative_file_formats:
            info.alternative_file_formats.append(tfds_source.ARRAY_RECORD.value)
        tfds.core.dataset_info.write_dataset_info_proto(info, dataset_info_dir=scratch)
        for path in [*shards, epath.Path(scratch) / tfds_source.INFO]:
            path.replace(folder / path.name)


def prepare(
    name: str, root: epath.Path, files: str, accept: bool
) -> tuple[tfds.core.DatasetBuilder, bool]:
    """Prepares a data set where it is not prepared as array_record.

    Args:
      name: NAME[/CONFIG][:VERSION].
      root: The folder of data sets.
      files: A folder of files that need no download, or nothing.
      accept: Whether a file may be another than TFDS recorded.

    Returns:
      The data set, and whether there was anything to do.

    Raises:
      UserError: It cannot be prepared; nothing is left that counts as prepared.
    """
    folder = tfds_source.find(name, root, FIELD)
    if folder is not None:
        builder = tfds_source.read(folder)
        try:
            if tfds_source.ARRAY_RECORD in builder.info.available_file_formats():
                return _checked(folder), False
        except UserError:
            if builder.info.file_format == tfds_source.ARRAY_RECORD:
                raise  # else it is made anew
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"--data_dir: cannot write {root}: {error}") from error
    try:
        with _one_line():
            if folder is None:
                folder = _prepare(name, root, files, accept)
            else:
                _convert(folder, builder)
        return _checked(folder), True
    except Exception as error:  # data set code raises what it likes
        raise _explain(name, root, error) from error


def _checked(folder: epath.Path) -> tfds.core.DatasetBuilder:
    builder = tfds_source.open_folder(folder)
    for split in builder.info.splits.values():
        if split.num_examples:
            tfds_source.check_shards(builder, split.name)
    return builder


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Prepares a data set, unless it is; says where it is and how a config names it."""
    began = time.monotonic()
    if overrides:
        raise ConfigError(f"config.{next(iter(overrides))}", "this command has no config")
    root = tfds_source.data_root(values.data_dir)
    if not is_local(root):
        raise ConfigError("--data_dir", f"expected a local folder, got {root}")
    if values.downloads and not epath.Path(values.downloads).expanduser().is_dir():
        raise InputMissingError(f"--downloads: no folder {values.downloads}")
    _quiet()
    builder, new = prepare(values.dataset, root, values.downloads, values.accept_checksums)
    counts = [f"{split.name} {split.num_examples:,}" for split in builder.info.splits.values()]
    size = f"{builder.info.dataset_size:,} bytes"
    spent = f"prepared in {time.monotonic() - began:.1f} s" if new else "already prepared"
    setting = f'config.data.name = "{values.dataset}"'
    where = f', config.data.data_dir = "{root}"' if values.data_dir else ""
    say(f"{spent}  {builder.data_dir}  {', '.join(counts)}  {size}  {setting}{where}")


def _quiet() -> None:
    """Keeps TensorFlow, where data set code imports it, from talking and from the accelerator."""
    tfds.core.utils.lazy_imports_utils.print = lambda *_: None  # of its absence we speak ourselves
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")
    jax.config.update("jax_platforms", "cpu")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("dataset", "", "NAME[/CONFIG][:VERSION] of TFDS.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", "", "Where data sets live; TFDS's default if empty.", flag_values=values
    )
    flags.DEFINE_string(
        "downloads", "", "A folder of files that need no download.", flag_values=values
    )
    flags.DEFINE_bool(
        "accept_checksums",
        False,
        "Take files that are others than TFDS recorded, and say so.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    code = cli.run(main, _flags(), __doc__)
    sys.stdout.flush()
    os._exit(code)  # TFDS's threads would go on downloading
