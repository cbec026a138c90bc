"""Download and prepare a TFDS data set, so that it can be read without TensorFlow.

  python -m vit_jax.prepare --dataset=NAME[/CONFIG][:VERSION] [--data_dir=DIR]
      [--downloads=DIR] [--accept_checksums]

Files in --downloads are used instead of downloads. If the data set is already prepared as tfrecord,
array_record files are added to it.
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
    """Prepare a data set unless it is prepared; print its folder and the config that selects it."""
    began = time.monotonic()
    if overrides:
        raise ConfigError(f"config.{next(iter(overrides))}", "this command has no config fields")
    local_path(values.data_dir, "--data_dir")
    root = data_root(values.data_dir, "--data_dir")
    local_path(str(root), "--data_dir")  # the default of TFDS may not be local
    if values.downloads and not local_path(values.downloads, "--downloads").is_dir():
        raise InputMissingError(f"--downloads: no such folder: '{values.downloads}'")
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
    """Silence TensorFlow, which data set code may import, and keep it off the accelerator."""
    # TFDS would print that TensorFlow is not installed.
    tfds.core.utils.lazy_imports_utils.print = lambda *_: None
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")
    jax.config.update("jax_platforms", "cpu")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    help_text = "The TFDS data set: NAME[/CONFIG][:VERSION]."
    flags.DEFINE_string("dataset", "", help_text, flag_values=values)
    help_text = "The directory of data sets; by default that of TFDS, ~/tensorflow_datasets."
    flags.DEFINE_string("data_dir", "", help_text, flag_values=values)
    help_text = "A folder with files to use instead of downloads."
    flags.DEFINE_string("downloads", "", help_text, flag_values=values)
    help_text = "Accept files whose checksums differ from TFDS's records, and print the checksums."
    flags.DEFINE_bool("accept_checksums", False, help_text, flag_values=values)
    return values


if __name__ == "__main__":
    code = cli.run(main, _flags(), __doc__)
    sys.stdout.flush()
    os._exit(code)  # otherwise TFDS's threads would continue to download
