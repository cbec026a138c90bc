"""No document of a prepared data set imports a module, blocks, or points outside of the set."""

import json
import os
import shutil
import sys

import payloads
import pytest
import tensorflow_datasets as tfds

from vit_jax import config as config_lib
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import DataError, InputMissingError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    payloads.prepare_pictures(root)
    return root


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy, to be tampered with; the module that it may not import can be imported."""
    payloads.plant(tmp_path, tmp_path / "sentinel")
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root" / "pictures" / "1.0.0"


def read(folder, name="pictures"):
    data = config_lib.Data(name=name, data_dir=str(folder.parents[1]))
    source = open_split(data, "test_split")
    return source[0]


def test_a_set_with_features_of_many_kinds_is_read(folder):
    assert read(folder)["image"] == payloads.png()


@pytest.mark.parametrize("name", payloads.FEATURES)
def test_a_class_that_features_json_names_is_not_imported(folder, name):
    payloads.tamper_features(folder, name)
    with pytest.raises(DataError) as error:
        read(folder)
    assert f"{folder}/features.json" in str(error.value)
    assert payloads.CLASS in str(error.value) or "duplicate key" in str(error.value)
    assert payloads.MODULE not in sys.modules
    assert not (folder.parents[2] / "sentinel").exists()


def test_a_class_that_dataset_info_json_names_is_not_imported(folder):
    payloads.tamper_info(folder)
    with pytest.raises(DataError, match=rf"dataset_info\.json: .*'{payloads.CLASS}'"):
        read(folder)
    assert payloads.MODULE not in sys.modules


def test_a_class_of_a_module_that_the_user_imported_is_used(folder):
    payloads.tamper_features(folder, "feature")
    try:
        __import__(payloads.MODULE)
        assert read(folder)["image"] == payloads.png()
    finally:
        del sys.modules[payloads.MODULE]
        del tfds.features.FeatureConnector._registered_features[payloads.CLASS]


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_a_document_that_would_block_is_refused(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=rf"{name}: expected a regular file"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b" " * (2**24 + 1), "a regular file of at most 16,777,216 bytes"),
    ],
    ids=["deep", "long number", "not UTF-8", "key twice", "large"],
)
def test_a_document_that_is_no_plain_json_is_refused_in_one_line(folder, content, said):
    (folder / "features.json").write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_records_that_would_block_are_missing(folder):
    (path,) = folder.glob("*.array_record*")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputMissingError, match="no such file"):
        read(folder)


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", 5])
def test_a_default_config_is_a_name(folder, name):
    root = folder.parent
    shutil.move(folder, root / "small")
    (root / ".config").mkdir(exist_ok=True)
    (root / ".config" / "metadata.json").write_text(json.dumps({"default_config_name": name}))
    with pytest.raises(DataError, match="default_config_name: expected a name"):
        read(root / "small")
