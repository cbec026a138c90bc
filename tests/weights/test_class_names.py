"""Class names are made unique."""

import pytest

from vit_jax.weights.class_names import make_unique


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        ([], ()),
        (["a", "b"], ("a", "b")),
        (["a", "crane", "b", "crane"], ("a", "crane (1)", "b", "crane (3)")),
        (["", ""], (" (0)", " (1)")),
        (["x", "x", "x (0)"], ("x (0) (0)", "x (1)", "x (0)")),
        (["x (2)", "x", "x"], ("x (2)", "x (1)", "x (2) (2)")),
        (["x", "x (0)", "x", "x (0)"], ("x (0) (0)", "x (0) (1)", "x (2)", "x (0) (3)")),
    ],
)
def test_every_class_has_a_name_of_its_own(names, apart):
    assert make_unique(names) == apart
    assert len(set(apart)) == len(names)
    assert make_unique(apart) == apart
