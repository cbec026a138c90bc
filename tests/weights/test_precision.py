"""Parameters of any float dtype are converted to float32, with a note if they are rounded."""

import ml_dtypes
import numpy as np
import pytest

from vit_jax.errors import DataError
from vit_jax.weights.precision import Dtypes, restore_dtypes, to_float32

BF16 = np.dtype(ml_dtypes.bfloat16)
VALUES = np.array([0.5, -3.0, 1.0])


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", BF16])
def test_a_float_of_any_precision_is_a_parameter(dtype):
    array = to_float32("a", VALUES.astype(dtype), "w.npz")
    assert array.dtype == np.float32 and (array == VALUES).all()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([1.0, np.nan]), r"w\.npz: a is not finite \(1 of 2 values\)"),
        (np.array([np.inf, -np.inf], np.float16), r"a is not finite \(2 of 2 values\)"),
        (np.array([np.nan], BF16), "a is not finite"),
        (np.array([1e39, 1.0]), r"a has values out of the range of float32 \(1 of 2 values\)"),
        (np.array([1, 2]), "expected floating-point numbers, got int64"),
        (np.array([True]), "expected floating-point numbers, got bool"),
    ],
)
def test_what_is_no_finite_number_is_no_parameter(array, said):
    with pytest.raises(DataError, match=said):
        to_float32("a", array, "w.npz")


def test_dtypes_are_noted():
    arrays = {
        "a": VALUES.astype(np.float32),
        "b": VALUES.astype(np.float16),
        "c": VALUES,
        "d": VALUES / 3,
        "e": VALUES.astype(BF16),
    }
    dtypes = Dtypes()
    read = dtypes.recording(arrays.__getitem__)
    assert all(read(name) is array for name, array in arrays.items())
    assert dtypes.exact == {"b": "float16", "c": "float64", "e": "bfloat16"}
    assert dtypes.notes() == (
        "1 arrays of float16 were converted to float32",
        "1 arrays of float64 were converted to float32",
        "1 arrays of bfloat16 were converted to float32",
        "1 arrays of float64 were rounded to float32",
    )


def test_arrays_go_back_as_they_came_where_nothing_is_lost():
    arrays = {"a": VALUES.astype(np.float32), "b": VALUES.astype(np.float32)}
    assert restore_dtypes({"a": "float16"}, arrays, arrays.__getitem__) == (
        {"a": np.dtype(np.float16)},
        (),
    )
    assert restore_dtypes({}, arrays, arrays.__getitem__) == ({}, ())
    arrays["a"] = arrays["a"] / 3  # trained on
    found, notes = restore_dtypes({"a": "float16", "b": "bfloat16"}, arrays, arrays.__getitem__)
    assert not found and "float32: bfloat16, float16, the imported dtype, would" in notes[0]
    found, notes = restore_dtypes({"other": "float16"}, arrays, arrays.__getitem__)
    assert not found and notes == ("written in float32; the imported weights were float16",)
