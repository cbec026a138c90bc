"""The lists of ImageNet's label sets have the sizes of the papers, and agree between packages."""

import json
import re

import pytest
import tensorflow_datasets as tfds
from etils import epath

from vit_jax.evaluation import label_sets
from vit_jax.evaluation.label_sets import published
from vit_jax.evaluation.label_sets.published import imagenet_classes


def read_timm(name):
    """Returns a list of timm, which is not imported."""
    return published._find_list("a test", name).read_text().split()


def test_imagenet_has_1000_wordnet_ids_in_their_order():
    classes = imagenet_classes()
    assert len(classes) == len(set(classes)) == 1000
    assert list(classes) == sorted(classes)
    assert all(re.fullmatch(r"n\d{8}", name) for name in classes)
    other = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt").read_text()
    assert sorted(other.split()) == list(classes)


@pytest.mark.parametrize(
    "name", ["imagenet2012", "imagenet_v2", "imagenet_sketch", "imagenet2012_corrupted"]
)
def test_sets_with_all_classes_keep_every_column(name):
    match = label_sets.match(
        label_sets.find_label_set(name), imagenet_classes(), imagenet_classes()
    )
    assert match.columns == tuple((index,) for index in range(1000))
    assert match.labels.tolist() == list(range(1000))
    assert match.class_names == imagenet_classes()


@pytest.mark.parity
def test_timm_has_the_same_wordnet_ids():
    assert read_timm("imagenet_synsets.txt") == list(imagenet_classes())


@pytest.mark.parity
@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_a_and_r_are_200_classes_in_order(name):
    label_set = label_sets.find_label_set(name)
    match = label_sets.match(label_set, imagenet_classes(), imagenet_classes())
    columns = [column for (column,) in match.columns]
    assert len(columns) == 200
    assert columns == sorted(set(columns)) and columns[0] >= 0 and columns[-1] <= 999
    assert columns == [int(text) for text in read_timm(f"{name}_indices.txt")]
    assert [imagenet_classes()[column] for column in columns] == list(label_set.classes)
    assert (match.labels >= 0).sum() == 200


@pytest.mark.parity
def test_real_labels_are_those_of_the_validation_images():
    label_set = label_sets.find_label_set("imagenet2012_real")
    match = label_sets.match(label_set, imagenet_classes(), imagenet_classes())
    assert len(match.correct) == 50_000
    assert sum(map(bool, match.correct)) == 46_837  # Beyer et al. 2020
    assert match.correct[1] == (970, 795)
    folder = epath.Path(tfds.core.tfds_path("datasets/imagenet2012"))
    places = {name: index for index, name in enumerate(imagenet_classes())}
    labels = [places[name] for name in (folder / "validation_labels.txt").read_text().split()]
    pairs = zip(labels, match.correct, strict=True)
    kept = [label in correct for label, correct in pairs if correct]
    assert round(100 * sum(kept) / len(kept), 2) == 90.02  # the score of ImageNet's own labels
    given = published._find_list("a test", "imagenet_real_labels.json")
    assert [list(row) for row in match.correct] == json.loads(given.read_text())
