"""Which images a command reads, by the names that its flags give."""

import pytest

from vit_jax.errors import ConfigError
from vit_jax.evaluation.requests import resolve_all, splits_read


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test", {("synthetic", "", "test")}),
        ("val", {("synthetic", "", "test")}),
        ("train[:13]", {("synthetic", "", "train")}),
        ("train[:10%]+test[5:]", {("synthetic", "", "train"), ("synthetic", "", "test")}),
        ("other", {("digits", "", "train")}),
        ("/photos:val", {("", "/photos", "val")}),
        ("mnist:3.0.1:test[:9]", {("mnist:3.0.1", "", "test")}),
    ],
)
def test_sets_that_share_images_read_the_same_split(tiny_config, name, expected):
    sets = "('other','digits:train[:50]'),"
    config = tiny_config({"data.val_split": "test[:9]", "eval.sets": sets})
    assert splits_read(config, name) == expected


@pytest.mark.parametrize("splits", ["test,test", "test,", ",val"])
def test_a_list_of_sets_has_different_names(splits):
    with pytest.raises(ConfigError, match=f"^--split: expected different names .*'{splits}'"):
        resolve_all("runs/digits", splits, {})
