"""Each figure of an analysis equals an independent computation."""

import math

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as sklearn_metrics

from vit_jax.evaluation.analysis import analyse
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.scores import ROWS, score
from vit_jax.evaluation.statistics.intervals import wilson

K = 7


def predictions(count=359, loss="softmax", seed=0, name="test", **changes):
    """Returns predictions of a fair model: class 5 has no image, class 6 is never predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 4, 6], size=count)
    logits = rng.normal(size=(count, K)).astype(np.float32)
    logits[np.arange(count), labels] += 1.5
    logits[:, 6] -= 20
    found = Predictions(
        name=name,
        title=f"made up:{name}",
        ids=tuple(f"{name}[{i}]" for i in range(0, 2 * count, 2)),
        indices=np.arange(0, 2 * count, 2),
        labels=labels,
        logits=logits,
        features=rng.normal(size=(count, 3)).astype(np.float32),
        class_names=tuple("abcdefg"),
        loss=loss,
        skipped=count,
    )
    return found._replace(**changes)


@pytest.fixture(scope="module")
def found():
    given = predictions()
    return given, analyse(given, weights="ema", step=3, fingerprint={"name": "x", "classes": []})


def test_metrics_equal_those_of_scikit_learn(found):
    given, document = found
    predicted, logits = given.logits.argmax(1), given.logits.astype(np.float64)
    value = {key: metric["value"] for key, metric in document["metrics"].items()}
    assert value["top1"] == sklearn_metrics.accuracy_score(given.labels, predicted)
    assert value["top5"] == sklearn_metrics.top_k_accuracy_score(
        given.labels, logits, k=5, labels=range(K)
    )
    assert 0.4 < value["top1"] < value["top5"] < 1
    for key, method in (("top1", "wilson"), ("loss", "bca"), ("ece", "bca")):
        metric = document["metrics"][key]
        assert metric["method"] == method and metric["low"] < metric["value"] < metric["high"]
    assert document["metrics"]["top5"]["low"] == wilson(round(359 * value["top5"]), 359).low
    recalls = sklearn_metrics.recall_score(
        given.labels, predicted, labels=[0, 1, 2, 3, 4, 6], average="macro"
    )
    assert value["balanced_accuracy"] == pytest.approx(recalls, abs=1e-12)
    expected = sklearn_metrics.log_loss(given.labels, softmax(logits, axis=1), labels=range(K))
    assert value["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_calibration_error_equals_a_plain_loop(found):
    given, document = found
    probabilities = softmax(given.logits.astype(np.float64), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == given.labels
    error, curve = 0.0, document["reliability"]
    for i in range(15):
        of_bin = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        assert curve["counts"][i] == of_bin.sum()
        if of_bin.any():
            assert curve["accuracy"][i] == pytest.approx(right[of_bin].mean())
            assert curve["confidence"][i] == pytest.approx(confidence[of_bin].mean(), rel=1e-6)
            error += of_bin.mean() * abs(right[of_bin].mean() - confidence[of_bin].mean())
    assert document["metrics"]["ece"]["value"] == pytest.approx(error, abs=1e-6)


def test_classes_and_confusion_equal_those_of_scikit_learn(found):
    given, document = found
    predicted = given.logits.argmax(1)
    matrix = sklearn_metrics.confusion_matrix(given.labels, predicted, labels=range(K))
    sparse = np.zeros((K, K), int)
    for label, other, count in document["confusion"]:
        sparse[label, other] = count
        assert count > 0
    np.testing.assert_array_equal(sparse, matrix)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        given.labels, predicted, labels=range(K), zero_division=np.nan
    )
    rows = document["classes"]
    assert [row["name"] for row in rows] == list("abcdefg")
    assert [row["count"] for row in rows] == support.tolist()
    np.testing.assert_allclose([row["precision"] for row in rows], precision)
    np.testing.assert_allclose([row["recall"] for row in rows], recall)
    np.testing.assert_allclose([row["f1"] for row in rows], f1)
    assert math.isnan(rows[5]["recall"]) and math.isnan(rows[5]["low"])
    assert math.isnan(rows[6]["precision"]) and rows[6]["recall"] == 0
    assert rows[0]["high"] == wilson(int(matrix[0, 0]), int(support[0])).high
    most = document["confused_pairs"][0]
    wrong = matrix - np.diag(np.diag(matrix))
    assert most["count"] == wrong.max() == wrong[most["label"], most["predicted"]]
    assert most["share"] == most["count"] / support[most["label"]]


def test_lists_name_the_worst_and_the_least_certain_images(found):
    given, document = found
    probabilities = softmax(given.logits.astype(np.float64), axis=1)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = [i for i in range(359) if predicted[i] != given.labels[i]]
    worst = sorted(wrong, key=lambda i: -confidence[i])[:20]
    assert [row["index"] for row in document["mistakes"]] == [2 * i for i in worst]
    first, i = document["mistakes"][0], worst[0]
    assert first["id"] == given.ids[i]
    assert (first["label"], first["predicted"]) == (given.labels[i], predicted[i])
    assert first["probability"] == pytest.approx(confidence[i], rel=1e-6)
    assert first["label_probability"] == pytest.approx(probabilities[i, given.labels[i]], rel=1e-5)
    ordered = np.sort(probabilities, axis=1)
    nearest = np.argsort(ordered[:, -1] - ordered[:, -2])[:20]
    assert [row["index"] for row in document["uncertain"]] == (2 * nearest).tolist()


def test_the_document_names_what_was_evaluated(found):
    _, document = found
    assert (document["set"], document["title"]) == ("test", "made up:test")
    assert (document["weights"], document["step"]) == ("ema", 3)
    assert (document["count"], document["skipped"], document["not_finite"]) == (359, 359, 0)
    assert document["fingerprint"] == {"name": "x"}
    assert document["temperature"] is None


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "binary"])
def test_the_temperature_is_that_of_other_images(loss):
    validation = predictions(200, loss, seed=1, name="val")
    validation = validation._replace(logits=3 * validation.logits)
    given = predictions(loss=loss)
    given = given._replace(logits=3 * given.logits)
    document = analyse(given, validation=validation)
    found = document["temperature"]
    assert (found["fitted_on"], found["count"]) == ("val", 200)
    assert found["value"] > 1.5

    def loss_at(temperature, of):
        logits = of.logits.astype(np.float64) / temperature
        one_hot = np.eye(K)[of.labels]
        if loss == "softmax":
            return -(log_softmax(logits, axis=1) * one_hot).sum(1).mean()
        each = -one_hot * np.log(expit(logits)) - (1 - one_hot) * np.log(expit(-logits))
        return each.sum(1).mean() if loss == "sigmoid" else each.mean()

    best = loss_at(found["value"], validation)
    assert best < loss_at(0.999 * found["value"], validation)
    assert best < loss_at(1.001 * found["value"], validation)
    assert found["loss"]["value"] == pytest.approx(loss_at(found["value"], given), rel=1e-6)
    assert document["metrics"]["loss"]["value"] == pytest.approx(loss_at(1, given), rel=1e-6)
    assert sum(found["reliability"]["counts"]) == 359


def test_there_is_no_temperature_if_none_is_best():
    validation = predictions(30, name="val")
    perfect = np.eye(K, dtype=np.float32)[validation.labels]
    document = analyse(predictions(), validation=validation._replace(logits=perfect))
    assert document["temperature"] is None


def test_outputs_that_are_not_finite_are_wrong_and_nothing_else():
    given = predictions()
    logits = given.logits.copy()
    logits[3], logits[11, given.labels[11]] = np.nan, np.inf
    document = analyse(given._replace(logits=logits), validation=given._replace(logits=logits))
    right = given.logits.argmax(1) == given.labels
    right[[3, 11]] = False
    assert document["not_finite"] == 2
    assert document["metrics"]["top1"]["value"] == right.mean()
    assert math.isnan(document["metrics"]["loss"]["value"])
    assert document["metrics"]["ece"]["value"] > 0
    assert sum(document["reliability"]["counts"]) == 357
    assert sum(count for *_, count in document["confusion"]) == 357
    assert sum(row["count"] for row in document["classes"]) == 359
    recalls = [right[given.labels == k].mean() for k in (0, 1, 2, 3, 4, 6)]
    assert document["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    assert not {6, 22} & {row["index"] for row in document["mistakes"] + document["uncertain"]}
    assert document["temperature"]["count"] == 357


def test_a_model_that_is_broken_has_an_analysis():
    given = predictions(5)
    document = analyse(given._replace(logits=np.full_like(given.logits, np.nan)))
    assert document["metrics"]["top1"]["value"] == 0 and document["mistakes"] == []
    assert document["confusion"] == [] and math.isnan(document["metrics"]["ece"]["value"])


def test_one_image_and_two_classes_have_an_analysis():
    given = predictions(1, labels=np.array([1]), logits=np.float32([[0, 1]]))
    document = analyse(given._replace(class_names=("a", "b")))
    assert document["metrics"]["top5"]["value"] == document["metrics"]["top1"]["value"] == 1


def test_one_of_several_correct_classes_is_right():
    given = predictions()
    also = np.zeros((359, K), bool)
    also[:, 0] = True
    document = analyse(given._replace(also_correct=also))
    predicted = given.logits.argmax(1)
    right = (predicted == given.labels) | (predicted == 0)
    assert document["metrics"]["top1"]["value"] == right.mean()
    first = np.argsort(-given.logits, axis=1)[:, :5]
    near = (first == given.labels[:, None]).any(1) | (first == 0).any(1)
    assert document["metrics"]["top5"]["value"] == near.mean()
    assert math.isnan(document["metrics"]["loss"]["value"])
    assert sum(count for label, other, count in document["confusion"] if label == other) == (
        right.sum()
    )
    assert len(document["mistakes"]) == 20
    assert all(row["predicted"] != 0 for row in document["mistakes"])
    probabilities = softmax(given.logits.astype(np.float64), axis=1)
    rows = document["uncertain"] + document["mistakes"]
    assert any(row["label"] != given.labels[row["index"] // 2] for row in rows)
    for row in rows:
        expected = probabilities[row["index"] // 2, row["label"]]
        assert row["label_probability"] == pytest.approx(expected, rel=1e-5)


def test_images_are_scored_in_parts():
    given = predictions(ROWS + 3)
    found = score(given)
    np.testing.assert_array_equal(found.predicted, given.logits.argmax(1))
    expected = -log_softmax(given.logits, axis=1)[np.arange(ROWS + 3), given.labels]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
