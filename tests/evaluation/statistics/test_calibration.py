"""Calibration errors agree with a sum over images; temperatures with a search over many."""

import math

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

from vit_jax.errors import ConfigError
from vit_jax.evaluation.statistics.calibration import (
    calibration_error_interval,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from vit_jax.evaluation.statistics.intervals import bca


def draw(count, temperature=2.0, num_classes=7):
    """Returns logits and labels; a model with these logits is too sure by the temperature."""
    rng = np.random.default_rng(count)
    logits = rng.normal(size=(count, num_classes)) * 2
    labels = np.array([rng.choice(num_classes, p=row) for row in softmax(logits, axis=1)])
    return (logits * temperature).astype(np.float32), labels


def top(logits, labels):
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def direct_error(confidence, correct, bins):
    """Returns the calibration error, by a loop over the bins with their bounds."""
    error = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if i == 0:
            inside |= confidence == 0
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            error += inside.sum() / len(confidence) * abs(gap)
    return error


@pytest.mark.parametrize("count", [1, 7, 359, 360])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_error_is_that_of_a_loop_over_the_bins(count, bins):
    confidence, correct = top(*draw(count))
    curve = reliability(confidence, correct, bins)
    expected = direct_error(confidence, correct, bins)
    assert expected_calibration_error(curve) == pytest.approx(expected, abs=1e-12)
    assert curve.counts.sum() == count and len(curve.edges) == bins + 1
    assert (np.isnan(curve.accuracy) == (curve.counts == 0)).all()


def test_a_confidence_on_an_edge_is_in_the_bin_below():
    confidence = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    curve = reliability(confidence, np.array([True, False, True, True, True]), bins=4)
    assert curve.counts.tolist() == [2, 1, 1, 1]
    np.testing.assert_allclose(curve.confidence, [0.125, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(curve.accuracy, [0.5, 1.0, 1.0, 1.0])


def test_an_error_of_no_images_or_of_nan_is_undefined():
    none = reliability(np.zeros(0), np.zeros(0, bool))
    assert math.isnan(expected_calibration_error(none))
    odd = reliability(np.array([0.5, math.nan]), np.array([True, False]))
    assert math.isnan(expected_calibration_error(odd)) and odd.counts.sum() == 2
    assert np.isnan(calibration_error_interval(np.array([0.5, math.nan]), np.ones(2, bool))).all()


def test_the_interval_of_the_error_is_that_of_all_three_sums_of_a_bin():
    confidence, correct = top(*draw(360))
    bins = np.ceil(confidence * 15).astype(int) - 1
    one_hot = np.eye(15)[bins]
    rows = np.concatenate([one_hot * confidence[:, None], one_hot * correct[:, None], one_hot], 1)

    def statistic(sums):
        sure, right, count = np.split(sums, 3, axis=-1)
        with np.errstate(invalid="ignore"):
            gaps = np.nan_to_num(np.abs(right / count - sure / count)) * count
        return gaps.sum(axis=-1) / count.sum(axis=-1)

    expected = bca(rows, statistic)
    assert calibration_error_interval(confidence, correct) == pytest.approx(tuple(expected))


def loss_at(temperature, logits, labels, loss):
    """Returns the mean loss at a temperature, by scikit-learn or a plain formula."""
    scaled = logits.astype(np.float64) / temperature
    if loss == "softmax":
        return log_loss(labels, softmax(scaled, axis=1), labels=range(logits.shape[1]))
    present = np.eye(logits.shape[1])[labels]
    each = -present * np.log(expit(scaled)) - (1 - present) * np.log(expit(-scaled))
    return each.sum(axis=1).mean() if loss == "sigmoid" else each.mean()


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "binary"])
@pytest.mark.parametrize("count", [7, 359])
def test_no_other_temperature_has_a_lower_loss(loss, count):
    logits, labels = draw(count)
    found = fit_temperature(logits, labels, loss)
    least = loss_at(found, logits, labels, loss)
    for other in np.geomspace(0.1, 20, 300):
        assert loss_at(other, logits, labels, loss) > least - 1e-12
    for factor in (0.99, 1.01):
        assert loss_at(found * factor, logits, labels, loss) > least


def test_the_temperature_of_a_model_that_is_too_sure_is_found():
    logits, labels = draw(20_000, temperature=2.5)
    assert fit_temperature(logits, labels, "softmax") == pytest.approx(2.5, rel=0.02)
    before = expected_calibration_error(reliability(*top(logits, labels)))
    after = expected_calibration_error(reliability(*top(logits / 2.5, labels)))
    assert before > 0.1 and after < 0.02


def test_the_temperature_does_not_depend_on_the_rows_held_at_once(monkeypatch):
    logits, labels = draw(359)
    whole = fit_temperature(logits, labels, "softmax")
    monkeypatch.setattr("vit_jax.evaluation.statistics.calibration.ROWS", 10)
    assert fit_temperature(logits, labels, "softmax") == pytest.approx(whole, rel=1e-9)


def test_a_temperature_without_a_minimum_is_undefined():
    logits = np.array([[3.0, 1.0], [0.0, 2.0]], np.float32)
    assert math.isnan(fit_temperature(logits, np.array([0, 1]), "softmax"))  # all are right
    assert math.isnan(fit_temperature(logits, np.array([1, 0]), "softmax"))  # all are wrong
    assert math.isnan(fit_temperature(logits * math.nan, np.array([0, 1]), "softmax"))


def test_an_unknown_loss_is_an_error():
    with pytest.raises(ConfigError, match="softmax"):
        fit_temperature(np.zeros((2, 2), np.float32), np.zeros(2, int), "softmx")
