"""Linear probes are those of scikit-learn, and choose their penalty without the test images."""

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from vit_jax.errors import DataError, InputMissingError
from vit_jax.evaluation.probes import (
    PROBES,
    Labelled,
    Task,
    logistic_regression,
    ridge_regression,
    scaling,
)
from vit_jax.evaluation.probes.choosing import choose
from vit_jax.evaluation.probes.shots import PENALTY, draw

CENTRES = np.random.default_rng(0).normal(size=(6, 17))


def labelled(count, noise=1.5):
    """Returns images of classes 0, 1, 2, 4 and 5, whose features are far from standardized."""
    rng = np.random.default_rng(count)
    labels = rng.choice([0, 1, 2, 4, 5], count)
    features = CENTRES[labels] + noise * rng.normal(size=(count, 17))
    features = features * np.geomspace(0.01, 100, 17) + np.linspace(-30, 30, 17)
    features[:, 3] = 0.1  # does not vary
    return Labelled(features.astype(np.float32), labels)


@pytest.fixture
def task():
    return Task(labelled(157), None, labelled(91), 6)


@pytest.fixture
def small_chunks(monkeypatch):
    """Makes chunks of 11 rows, which divide nothing here."""

    def chunks(count):
        return (slice(i, min(i + 11, count)) for i in range(0, count, 11))

    for module in (ridge_regression, scaling):
        monkeypatch.setattr(module, "chunks", chunks)


def test_standardization_is_that_of_scikit_learn(small_chunks):
    features = labelled(157).features
    ours = scaling.standardization(features)(features)
    theirs = StandardScaler().fit_transform(features.astype(np.float64))
    np.testing.assert_allclose(np.delete(ours, 3, 1), np.delete(theirs, 3, 1), atol=1e-11)
    assert np.abs(ours[:, 3]).max() < 1e-6


@pytest.mark.parametrize("count", [157, 12])  # more and fewer images than features
@pytest.mark.parametrize("penalty", [0.01, 3.0, 1024.0])
def test_ridge_is_that_of_scikit_learn(small_chunks, count, penalty):
    train, test = labelled(count), labelled(91)
    fitted = ridge_regression.fit_ridge(train, 6)
    x = fitted.scale(train.features)
    theirs = Ridge(alpha=penalty).fit(x, np.eye(6)[train.labels])
    weights = fitted.vectors @ (fitted.targets / (fitted.eigenvalues[:, None] + penalty))
    np.testing.assert_allclose(weights.T, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(fitted.bias, theirs.intercept_, atol=1e-9)
    scores = theirs.predict(fitted.scale(test.features))
    np.testing.assert_array_equal(fitted.predict(test.features, penalty), scores.argmax(axis=1))


def test_logistic_is_at_the_minimum_of_its_loss():
    train = labelled(157)
    for penalty in (0.1, 10.0):
        fitted = logistic_regression.fit_logistic(train, penalty)
        x = fitted.scale(train.features)
        weights, bias = fitted.model.coef_, fitted.model.intercept_
        scores = x @ weights.T + bias
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        errors = shares - np.equal(train.labels[:, None], [0, 1, 2, 4, 5])
        assert np.abs(errors.T @ x + penalty * weights).max() / 157 < 1e-4
        assert np.abs(errors.sum(axis=0)).max() / 157 < 1e-4
        assert fitted.converged
        reference = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000)
        reference.fit(x, train.labels)
        test = labelled(91)
        expected = reference.predict(fitted.scale(test.features))
        np.testing.assert_array_equal(fitted.predict(test.features), expected)


def test_of_equally_good_penalties_the_largest_is_chosen():
    labels = np.arange(10)
    right = {1.0: 7, 2.0: 9, 3.0: 9, 4.0: 8}
    choice = choose(
        tuple(right), lambda penalty: np.where(labels < right[penalty], labels, -1), labels
    )
    assert choice == (3.0, 0.9, False)
    assert choose((1.0, 2.0), lambda penalty: labels, labels) == (2.0, 1.0, True)


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_the_penalty_is_chosen_without_the_test_images(name, monkeypatch):
    monkeypatch.setattr(logistic_regression, "PENALTIES", (0.1, 1.0, 10.0, 100.0))
    fit = {
        "ridge": lambda part, penalty: Ridge(alpha=penalty).fit(part[0], np.eye(6)[part[1]]),
        "logistic": lambda part, penalty: LogisticRegression(
            C=1 / penalty, tol=1e-8, max_iter=10_000
        ).fit(*part),
    }[name]
    penalties = {"ridge": ridge_regression, "logistic": logistic_regression}[name].PENALTIES

    def predict(train, test, penalty):
        scale = StandardScaler().fit(train.features.astype(np.float64))
        fitted = fit((scale.transform(train.features), train.labels), penalty)
        predicted = fitted.predict(scale.transform(test.features))
        return predicted.argmax(axis=1) if name == "ridge" else predicted

    task = Task(labelled(60), None, labelled(191), 6)
    fitted, measured = task.choosing
    right = {
        penalty: (predict(fitted, measured, penalty) == measured.labels).mean()
        for penalty in penalties
    }
    best = max(p for p in penalties if right[p] == max(right.values()))
    result = PROBES[name].measure(task)
    assert (result["penalty"], result["choosing_top1"]) == (best, right[best])
    assert result["at_limit"] == (best in (penalties[0], penalties[-1]))
    expected = predict(task.train, task.test, best) == task.test.labels
    assert result["top1"]["value"] == expected.mean() and result["count"] == 191
    others = predict(fitted, task.test, best) == task.test.labels  # without those that chose
    assert 0.4 < others.mean() < expected.mean() < 1


def test_few_shots_are_drawn_from_each_class_and_stay_with_more(task):
    labels = task.train.labels
    few, more = draw(labels, 3, 1), draw(labels, 25, 1)
    assert np.bincount(labels[few]).tolist() == [3, 3, 3, 0, 3, 3]
    assert set(few) < set(more)
    assert np.bincount(labels[more]).tolist() == np.minimum(np.bincount(labels), 25).tolist()
    assert set(few) != set(draw(labels, 3, 2))


def test_few_shot_is_ridge_regression_of_each_draw(task):
    labels = task.train.labels
    result = PROBES["few_shot"].measure(task)
    for shots in (1, 5, 10, 25):
        expected = []
        for seed in range(5):
            drawn = task.train.take(draw(labels, shots, seed))
            scale = StandardScaler().fit(drawn.features.astype(np.float64))
            x = scale.transform(drawn.features)
            fitted = Ridge(alpha=PENALTY).fit(x, np.eye(6)[drawn.labels])
            predicted = fitted.predict(scale.transform(task.test.features)).argmax(axis=1)
            expected.append((predicted == task.test.labels).mean())
        found = result["shots"][str(shots)]
        assert found["top1"] == expected
        assert (found["min"], found["max"]) == (min(expected), max(expected))
        assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-12)
        assert found["images"] == len(drawn.labels)
        assert found["small_classes"] == (np.unique(labels, return_counts=True)[1] < shots).sum()


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_repeats_to_the_bit(name):
    parts = labelled(60), labelled(30), labelled(31)
    assert PROBES[name].measure(Task(*parts, 6)) == PROBES[name].measure(Task(*parts, 6))


def test_a_val_split_chooses_and_all_of_train_is_fitted():
    train, val, test = labelled(40), labelled(20), labelled(9)
    task = Task(train, val, test, 6)
    assert task.choosing.fitted is train and task.choosing.measured is val
    task = Task(train, None, test, 6)
    for label in np.unique(train.labels):
        rows = np.flatnonzero(train.labels == label)
        expected = np.delete(rows, np.s_[3::4]), rows[3::4]
        for part, indices in zip(task.choosing, expected, strict=True):
            chosen = part.features[part.labels == label]
            np.testing.assert_array_equal(chosen, train.features[indices])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"val": labelled(0)}, "val: expected images with features, g"),
        ({"test": Labelled(np.ones((3, 5)), np.arange(3))}, "test: expected 17 features, as train"),
        (
            {"test": Labelled(np.ones((3, 17)), np.full(3, 6))},
            "test: expected labels from 0 to 5",
        ),
        (
            {"val": Labelled(np.full((3, 17), np.nan), np.arange(3))},
            "val: the features of 3",
        ),
        (
            {"train": Labelled(np.ones((9, 17)), np.full(9, 2))},
            "train: expected images of at least",
        ),
    ],
)
def test_a_task_says_what_is_wrong(changes, words):
    parts = {"train": labelled(40), "val": labelled(20), "test": labelled(9), **changes}
    with pytest.raises(DataError, match=f"^{words}"):
        Task(**parts, num_classes=6)


def test_too_few_images_to_set_some_apart_do_for_the_probes_without_a_penalty():
    few = Labelled(labelled(3).features, np.array([0, 4, 4]))
    task = Task(few, None, labelled(9), 6)
    for name in ("ridge", "logistic"):
        with pytest.raises(DataError, match=r"^train: no class has 4 images, of which one could"):
            PROBES[name].measure(task)
    for name in ("knn", "weighted_knn", "few_shot"):
        assert PROBES[name].measure(task)["count"] == 9


def test_logistic_names_the_extra(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputMissingError, match=r"pip install 'vit_jax\[analysis\]'"):
        PROBES["logistic"].measure(task)
