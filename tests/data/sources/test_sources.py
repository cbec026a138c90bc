"""Sources give the same images for the same index, and know what they are."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.data import digits
from vit_jax.data.sources.registry import open_split, split_location
from vit_jax.errors import ConfigError, DataError

DIGITS = config_lib.Data(name="digits", train_split="train[:90%]", val_split="train[90%:]")
SYNTHETIC = dataclasses.replace(DIGITS, name="synthetic", image_size=(8, 6), channels=3)


def pixels(source):
    return [np.asarray(source[i]["image"]) for i in range(len(source))]


def test_digits_test_split_is_the_last_360_of_the_permutation():
    images, labels = digits.load()
    rows = np.random.RandomState(0).permutation(1797)[-360:]
    source = open_split(DIGITS, "test_split")
    expected = sorted((images[row].tobytes(), labels[row]) for row in rows)
    found = zip(pixels(source), [source[i]["label"] for i in range(360)], strict=True)
    assert sorted((image.tobytes(), label) for image, label in found) == expected


def test_digits_splits_share_no_image_of_the_file():
    sizes = {f: len(open_split(DIGITS, f)) for f in ("train_split", "val_split", "test_split")}
    assert sizes == {"train_split": 1293, "val_split": 144, "test_split": 360}
    assert sum(sizes.values()) == 1797


def test_digits_are_scans_from_0_to_255():
    images, labels = digits.load()
    assert images.shape == (1797, 8, 8)
    assert (images.min(), images.max()) == (0, 255)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_source_has_names_fingerprint_and_record_ids():
    source = open_split(DIGITS, "val_split")
    assert source.class_names == tuple("0123456789")
    assert source.fingerprint == {
        "name": "digits/1.0.0:train[90%:]",
        "examples": 144,
        "classes": list("0123456789"),
    }
    assert source.describe(3) == "digits/1.0.0:train[90%:][3]"


def test_synthetic_is_a_function_of_the_index_and_splits_differ():
    train, test = (open_split(SYNTHETIC, f) for f in ("train_split", "test_split"))
    again = open_split(SYNTHETIC, "train_split")
    np.testing.assert_array_equal(train[5]["image"], again[5]["image"])
    assert train[5]["image"].shape == (8, 6, 3)
    assert train[5]["image"].dtype == np.uint8
    assert not np.array_equal(train[5]["image"], test[5]["image"])
    assert (len(train), len(test)) == (922, 256)


def test_synthetic_brightness_tells_the_class():
    source = open_split(SYNTHETIC, "train_split")
    means = {}
    for i in range(200):
        means.setdefault(source[i]["label"], []).append(source[i]["image"].mean())
    order = [np.mean(means[label]) for label in sorted(means)]
    assert order == sorted(order)


@pytest.mark.parametrize("data", [DIGITS, SYNTHETIC], ids=lambda data: data.name)
def test_sources_can_travel_to_worker_processes(data):
    source = open_split(data, "test_split")
    assert pickle.loads(pickle.dumps(source))[0]["label"] == source[0]["label"]  # noqa: S301


@pytest.mark.parametrize("name", ["digits", "synthetic"])
@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trian", "Unknown split 'trian'"),
        ("train[:", "Error parsing split"),
        ("train[200%:]", "Error parsing split"),
    ],
)
def test_a_wrong_split_is_refused(name, split, message):
    data = dataclasses.replace(DIGITS, name=name, train_split=split)
    with pytest.raises(ConfigError, match=r"^config.data.train_split: ") as error:
        open_split(data, "train_split")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_an_empty_split_is_refused(name):
    data = dataclasses.replace(DIGITS, name=name, val_split="train[:0]")
    with pytest.raises(DataError, match="holds no image"):
        open_split(data, "val_split")


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ConfigError, match=r"config.data.name: unknown 'digit'; did you mean 'dig"):
        open_split(dataclasses.replace(DIGITS, name="digit"), "train_split")


def test_digits_need_no_folder_and_write_none(tmp_path):
    data = dataclasses.replace(DIGITS, data_dir=str(tmp_path / "elsewhere"))
    assert len(open_split(data, "train_split")) == 1293
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "digest"), [("train_split", "3a8397decb1c910b"), ("test_split", "7f94158e6893b4ed")]
)
def test_digits_come_in_the_order_in_which_tfds_stores_them(field, digest):
    """Runs of all versions see the same image at the same step."""
    source = open_split(dataclasses.replace(DIGITS, train_split="train"), field)
    found = hashlib.sha256()
    for index, image in enumerate(pixels(source)):
        found.update(image.tobytes() + bytes([source[index]["label"]]))
    assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("test", ("", "test")),
        ("test[:100]", ("", "test[:100]")),
        ("train[10:20]+test[5%:]", ("", "train[10:20]+test[5%:]")),
        ("cifar10:test", ("cifar10", "test")),
        ("a/b-c:3.0.0:test[:10]", ("a/b-c:3.0.0", "test[:10]")),
    ],
)
def test_a_set_is_a_split_or_a_data_set_and_its_split(where, expected):
    assert split_location(where) == expected
