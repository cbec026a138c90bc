"""Balanced accuracy and confusion are those of scikit-learn, also without images of a class."""

import warnings

import numpy as np
import pytest
from sklearn import metrics

from vit_jax.evaluation.statistics.accuracy import balanced_accuracy, balanced_accuracy_interval
from vit_jax.evaluation.statistics.confusion import (
    Confused,
    confusion_matrix,
    most_confused,
    per_class,
)
from vit_jax.evaluation.statistics.intervals import bca

NUM_CLASSES = 11
COUNTS = [1, 7, 359, 360]


def draw(count):
    """Returns labels and predictions; the last class has no images, the first few."""
    rng = np.random.default_rng(count)
    labels = rng.choice(NUM_CLASSES - 1, size=count, p=np.arange(1, NUM_CLASSES) / 55)
    logits = rng.normal(size=(count, NUM_CLASSES)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return labels, logits.argmax(axis=1)


@pytest.mark.parametrize("count", COUNTS)
def test_the_matrix_and_the_figures_of_the_classes_are_those_of_scikit_learn(count):
    labels, predicted = draw(count)
    classes = np.arange(NUM_CLASSES)
    matrix = confusion_matrix(labels, predicted, NUM_CLASSES)
    np.testing.assert_array_equal(
        matrix, metrics.confusion_matrix(labels, predicted, labels=classes)
    )
    found = per_class(matrix)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    for name, expected in {"precision": precision, "recall": recall, "f1": f1}.items():
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(found.support, support)
    np.testing.assert_array_equal(found.predicted, np.bincount(predicted, minlength=NUM_CLASSES))


@pytest.mark.parametrize("count", COUNTS)
def test_balanced_accuracy_is_that_of_scikit_learn(count):
    labels, predicted = draw(count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class is predicted which has no images
        expected = metrics.balanced_accuracy_score(labels, predicted)
    found = balanced_accuracy(confusion_matrix(labels, predicted, NUM_CLASSES))
    assert found == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_of_no_images_is_undefined():
    assert np.isnan(balanced_accuracy(np.zeros((3, 3), int)))
    assert np.isnan(balanced_accuracy_interval(np.zeros((3, 3), int))).all()


@pytest.mark.parametrize("matrix", [np.diag([30, 7]), np.array([[0, 30], [7, 0]])])
def test_the_interval_of_all_right_or_all_wrong_is_undefined(matrix):
    assert np.isnan(balanced_accuracy_interval(matrix)).all()


def test_the_interval_of_balanced_accuracy_is_that_of_its_images():
    """A row for each image gives the same as counts of hits and misses of each class."""
    labels, predicted = draw(360)

    def statistic(sums):
        hits, supports = np.split(sums, 2, axis=-1)
        with np.errstate(invalid="ignore"):
            return np.nanmean(hits / supports, axis=-1)

    one_hot = np.eye(NUM_CLASSES)[labels]
    rows = np.concatenate([one_hot * (labels == predicted)[:, None], one_hot], axis=1)
    expected = bca(rows, statistic, resamples=20_000)
    matrix = confusion_matrix(labels, predicted, NUM_CLASSES)
    found = balanced_accuracy_interval(matrix, resamples=20_000)
    assert found == pytest.approx(tuple(expected), abs=0.02 * (expected.high - expected.low))
    assert found.low < balanced_accuracy(matrix) < found.high


def test_most_confused_pairs_have_the_most_images_first():
    matrix = np.array([[5, 2, 0], [2, 4, 3], [0, 0, 9]])
    assert most_confused(matrix) == [
        Confused(1, 2, 3),
        Confused(0, 1, 2),
        Confused(1, 0, 2),
    ]
    assert most_confused(matrix, top=1) == [Confused(1, 2, 3)]
    assert most_confused(np.diag([3, 4])) == []


def test_pairs_with_as_many_images_are_in_the_order_of_their_classes():
    matrix = np.add.outer(np.arange(9), np.arange(9)) % 3
    found = [(-pair.images, pair.label, pair.predicted) for pair in most_confused(matrix, top=72)]
    assert found == sorted(found) and len(found) > 40
