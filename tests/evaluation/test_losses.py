"""Losses against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.evaluation import losses

LOGITS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
LABELS = np.array([0, 3, 2, 2, 1], np.int32)


def test_softmax_is_the_negative_log_probability():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(5), LABELS])
    targets = losses.targets(jnp.asarray(LABELS), 4)
    np.testing.assert_allclose(losses.softmax(jnp.asarray(LOGITS), targets), expected, rtol=1e-6)


def test_sigmoid_is_the_sum_of_binary_cross_entropies():
    p = 1 / (1 + np.exp(-LOGITS))
    one_hot = np.eye(4)[LABELS]
    expected = -(one_hot * np.log(p) + (1 - one_hot) * np.log(1 - p)).sum(1)
    targets = losses.targets(jnp.asarray(LABELS), 4)
    np.testing.assert_allclose(losses.sigmoid(jnp.asarray(LOGITS), targets), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothed_targets_sum_to_one_and_keep_the_label(smoothing):
    targets = np.asarray(losses.targets(jnp.asarray(LABELS), 4, smoothing))
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        targets[0], np.eye(4)[0] * (1 - smoothing) + smoothing / 4, rtol=1e-6
    )


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_the_right_class_has_the_lowest_loss(name):
    targets = losses.targets(jnp.arange(4), 4)
    right = losses.LOSSES[name](10 * targets, targets)
    wrong = losses.LOSSES[name](10 * jnp.roll(targets, 1, axis=1), targets)
    assert right.shape == (4,)
    assert (right < wrong).all()
