"""Parameters are adapted to other grids, patches, channels and classes, or refused."""

import numpy as np
import pytest

from vit_jax.errors import ConfigError
from vit_jax.weights import adapt

PARAMS = {
    "posemb/grid": np.zeros((4, 6, 8)),
    "norm/scale": np.ones(8),
    "representation/kernel": np.zeros((8, 5)),
    "representation/bias": np.zeros(5),
    "head/kernel": np.zeros((5, 3)),
    "head/bias": np.zeros(3),
}
SHAPES = {name: value.shape for name, value in PARAMS.items()}


def resize(name, table, shape):
    assert table is PARAMS[name]
    return np.full(shape, 7.0)


def test_a_grid_of_the_same_size_stays():
    assert adapt.resize_tables(PARAMS, SHAPES, resize) == (PARAMS, ())


def test_a_grid_of_another_size_is_resampled_and_said():
    params, notes = adapt.resize_tables(PARAMS, {**SHAPES, "posemb/grid": (2, 3, 8)}, resize)
    assert notes == ("posemb/grid resampled from 4x6 to 2x3",)
    assert params["posemb/grid"].shape == (2, 3, 8) and (params["posemb/grid"] == 7).all()
    assert PARAMS["posemb/grid"].shape == (4, 6, 8)


def test_heads_of_the_model_stay():
    assert adapt.replace_heads(PARAMS, SHAPES) == (PARAMS, ())


def test_a_head_for_other_classes_is_new():
    shapes = {**SHAPES, "head/kernel": (5, 10), "head/bias": (10,)}
    params, notes = adapt.replace_heads(PARAMS, shapes)
    assert notes == ("head new (10 outputs)",)
    assert params.keys() == PARAMS.keys() - {"head/kernel", "head/bias"}


def test_a_head_for_as_many_other_classes_is_new():
    params, notes = adapt.replace_heads(PARAMS, SHAPES, other_classes=True)
    assert notes == ("head new (3 outputs, for other classes)",)
    assert params.keys() == PARAMS.keys() - {"head/kernel", "head/bias"}


def test_kernels_that_see_pixels_are_adapted_and_said():
    kernels = {"stem/conv_0/kernel": (3, 3, 3, 8), "stem/conv_1/kernel": (3, 3, 8, 8)}
    given = {"stem/proj/kernel": (4, 4, 3, 8), "stem/proj/bias": (8,), **kernels}
    params = {name: np.zeros(shape) for name, shape in given.items()}
    wanted = {"stem/proj/kernel": (2, 6, 1, 8), "stem/conv_0/kernel": (3, 3, 4, 8)}

    def adapt_channels(kernel, channels):
        return np.ones((*kernel.shape[:2], channels, kernel.shape[3]))

    def resize_patch(kernel, patch):
        return np.full((*patch, *kernel.shape[2:]), kernel.sum())

    found, notes = adapt.adapt_stem(params, {**given, **wanted}, adapt_channels, resize_patch)
    assert {name: value.shape for name, value in found.items()} == {**given, **wanted}
    assert (found["stem/proj/kernel"] == 4 * 4 * 1 * 8).all()
    assert notes == (
        "stem/conv_0/kernel repeated and scaled from 3 to 4 channels",
        "stem/proj/kernel summed from 3 to 1 channels",
        "stem/proj/kernel resampled from 4x4 to 2x6",
    )
    assert adapt.adapt_stem(params, given, adapt_channels, resize_patch) == (params, ())


def test_a_head_that_the_model_has_not_is_left_out_and_one_that_only_it_has_is_new():
    shapes = {name: shape for name, shape in SHAPES.items() if "representation" not in name}
    shapes |= {"head/kernel": (8, 3), "head_dist/kernel": (8, 3), "head_dist/bias": (3,)}
    params, notes = adapt.replace_heads(PARAMS, shapes)
    said = ("head new (3 outputs)", "head_dist new (3 outputs)", "representation left out")
    assert notes == said
    assert params.keys() == {"posemb/grid", "norm/scale"}


def test_what_fits_is_accepted_without_heads():
    adapt.check_fit({"norm/scale": np.ones(8), "posemb/grid": PARAMS["posemb/grid"]}, SHAPES, "DIR")


def test_all_that_does_not_fit_is_in_one_error():
    params = {"norm/scale": np.ones(9), "cls_token": np.ones((1, 8)), "blocks_0/x": np.ones(2)}
    with pytest.raises(ConfigError) as caught:
        adapt.check_fit(params, SHAPES, "DIR")
    assert str(caught.value) == (
        "config.init_from: DIR: blocks_0/x (2) is an unexpected key; "
        "cls_token (1x8) is an unexpected key; norm/scale is 9, expected 8; "
        "posemb/grid (4x6x8) is missing"
    )
