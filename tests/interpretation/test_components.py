"""Principal components are those of the singular value decomposition; colours keep their order."""

import numpy as np
import pytest

from vit_jax.interpretation.components import component_colours, principal_components


def vectors(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(1, 0.1, d) + 3


@pytest.mark.parametrize(("n", "d"), [(50, 7), (5, 12)])
def test_components_are_those_of_the_decomposition(n, d):
    x = vectors(n, d)
    found = principal_components(x, 4)
    _, singular, right = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.shares, (singular**2 / (singular**2).sum())[:4], rtol=1e-10)
    cosines = (found.directions * right[:4]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-10)
    coordinates = found.project(x)
    np.testing.assert_allclose(coordinates.var(axis=0) * n, singular[:4] ** 2, rtol=1e-9)
    assert (np.abs(found.directions).max(axis=1) == found.directions.max(axis=1)).all()


def test_equal_vectors_have_no_component_and_no_nan():
    found = principal_components(np.full((3, 4), 2.0), 3)
    assert np.isfinite(found.directions).all() and not found.shares.any()
    assert not found.project(np.full((3, 4), 2.0)).any()


def test_colours_are_the_components_of_all_images_together():
    features = vectors(2 * 5 * 6, 8).reshape(2, 5, 6, 8)
    colours, components, shown = component_colours(features)
    assert shown.all() and colours.min() == 0 and colours.max() == 1
    coordinates = components.project(features)
    for k in range(3):
        order = np.argsort(coordinates[..., k], axis=None)
        assert (np.diff(colours[..., k].flat[order]) >= 0).all()
    inside = ((colours > 0) & (colours < 1)).mean()
    assert 0.9 < inside < 0.97


def test_the_foreground_is_the_side_of_the_centre_with_components_of_its_own():
    rng = np.random.default_rng(0)
    features = 0.1 * rng.normal(size=(1, 8, 8, 5))
    middle = np.zeros((1, 8, 8), bool)
    middle[:, 2:6, 2:6] = True
    features[middle] += [9, 0, 0, 0, 0]
    for sign in (1, -1):
        colours, components, shown = component_colours(sign * features, foreground=True)
        np.testing.assert_array_equal(shown, middle)
        assert not colours[~middle].any() and colours[middle].any()
        expected = principal_components(sign * features[middle], 3)
        np.testing.assert_array_equal(components.directions, expected.directions)


def test_one_dimension_gives_one_colour():
    colours, _, _ = component_colours(vectors(12, 1).reshape(1, 3, 4, 1))
    assert colours[..., 0].max() == 1 and not colours[..., 1:].any()


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 4, 4, 3)])
def test_equal_patches_are_all_in_the_foreground(shape):
    colours, _, shown = component_colours(np.full(shape, 0.3, np.float32), foreground=True)
    assert shown.all() and np.isfinite(colours).all()
