"""Harmless payloads that an attacker could hide in a folder.

Each payload tries to import the module `payload_module`, or to run `touch`, and so to create the
file SENTINEL. No command may let it.
"""

import functools
import io
import json
import os
import pathlib
import shutil
import tempfile

import flax.linen as nn
import jax
import numpy as np
import tensorflow_datasets as tfds
from conftest import TINY
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import seals, store
from vit_jax.config import stored

MODULE = "payload_module"
CLASS = f"{MODULE}.Feature"
CLASSES = tuple(f"class_{i}" for i in range(10))
MADE = tempfile.TemporaryDirectory()  # runs and data sets that are made once and then copied


def plant(folder, sentinel):
    """Writes the module that must not be imported; it creates the sentinel if it is."""
    code = f"open({str(sentinel)!r}, 'w').close()\n"
    code += "import tensorflow_datasets as tfds\nclass Feature(tfds.features.Text): pass\n"
    (pathlib.Path(folder) / f"{MODULE}.py").write_text(code)


class Executes:
    """An object whose pickle creates a file where it is loaded."""

    def __init__(self, sentinel):
        self._sentinel = str(sentinel)

    def __reduce__(self):
        return os.system, (f"touch '{self._sentinel}'",)


def png(size=(5, 4)):
    """Returns a small PNG."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0]), np.uint8)).save(file, "png")
    return file.getvalue()


def write_run(folder, overrides=None, classes=CLASSES):
    """Writes the smallest run folder, with random weights, as a finished run has it."""
    made = _make_run(tuple((overrides or {}).items()), tuple(classes))
    return pathlib.Path(shutil.copytree(made, folder, dirs_exist_ok=True))


@functools.cache
def _make_run(overrides, classes):
    folder = tempfile.mkdtemp(dir=MADE.name)
    tree = config_lib.to_config_dict(config_lib.Config())
    resolved = config_lib.resolve(tree, {**TINY, **dict(overrides)})
    config = resolved.config
    model = models.create(**config.model)
    shapes = nn.unbox(models.abstract_variables(model, config.data.image_shape))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    data = {"train_split": {"classes": list(classes)}}
    store.write_variables(epath.Path(folder), params, data, config_lib.as_dict(config))
    stored.write(epath.Path(folder), config, resolved.origins)
    return folder


def seal(step):
    """Seals a tampered step again, as an attacker can."""
    seals.seal(epath.Path(step), None)


def edit_config(folder, **changes):
    """Changes settings in the config.json of a run, by path with `__` for a dot."""
    path = pathlib.Path(folder) / "config.json"
    tree = json.loads(path.read_text())
    for key, value in changes.items():
        node = tree
        *sections, last = key.split("__")
        for section in sections:
            node = node[section]
        node[last] = value
    path.write_text(json.dumps(tree))


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of eight small pictures in two classes."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
            "words": tfds.features.Sequence(tfds.features.Text()),
            "box": tfds.features.BBoxFeature(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for index in range(8):
            box = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
            yield index, {"image": png(), "label": index, "words": ["a"], "box": box}


@functools.cache
def _make_pictures():
    root = tempfile.mkdtemp(dir=MADE.name)
    Pictures(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def prepare_pictures(root):
    """Prepares the data set below a root, and returns its folder."""
    shutil.copytree(_make_pictures(), root, dirs_exist_ok=True)
    return pathlib.Path(root) / "pictures" / "1.0.0"


def _edit(path, change):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def _add_feature(document):
    feature = {"pythonClassName": CLASS, "jsonFeature": {"json": "{}"}}
    document["featuresDict"]["features"]["extra"] = feature


def _add_feature_by_its_proto_name(document):
    feature = {"python_class_name": CLASS, "json_feature": {"json": "{}"}}
    document["featuresDict"]["features"]["extra"] = feature


def _replace_all(document):
    return {"pythonClassName": CLASS, "jsonFeature": {"json": "{}"}}


def _old_form(document):
    label = {"type": CLASS, "content": {}}
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    return {"type": kind, "content": {"image": label, "type": label, "content": label}}


def _json_in_json(document):
    inner = json.dumps({"feature": {"type": CLASS, "content": {}}, "length": None})
    kind = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    feature = {"pythonClassName": kind, "jsonFeature": {"json": inner}}
    document["featuresDict"]["features"]["extra"] = feature


def _json_in_json_twice_the_same_key(document):
    inner = '{"feature": {"type": "CLASS", "content": {}}, "length": 1, "length": 2}'
    inner = inner.replace("CLASS", CLASS)
    kind = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    feature = {"pythonClassName": kind, "jsonFeature": {"json": inner}}
    document["featuresDict"]["features"]["extra"] = feature


FEATURES = {
    "feature": _add_feature,
    "proto name": _add_feature_by_its_proto_name,
    "top level": _replace_all,
    "old form": _old_form,
    "json in json": _json_in_json,
    "json in json, twice a key": _json_in_json_twice_the_same_key,
}


def tamper_features(folder, name):
    """Makes features.json of a prepared data set name a class of the module."""
    _edit(folder / "features.json", FEATURES[name])


def tamper_info(folder):
    """Makes dataset_info.json carry features of its own, and the module of its code."""
    feature = {"pythonClassName": CLASS, "jsonFeature": {"json": "{}"}}
    _edit(folder / "dataset_info.json", lambda d: d | {"features": feature, "moduleName": MODULE})
