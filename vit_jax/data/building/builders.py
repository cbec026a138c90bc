"""The TFDS builder of a data set: finding it and running it."""

import tempfile
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vit_jax.console.progress import say
from vit_jax.data.building.downloads import ELSEWHERE, Downloads
from vit_jax.data.building.failures import EXTRA, FLAG
from vit_jax.data.sources import tfds as tfds_source
from vit_jax.data.sources.registry import SOURCES
from vit_jax.errors import ConfigError, InputMissingError, suggest


def find_builder(text: str, root: epath.Path) -> tfds.core.DatasetBuilder:
    """Return a builder that writes array_record.

    Args:
      text: NAME[/CONFIG][:VERSION].
      root: The directory of data sets.

    Raises:
      ConfigError: There is no such data set, config or version, or its code cannot be imported.
    """
    name, config, version = tfds_source.parse_name(text, FLAG)
    if name in SOURCES:
        raise ConfigError(FLAG, f"'{name}' comes with vit_jax and needs no preparation")
    try:
        builder_class = tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError as error:
        if name in tfds_source.known_names():  # TFDS leaves out what it cannot import
            raise ConfigError(FLAG, f"the code of '{name}' cannot be imported; {EXTRA}") from error
        raise tfds_source.unknown(name, root, (), FLAG) from error
    configs = builder_class.builder_configs
    if config and config not in configs:
        hint = suggest(config, configs) if configs else "it has no configs"
        raise ConfigError(FLAG, f"no config '{config}' of {name}; {hint}")
    try:
        return builder_class(
            config=config or None,
            version=version or None,
            data_dir=str(root),
            file_format="array_record",
        )
    except AssertionError as error:
        raise ConfigError(FLAG, str(error)) from error  # no such version


def build(name: str, root: epath.Path, files: str, accept_checksums: bool) -> epath.Path:
    """Build a data set that is not prepared yet, and return its folder.

    Args:
      name: NAME[/CONFIG][:VERSION].
      root: The directory of data sets.
      files: A folder with files to use instead of downloads; empty for none.
      accept_checksums: Whether to accept files whose checksums differ from TFDS's records.

    Raises:
      ConfigError: There is no such data set.
      InputMissingError: It requires a manual download.
      Exception: Any exception of the code of the data set.
    """
    builder = find_builder(name, root)
    folder = epath.Path(builder.data_dir)
    downloads = root / "downloads"
    manual = epath.Path(files).expanduser() if files else downloads / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual.is_dir():
        problem = f"{name} requires a manual download; {ELSEWHERE}"
        raise InputMissingError(f"{problem}: {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    say(f"prepare   {builder.info.full_name} in {folder}; downloads, if any, go to {downloads}")
    # Extract into a new directory: otherwise TFDS reuses what it once extracted from another file
    # of the same name.
    with tempfile.TemporaryDirectory(dir=root, prefix="incomplete.") as extracted:

        def make_downloads(**_: Any) -> Downloads:
            return Downloads(
                manual,
                accept_checksums,
                download_dir=downloads,
                extract_dir=extracted,
                url_infos=builder.url_infos,
                manual_dir_instructions=builder.MANUAL_DOWNLOAD_INSTRUCTIONS,
                dataset_name=builder.name,
                max_simultaneous_downloads=builder.MAX_SIMULTANEOUS_DOWNLOADS,
            )

        builder._make_download_manager = make_downloads
        # TFDS would announce a download, even if every file exists; our own lines say what happens.
        builder._log_download_bytes = lambda: None
        builder._log_download_done = lambda: None
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            builder.download_and_prepare(download_config=config)
        except OSError:
            if not (folder / tfds_source.INFO).exists():  # otherwise another process was faster
                raise
    return folder
