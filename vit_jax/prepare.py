"""Download and prepare a data set of TensorFlow Datasets, to be read without TensorFlow.

  python -m vit_jax.prepare --dataset=NAME[/CONFIG][:VERSION] [--data_dir=DIR]
      [--downloads=DIR] [--accept_checksums]

Files that are in --downloads are not downloaded. A data set that is prepared as tfrecord stays, and
gets array_record files beside it.
"""

import os
import sys
import time

import jax
import tensorflow_datasets as tfds
from absl import flags

from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.console.workdir import local_path
from vit_jax.data.building.preparation import prepare_dataset
from vit_jax.data.sources.tfds import data_root
from vit_jax.errors import ConfigError, InputMissingError


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Prepare a data set, unless it is prepared; print where it is and how a config names it."""
    began = time.monotonic()
    if overrides:
        raise ConfigError(f"config.{next(iter(overrides))}", "this command has no config")
    local_path(values.data_dir, "--data_dir")
    root = data_root(values.data_dir, "--data_dir")
    local_path(str(root), "--data_dir")  # the default may be elsewhere
    if values.downloads and not local_path(values.downloads, "--downloads").is_dir():
        raise InputMissingError(f"--downloads: no folder {values.downloads}")
    _quiet()
    builder, is_new = prepare_dataset(
        values.dataset, root, values.downloads, values.accept_checksums
    )
    counts = [f"{split.name} {split.num_examples:,}" for split in builder.info.splits.values()]
    size = f"{builder.info.dataset_size:,} bytes"
    spent = f"prepared in {time.monotonic() - began:.1f} s" if is_new else "already prepared"
    setting = f'config.data.name = "{values.dataset}"'
    if values.data_dir:
        setting += f', config.data.data_dir = "{root}"'
    say(f"{spent}  {builder.data_dir}  {', '.join(counts)}  {size}  {setting}")


def _quiet() -> None:
    """Keep TensorFlow, where data set code imports it, silent and off the accelerator."""
    tfds.core.utils.lazy_imports_utils.print = lambda *_: None  # that TensorFlow is not installed
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")
    jax.config.update("jax_platforms", "cpu")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    help_text = "The data set: NAME[/CONFIG][:VERSION] of TFDS."
    flags.DEFINE_string("dataset", "", help_text, flag_values=values)
    help_text = "The directory of data sets; TFDS's default if empty."
    flags.DEFINE_string("data_dir", "", help_text, flag_values=values)
    help_text = "A folder of files that need no download."
    flags.DEFINE_string("downloads", "", help_text, flag_values=values)
    help_text = "Take files whose checksums are not those that TFDS recorded, and print them."
    flags.DEFINE_bool("accept_checksums", False, help_text, flag_values=values)
    return values


if __name__ == "__main__":
    code = cli.run(main, _flags(), __doc__)
    sys.stdout.flush()
    os._exit(code)  # TFDS's threads would continue to download
