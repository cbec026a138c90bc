"""Neighbours and their votes equal brute force for every image, equal distances too."""

import collections

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vit_jax.evaluation.probes import Labelled, Settings, Task, neighbours, scaling, votes
from vit_jax.evaluation.probes.neighbours import find_neighbours, largest
from vit_jax.evaluation.statistics.intervals import wilson


def labelled(count, width=13, classes=7):
    """Returns features of which many point in the same direction, and some are zero."""
    rng = np.random.default_rng(count)
    features = rng.integers(-1, 2, (count, width)) * rng.choice([0.5, 1.0, 3.0], (count, 1))
    features[::9] = 0
    features = np.concatenate([features[: count // 2], features[: count - count // 2]])
    return Labelled(features.astype(np.float32), rng.integers(classes, size=count))


@pytest.fixture
def small_chunks(monkeypatch):
    """Makes chunks of sizes that divide nothing here."""

    def chunks(count, rows=11):
        rows = 5 if rows == neighbours.ROWS else rows
        return (slice(i, min(i + rows, count)) for i in range(0, count, rows))

    for module in (neighbours, votes):
        monkeypatch.setattr(module, "chunks", chunks)


def brute_force(train, test, k):
    """Returns the indices of the neighbours of each image, one image at a time."""
    known, images = scaling.unit_vectors(train.features), scaling.unit_vectors(test.features)
    found = []
    for image in images:
        similarity = [sum(a * b for a, b in zip(image, other, strict=True)) for other in known]
        ranked = sorted(range(len(known)), key=lambda i: (-similarity[i], i))
        found.append([(i, similarity[i]) for i in ranked[:k]])
    return found


@pytest.mark.parametrize(("k", "count"), [(1, 97), (6, 97), (20, 97), (20, 17)])
def test_neighbours_equal_brute_force_with_equal_distances(small_chunks, k, count):
    train, test = labelled(count)._replace(labels=np.arange(count)), labelled(53)
    found = find_neighbours(train, test.features, k)
    expected = brute_force(train, test, k)
    assert found.labels.shape == (53, min(k, count))
    np.testing.assert_array_equal(found.labels, [[i for i, _ in row] for row in expected])
    np.testing.assert_array_equal(found.similarity, [[s for _, s in row] for row in expected])
    assert k == 1 or (np.diff(found.similarity) == 0).any()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_votes_equal_brute_force_for_every_image(small_chunks, k):
    train, test = labelled(97), labelled(53)
    task = Task(train, None, test, 7, Settings(neighbours=k))
    plain, weighted = [], []
    for row in brute_force(train, test, k):
        labels = [int(train.labels[i]) for i, _ in row]
        counts = collections.Counter(labels)
        plain.append(min(counts, key=lambda label: (-counts[label], label)))
        sums = collections.defaultdict(float)
        for label, (_, similarity) in zip(labels, row, strict=True):
            sums[label] += np.exp(similarity / 0.07)
        weighted.append(min(sums, key=lambda label: (-sums[label], label)))
    found = task.neighbours
    ones = np.ones_like(found.similarity)
    np.testing.assert_array_equal(votes.vote(found.labels, ones, 7), plain)
    weights = np.exp(found.similarity / 0.07)
    np.testing.assert_array_equal(votes.vote(found.labels, weights, 7), weighted)
    for probe, predicted in ((votes.knn, plain), (votes.weighted_knn, weighted)):
        result = probe(task)
        correct = int((np.array(predicted) == test.labels).sum())
        low, high = wilson(correct, 53)
        top1 = {"value": correct / 53, "low": low, "high": high, "method": "wilson"}
        assert (result["top1"], result["count"], result["neighbours"]) == (top1, 53, k)


def test_the_plain_vote_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(301, 24)).astype(np.float32)
    train = Labelled(features[:200], rng.integers(5, size=200))
    test = Labelled(features[200:], rng.integers(5, size=101))
    theirs = KNeighborsClassifier(20, metric="cosine").fit(*train).predict(test.features)
    found = find_neighbours(train, test.features, 20)
    np.testing.assert_array_equal(votes.vote(found.labels, np.ones((101, 20)), 5), theirs)


def test_of_equal_values_the_first_are_the_largest():
    rng = np.random.default_rng(0)
    values = rng.integers(4, size=(50, 30)).astype(float)
    values[0] = -np.inf
    expected = np.argsort(-values, axis=1, kind="stable")
    for k in (1, 7, 30):
        np.testing.assert_array_equal(largest(values, k), expected[:, :k])


def test_similarities_are_exact_in_any_order_of_summation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 500)).astype(np.float32)
    a, b = np.split(scaling.unit_vectors(features), 2)
    orders = [rng.permutation(500) for _ in range(5)]
    products = [a[:, order] @ b[:, order].T for order in orders]
    for other in [*products, np.einsum("id,jd->ij", a, b)]:
        np.testing.assert_array_equal(other, products[0])
    assert np.abs(np.square(a).sum(axis=1) - 1).max() < 1e-6
