"""ImageNet-C's errors are averaged as its paper says, and its sets are those of TFDS."""

import ast
import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vit_jax.data.sources.registry import split_location
from vit_jax.evaluation.label_sets.corruptions import (
    ALEXNET_ERRORS,
    EXTRA,
    SEVERITIES,
    corrupted_sets,
    summarize_corruptions,
)

NAMES = (*ALEXNET_ERRORS, *EXTRA)
ERRORS = np.random.default_rng(0).uniform(size=(19, 5))


def results(names=NAMES, severities=SEVERITIES):
    return {
        f"{name}_{severity}": {"top1": 1 - ERRORS[NAMES.index(name), severity - 1], "loss": 1.0}
        for name, severity in itertools.product(names, severities)
    }


def test_the_means_are_over_the_15_corruptions_of_the_benchmark():
    summary = summarize_corruptions({"val": {"top1": 0.0}, **results()})
    assert (summary["sets"], len(summary["by_corruption"])) == (95, 19)
    expected = ERRORS[:15].mean(axis=0)
    assert list(summary["by_severity"]) == ["1", "2", "3", "4", "5"]
    np.testing.assert_allclose(list(summary["by_severity"].values()), expected, atol=1e-12)
    np.testing.assert_allclose(
        list(summary["by_corruption"].values()), ERRORS.mean(axis=1), atol=1e-12
    )
    assert summary["mean_error"] == pytest.approx(ERRORS[:15].mean())
    of_alexnet = np.array(list(ALEXNET_ERRORS.values()))
    assert summary["mce"] == pytest.approx(np.mean(ERRORS[:15].mean(axis=1) / of_alexnet))


def test_alexnet_has_an_mce_of_1():
    of_alexnet = {
        f"{name}_{severity}": {"top1": 1 - error}
        for name, error in ALEXNET_ERRORS.items()
        for severity in SEVERITIES
    }
    assert summarize_corruptions(of_alexnet)["mce"] == pytest.approx(1)


def test_there_is_no_mce_unless_all_sets_are_there():
    assert summarize_corruptions({"val": {"top1": 0.5}}) == {}
    some = summarize_corruptions(results(("snow", "fog"), (2, 5)))
    assert (some["mce"], some["sets"], list(some["by_severity"])) == (None, 4, ["2", "5"])
    assert some["mean_error"] == pytest.approx(ERRORS[[7, 9]][:, [1, 4]].mean())
    whole = results(tuple(ALEXNET_ERRORS))
    del whole["fog_3"]
    assert summarize_corruptions(whole)["mce"] is None


def test_sets_of_one_corruption_and_severity_are_averaged():
    found = summarize_corruptions(
        {
            "snow_3": {"top1": 0.9},
            "/data/imagenet-c/snow/3:val": {"top1": 0.5},
            "fog_3": {"mse": 0.1},
        }
    )
    assert found["by_corruption"] == {"snow": pytest.approx(0.3)}
    assert found["sets"] == 2


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("snow_3", True),
        ("imagenet2012_corrupted/snow_3:validation[:100]", True),
        ("/data/imagenet-c/snow/3:train+val", True),
        ("snow_6", False),
        ("snow", False),
        ("my_snow_3", False),
        ("snow_3_raw", False),
    ],
)
def test_a_set_is_known_by_its_name_or_its_location(name, known):
    expected = {"snow": 0.25} if known else None
    assert summarize_corruptions({name: {"top1": 0.75}}).get("by_corruption") == expected


def test_the_sets_are_those_of_tfds():
    folder = tfds.core.tfds_path("datasets/imagenet2012_corrupted")
    source = (folder / "imagenet2012_corrupted_dataset_builder.py").read_text()
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and node.targets[0].id.endswith("_CORRUPTIONS")
    }
    assert list(ALEXNET_ERRORS) == lists["BENCHMARK_CORRUPTIONS"]
    assert list(EXTRA) == lists["EXTRA_CORRUPTIONS"]
    sets = corrupted_sets()
    assert len(dict(sets)) == 75
    name, where = sets[0]
    assert name == "gaussian_noise_1"
    assert split_location(where) == (f"imagenet2012_corrupted/{name}", "validation")
