"""Prepared TFDS data sets are read from their files; what is missing or damaged has a name."""

import io
import json
import pickle
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import ROOT
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import ConfigError, DataError, InputMissingError

SIZES = {"train": 12, "test": 3}
NAMES = ("cat", "dog", "cow")


def example(split, index):
    pixels = np.random.default_rng([split == "test", index]).integers(0, 256, (4, 5, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="png")
    return {
        "image": png.getvalue(),
        "mask": png.getvalue(),
        "pixels": pixels,
        "label": index % len(NAMES),
        "number": index,
        "file_name": f"{split}_{index}.png",
    }


class TinyData(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set whose code nobody can import by its name."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        features = {
            "image": image,
            "mask": image,
            "pixels": tfds.features.Tensor(shape=(4, 5, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=NAMES),
            "number": np.int64,
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        for index in range(SIZES[split]):
            yield index, example(split, index)


class TinyConfigs(TinyData, skip_registration=True):
    """The same in two configs, the first of which is the default."""

    BUILDER_CONFIGS = [  # noqa: RUF012 - TFDS's form
        tfds.core.BuilderConfig(name=name, version="1.0.0") for name in ("small", "large")
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    shards = tfds.download.DownloadConfig(num_shards=3)
    for kind, configs in ((TinyData, [None]), (TinyConfigs, ["large", "small"])):
        for config in configs:
            builder = kind(data_dir=root, config=config, file_format="array_record")
            builder.download_and_prepare(download_config=shards)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "root")


def data(root, name="tiny_data", **fields):
    return config_lib.Data(name=name, data_dir=str(root), **fields)


def shard(root, number, split="train"):
    return root / "tiny_data" / "1.0.0" / f"tiny_data-{split}.array_record-0000{number}-of-00003"


def edit_info(folder, **fields):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def offline(monkeypatch):
    """Makes every use of the network fail the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def test_images_come_as_the_bytes_that_were_written(prepared, offline):
    source = open_split(data(prepared), "train_split")
    found = [(record["image"], record["label"]) for record in map(source.__getitem__, range(12))]
    written = [example("train", index) for index in range(12)]
    assert sorted(found) == sorted((record["image"], record["label"]) for record in written)
    assert source.class_names == NAMES
    names = {f"train_{i}.png": (image["image"], image["label"]) for i, image in enumerate(written)}
    assert [names[source.file_name(index)] for index in range(12)] == found


def test_another_image_feature_or_a_tensor_takes_the_place_of_the_image(prepared):
    encoded = open_split(data(prepared, image_key="mask"), "test_split")
    pixels = open_split(data(prepared, image_key="pixels"), "test_split")
    for index in range(3):
        mask, array = encoded[index]["image"], pixels[index]["image"]
        assert (array.dtype, array.shape) == (np.uint8, (4, 5, 3))
        np.testing.assert_array_equal(array, Image.open(io.BytesIO(mask)))


def test_no_code_of_the_data_set_and_no_tensorflow_is_needed(prepared):
    code = f"""
import sys
from vit_jax import config
from vit_jax.data.sources.registry import open_split
source = open_split(config.Data(name="tiny_data", data_dir={str(prepared)!r}), "train_split")
print(len([source[index] for index in range(len(source))]), "tensorflow" in sys.modules)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert out.stdout == "12 False\n"


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("tiny_data", "tiny_data/1.0.0"),
        ("tiny_data:1.0.0", "tiny_data/1.0.0"),
        ("tiny_data:1.*.*", "tiny_data/1.0.0"),
        ("tiny_configs", "tiny_configs/small/1.0.0"),
        ("tiny_configs/large", "tiny_configs/large/1.0.0"),
        ("tiny_configs/large:1.0.0", "tiny_configs/large/1.0.0"),
    ],
)
def test_a_set_is_named_with_config_and_version(prepared, name, full_name):
    source = open_split(data(prepared, name, train_split="train[:5]"), "train_split")
    assert source.fingerprint == {
        "name": f"{full_name}:train[:5]",
        "examples": 5,
        "classes": list(NAMES),
    }


def test_the_highest_version_is_taken_unless_one_is_named(root):
    for version in ("9.0.0", "10.0.0"):
        folder = shutil.copytree(root / "tiny_data" / "1.0.0", root / "tiny_data" / version)
        edit_info(folder, version=version)
    (root / "tiny_data" / "incomplete.ABC_11.0.0").mkdir()
    (root / "tiny_data" / "12.0.0").mkdir()
    assert open_split(data(root), "test_split").name == "tiny_data/10.0.0:test"
    assert open_split(data(root, "tiny_data:9.*.*"), "test_split").name == "tiny_data/9.0.0:test"


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("tiny_data:3.0.0", "; there are tiny_data:1.0.0; "),
        ("tiny_data/small", "; there are tiny_data:1.0.0; "),
        ("tiny_configs/middle", "; there are tiny_configs/large:1.0.0, tiny_configs/small:1.0.0; "),
        ("cifar10", "; "),
        ("moving_mnist", "; "),
    ],
)
def test_what_is_not_prepared_is_refused_with_the_command_that_prepares_it(
    prepared, offline, name, there
):
    with pytest.raises(InputMissingError) as error:
        open_split(data(prepared, name), "train_split")
    command = f"run python -m vit_jax.prepare --dataset={name} --data_dir={prepared}"
    where = f"config.data.name: '{name}' is not prepared in {prepared}"
    assert str(error.value) == f"{where}{there}{command}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar01", "did you mean 'cifar10'?"),
        ("tiny_date:1.0.0", "did you mean 'tiny_data'?"),
        ("digit", "did you mean 'digits'?"),
        ("qqqqqqq", "choose from digits, synthetic, tiny_configs, tiny_data, any data set of TFDS"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(prepared, offline, name, hint):
    with pytest.raises(ConfigError) as error:
        open_split(data(prepared, name), "train_split")
    unknown = name.partition(":")[0]
    assert str(error.value) == f"config.data.name: unknown '{unknown}'; {hint}"


def test_no_name_and_no_folder_are_refused(prepared):
    with pytest.raises(ConfigError, match=r"config\.data\.root: expected a folder of images"):
        open_split(data(prepared, ""), "train_split")


@pytest.mark.parametrize("name", ["a b", "tiny_data:1", "huggingface:mnist", "mnist/a=3"])
def test_a_name_of_another_form_is_refused(prepared, name):
    with pytest.raises(ConfigError, match="expected NAME, NAME/CONFIG or NAME:VERSION"):
        open_split(data(prepared, name), "train_split")


def test_another_format_is_refused_with_the_command_that_mends_it(root):
    edit_info(root / "tiny_configs" / "large" / "1.0.0", fileFormat="tfrecord")
    with pytest.raises(DataError, match="is prepared as tfrecord, expected array_record") as error:
        open_split(data(root, "tiny_configs/large"), "train_split")
    name = "tiny_configs/large:1.0.0"
    command = f"python -m vit_jax.prepare --dataset={name} --data_dir={root}"
    assert str(error.value).endswith(f"; run {command}")


def test_array_record_beside_another_format_is_read(root):
    folder = root / "tiny_data" / "1.0.0"
    edit_info(folder, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    source = open_split(data(root), "train_split")
    assert {source[index]["label"] for index in range(12)} == {0, 1, 2}


@pytest.mark.parametrize("text", ["", "{", "{}", '{"name": 3}'])
def test_a_broken_description_is_refused(root, text):
    (root / "tiny_data" / "1.0.0" / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match=re.escape(str(root / "tiny_data" / "1.0.0"))):
        open_split(data(root), "train_split")


def test_a_missing_file_is_named_where_the_split_needs_it(root):
    shard(root, 1).unlink()
    with pytest.raises(InputMissingError) as error:
        open_split(data(root), "train_split")
    folder = root / "tiny_data" / "1.0.0"
    command = f"python -m vit_jax.prepare --dataset=tiny_data:1.0.0 --data_dir={root}"
    missing = f"{shard(root, 1)}: no such file"
    assert str(error.value) == f"{missing}; remove {folder} and run {command}"
    edit_info(folder, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    with pytest.raises(InputMissingError) as error:  # what is beside it must not be lost
        open_split(data(root), "train_split")
    assert str(error.value) == f"{missing}; run {command}"
    first = data(root, train_split="train[:4]")
    assert len(open_split(first, "train_split")) == 4
    assert len(open_split(data(root), "test_split")) == 3


def test_a_file_with_fewer_records_is_named(root):
    shutil.copy(shard(root, 0, "test"), shard(root, 2))
    with pytest.raises(DataError) as error:
        open_split(data(root), "train_split")
    assert str(error.value).startswith(f"{shard(root, 2)}: 1 records, expected 4 as in ")


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_cut_off_is_named(root, size):
    path = shard(root, 2)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_split(data(root), "train_split")


def test_a_damaged_record_is_an_exception_and_the_others_stay_readable(root):
    path = shard(root, 1)
    content = bytearray(path.read_bytes())
    start = content.index(example("train", 0)["image"][:30])  # of the first record of the file
    content[start + 60] ^= 0xFF
    path.write_bytes(content)
    source = open_split(data(root), "train_split")
    bad = 4  # the first of the second file
    for _ in range(2):
        with pytest.raises(Exception, match="hash mismatch"):
            source[bad]
    others = [source[index] for index in range(12) if index != bad]
    assert len(others) == 11
    assert source.describe(bad) == "tiny_data/1.0.0:train[4]"


@pytest.mark.parametrize(
    ("field", "key", "message"),
    [
        ("image_key", "img", "no feature 'img'; there are file_name (Text), image (Image), "),
        ("label_key", "labels", "no feature 'labels'; there are file_name (Text), image (Image), "),
        ("image_key", "label", "'label' must be tfds.features.Image or a uint8 [h, w, c] Tensor"),
        (
            "label_key",
            "image",
            "'image' must be tfds.features.ClassLabel; there are file_name (Text), image (Image), ",
        ),
        (
            "label_key",
            "number",
            "'number' must be tfds.features.ClassLabel; there are file_name (Text), ",
        ),
    ],
)
def test_the_features_must_be_an_image_and_a_class(prepared, field, key, message):
    with pytest.raises(ConfigError) as error:
        open_split(data(prepared, **{field: key}), "train_split")
    assert str(error.value).startswith(f"config.data.{field}: {message}")


def test_a_split_travels_to_worker_processes(prepared):
    source = open_split(data(prepared), "test_split")
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert [again[i] for i in range(3)] == [source[i] for i in range(3)]


@pytest.mark.parametrize(
    ("split", "kind", "message"),
    [
        ("val", ConfigError, "config.data.train_split: Unknown split 'val'"),
        ("train[", ConfigError, "config.data.train_split: Error parsing split"),
        (
            "train[:0]",
            DataError,
            "config.data.train_split: 'train[:0]' of tiny_data holds",
        ),
    ],
)
def test_a_split_that_is_none_is_refused(prepared, split, kind, message):
    with pytest.raises(kind) as error:
        open_split(data(prepared, train_split=split), "train_split")
    assert str(error.value).startswith(message)
