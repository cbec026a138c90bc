"""Classification metrics count each example once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.evaluation import classification
from vit_jax.evaluation.classification import Classification
from vit_jax.evaluation.statistics.intervals import wilson

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(12, 7)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(7, size=12), jnp.int32)
LOSSES = jnp.asarray(RNG.normal(size=12), jnp.float32)


def sums(rows, mask=None):
    mask = jnp.ones(len(LABELS[rows]), bool) if mask is None else mask
    return classification.sums(LOGITS[rows], LABELS[rows], LOSSES[rows], mask)


def test_sums_over_parts_add_up_to_the_sums_over_the_whole():
    parts = [sums(slice(0, 5)), sums(slice(5, 12))]
    chex.assert_trees_all_close(jax.tree.map(jnp.add, *parts), sums(slice(None)), rtol=1e-6)


def test_masked_examples_do_not_count():
    mask = jnp.arange(12) < 5
    chex.assert_trees_all_close(sums(slice(None), mask), sums(slice(0, 5)), rtol=1e-6)


def test_a_masked_example_that_is_not_finite_does_not_count():
    bad = LOSSES.at[7].set(jnp.nan)
    total = classification.sums(LOGITS, LABELS, bad, jnp.arange(12) < 5)
    assert jnp.isfinite(total["loss"])


def test_top5_of_few_classes_is_everything():
    total = classification.sums(LOGITS[:, :3], LABELS % 3, LOSSES, jnp.ones(12, bool))
    assert int(total["top5"]) == 12


def test_means_divide_once_at_the_end(tiny_config):
    config = tiny_config()
    evaluator = Classification(models.create(**config.model), config)
    assert evaluator.means({"top1": 3, "top5": 9, "loss": 6.0, "count": 12}) == {
        "top1": 0.25,
        "top5": 0.75,
        "loss": 0.5,
        "count": 12,
    }
    assert jax.tree.structure(evaluator.zeros()) == jax.tree.structure(sums(slice(0, 1)))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_logits_that_are_not_finite_count_as_wrong(bad):
    mask = jnp.ones(12, bool)
    logits = LOGITS.at[3].set(bad).at[5, 0].set(bad)
    total = classification.sums(logits, LABELS, LOSSES, mask)
    good = jnp.delete(jnp.arange(12), jnp.array([3, 5]))
    expected = classification.sums(LOGITS[good], LABELS[good], LOSSES[good], mask[:10])
    assert (total["top1"], total["top5"]) == (expected["top1"], expected["top5"])
    assert total["count"] == 12


def test_the_intervals_of_a_result_are_those_of_its_counts(tiny_config):
    config = tiny_config()
    evaluator = Classification(models.create(**config.model), config)
    result = {"top1": 358 / 360, "top5": 1.0, "loss": 0.02, "count": 360}
    intervals = evaluator.intervals(result)
    assert intervals == {"top1": wilson(358, 360), "top5": wilson(360, 360)}
    assert evaluator.format(result) == "top-1 99.44% [98.0, 99.8]  top-5 100.00%  loss 0.0200"
