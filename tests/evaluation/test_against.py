"""Two models are compared on the images that both could read."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from vit_jax.errors import ConfigError, DataError
from vit_jax.evaluation.against import check_classes, compare
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.summary import describe_against


def predictions(right, indices=None, num_classes=4):
    """Returns predictions that are right for some images; the others are off by one class."""
    right = np.asarray(right)
    labels = np.arange(len(right)) % num_classes
    predicted = np.where(right, labels, (labels + 1) % num_classes)
    logits = 2 * np.eye(num_classes, dtype=np.float32)[predicted]
    indices = np.arange(len(right)) if indices is None else indices
    return Predictions(
        name="test",
        title="made up",
        ids=tuple(f"image {i}" for i in indices),
        indices=indices,
        labels=labels,
        logits=logits,
        features=logits,
        class_names=tuple(map(str, range(num_classes))),
        loss="softmax",
        skipped=0,
    )


def test_counts_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    first, second = rng.random(359) < 0.8, rng.random(359) < 0.6
    found = compare(predictions(first), predictions(second), other="runs/b")
    pairs = list(zip(first.tolist(), second.tolist(), strict=True))
    assert (found["other"], found["set"], found["count"]) == ("runs/b", "test", 359)
    assert found["both"] == pairs.count((True, True))
    assert found["first_only"] == pairs.count((True, False))
    assert found["second_only"] == pairs.count((False, True))
    assert found["neither"] == pairs.count((False, False))
    assert found["first"]["top1"]["value"] == first.mean()
    assert found["second"]["top1"]["value"] == second.mean()
    difference = found["difference"]
    assert difference["value"] == pytest.approx(first.mean() - second.mean())
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    one, two = found["first_only"], found["second_only"]
    exact = stats.binomtest(one, one + two).pvalue
    expected = exact - stats.binom.pmf(two, one + two, 0.5)
    assert found["mcnemar"]["p"] == pytest.approx(expected, rel=1e-6)
    apart = np.flatnonzero(first != second)
    assert [row["index"] for row in found["differing"]] == apart[:50].tolist()
    row = found["differing"][0]
    assert row["id"] == f"image {apart[0]}" and row["label"] == apart[0] % 4
    assert (row["first"] == row["label"]) == first[apart[0]]
    assert (row["second"] == row["label"]) == second[apart[0]]


def test_only_images_that_both_could_read_count():
    first = predictions([True, True, False], np.array([0, 4, 7]))
    second = predictions([True, False, True], np.array([4, 5, 7]))
    second = second._replace(labels=np.array([1, 2, 2]))
    second = second._replace(logits=2 * np.eye(4, dtype=np.float32)[[1, 0, 2]])
    found = compare(first, second, other="b")
    assert found["count"] == 2
    assert (found["both"], found["second_only"]) == (1, 1)
    assert [row["index"] for row in found["differing"]] == [7]
    assert (found["differing"][0]["first"], found["differing"][0]["second"]) == (3, 2)


def test_the_lines_say_which_model_and_which_set():
    some = predictions(np.arange(50) % 5 > 0)
    found = compare(some, some, other="runs/b", step=2000, weights="ema")
    start = "against   runs/b, step 2,000 (ema weights), on test: top-1 80.00% "
    assert next(describe_against(found)).startswith(start)
    found = compare(some, some, other="runs/b", step=2000)
    assert next(describe_against(found)).startswith("against   runs/b, step 2,000, on test: top-1")


def test_a_note_says_that_few_images_differ():
    right = np.arange(50) < 25
    for differing, noted in ((0, False), (19, True), (20, False)):
        other = predictions(right ^ (np.arange(50) < differing))
        found = compare(predictions(right), other, other="b")
        lines = list(describe_against(found))
        assert any("few images differ" in line for line in lines) == noted


def test_models_without_a_common_image_are_not_compared():
    with pytest.raises(DataError, match=r"^made up: b and this run could read none of the"):
        compare(predictions([True]), predictions([True], np.array([7])), other="b")


def test_equal_models_do_not_differ():
    same = predictions(np.arange(50) % 5 > 0)
    found = compare(same, same, other="b")
    assert found["mcnemar"] == {"p": 1.0, "method": "mid-p"}
    assert found["difference"]["value"] == 0
    assert math.isnan(found["difference"]["low"]) and math.isnan(found["difference"]["high"])
    assert found["differing"] == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("a", "b"), "expected a model with the same 3 classes, got one with 2"),
        (("a", "c", "b"), "expected the same classes, got 'c' for class 1, 'b' here"),
    ],
)
def test_other_classes_are_refused_in_one_line(second, message):
    with pytest.raises(ConfigError, match=f"^--against: {re.escape(message)}"):
        check_classes(("a", "b", "c"), second)
    check_classes(("a", "b", "c"), ("a", "b", "c"))
