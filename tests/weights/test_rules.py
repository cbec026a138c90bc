"""Rename rules in both directions, and errors for arrays that do not match."""

import itertools

import numpy as np
import pytest

from vit_jax.errors import DataError
from vit_jax.models import FAMILIES
from vit_jax.weights.rules import Rule, Table, export_params, import_params

RNG = np.random.default_rng(0)


def arrays(**shapes):
    return {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def imported(rules, shapes, found, placeholders=None):
    table = Table(tuple(rules), placeholders or {})
    sizes = {name: array.shape for name, array in found.items()}
    params, _ = import_params(table, shapes, sizes, found.__getitem__, "FILE")
    return table, params


def exported(table, params):
    shapes = {name: array.shape for name, array in params.items()}
    written, make = export_params(table, shapes, params.__getitem__, "FILE")
    made = {name: make(name) for name in written}
    assert {name: array.shape for name, array in made.items()} == written
    return made


def assert_same(there, back):
    assert there.keys() == back.keys()
    for name in there:
        np.testing.assert_array_equal(there[name], back[name])


def test_a_pattern_arranges_and_its_reverse_restores():
    found = arrays(w=(12, 5))
    rules = [Rule("w", "kernel", "(s h c) d -> d s h c")]
    table, params = imported(rules, {"kernel": (5, 3, 2, 2)}, found)
    np.testing.assert_array_equal(params["kernel"][4, 1, 0], found["w"][4:6, 4])
    assert_same(found, exported(table, params))


def test_several_sources_are_stacked_in_their_order():
    found = arrays(q=(4, 5), k=(4, 5), v=(4, 5))
    rules = [Rule(("q", "k", "v"), "kernel", "s (h c) d -> d s h c")]
    table, params = imported(rules, {"kernel": (5, 3, 2, 2)}, found)
    np.testing.assert_array_equal(params["kernel"][:, 1, 1, 0], found["k"][2])
    assert_same(found, exported(table, params))


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_several_targets_share_the_rows_out(prefix):
    found = arrays(pos=(1, 6 + prefix, 5))
    shapes = {"grid": (2, 3, 5)} | ({"prefix": (prefix, 5)} if prefix else {})
    table, params = imported([Rule("pos", ("prefix", "grid"), "1 n d -> n d")], shapes, found)
    np.testing.assert_array_equal(params["grid"][1, 0], found["pos"][0, prefix + 3])
    assert_same(found, exported(table, params))


def test_numbers_are_counted_from_0_or_from_1():
    found = {f"block{n}/w": RNG.normal(size=2) for n in ("1/unit1", "1/unit2", "2/unit1")}
    rules = [Rule("block{i1}/unit{j1}/w", "stages_{i}_{j}/w")]
    table, params = imported(rules, {f"stages_{n}/w": (2,) for n in ("0_0", "0_1", "1_0")}, found)
    np.testing.assert_array_equal(params["stages_0_1/w"], np.float32(found["block1/unit2/w"]))
    assert exported(table, params).keys() == found.keys()


@pytest.mark.parametrize("depth", [1, 2, 11])
def test_stacked_blocks_are_told_apart_in_the_order_of_their_numbers(depth):
    found = arrays(**{"blocks/w": (depth, 3, 2)})
    shapes = {f"blocks_{i}/w": (2, 3) for i in range(depth)}
    table, params = imported([Rule("blocks/w", "blocks_{i}/w", "a b -> b a")], shapes, found)
    np.testing.assert_array_equal(params[f"blocks_{depth - 1}/w"], found["blocks/w"][-1].T)
    assert_same(found, exported(table, params))


def test_placeholders_are_filled_in_names_and_patterns():
    found = arrays(**{"params/gn": (1, 1, 4)})
    rules = [Rule("{prefix}gn", "norm", "{ones}c -> c")]
    placeholders = {"prefix": "params/", "ones": "1 1 "}
    table, params = imported(rules, {"norm": (4,)}, found, placeholders)
    assert_same(found, exported(table, params))


def test_a_rule_without_a_target_names_extra_tensors():
    found = arrays(w=(2,), mask=(3,))
    table = Table((Rule("w", "w"), Rule("mask")))
    file_shapes = {"w": (2,), "mask": (3,)}
    params, extra = import_params(table, {"w": (2,)}, file_shapes, found.__getitem__, "FILE")
    assert set(params) == {"w"}
    assert_same(extra, {"mask": found["mask"]})


def test_parameters_are_float32_and_contiguous():
    found = {"w": RNG.normal(size=(2, 3)).astype(np.float16)}
    _, params = imported([Rule("w", "w", "a b -> b a")], {"w": (3, 2)}, found)
    assert params["w"].dtype == np.float32 and params["w"].flags.c_contiguous


def test_everything_that_does_not_fit_is_in_one_error_and_nothing_is_read():
    rules = [Rule("w.{i}", "w_{i}", "a b -> b a"), Rule("b", "b"), Rule("m", "m")]
    shapes = {"w_0": (3, 2), "w_1": (3, 2), "w_2": (3, 2), "b": (3,), "nameless": (1,)}
    found = {"w.0": (2, 3), "w.1": (3, 2), "w.2": (3, 2), "stray": (7, 7), "m": (2,)}

    def read(name):
        raise AssertionError(name)

    with pytest.raises(DataError) as caught:
        import_params(Table(tuple(rules)), shapes, found, read, "FILE")
    assert str(caught.value).removeprefix("FILE: not the weights of this model: ").split("; ") == [
        "b is missing, expected 3",
        "m (2) is an unexpected key",
        "nameless is missing from the file",
        "stray (7x7) is an unexpected key",
        "w.* is 3x2, expected 2x3 (2 times)",
    ]


def test_names_of_another_library_are_one_short_error():
    rules = [Rule("w.{i}", "w_{i}"), Rule("b", "b")]
    shapes = {"w_0": (3, 2), "w_1": (3, 2), "b": (3,)}
    with pytest.raises(DataError) as caught:
        imported(rules, shapes, {"k/0": np.zeros((3, 2)), "a": np.zeros(3)})
    assert str(caught.value).partition(": ")[2] == (
        "not the weights of this model: no array has a name of this library "
        "(it has a, expected b); try another --source"
    )


def test_shapes_are_checked_without_taking_memory():
    vast = (1 << 20, 3, 1 << 10, 1 << 10)  # 12 TiB
    with pytest.raises(DataError, match="is missing, expected 3145728x1048576"):
        rule = Rule("w", "w", "(s h c) d -> d s h c")
        import_params(Table((rule,)), {"w": vast}, {}, lambda name: np.zeros(0), "FILE")


def test_what_a_file_has_no_name_for_cannot_be_written():
    with pytest.raises(DataError, match=r"^FILE cannot store this model: b \(4\) has no name"):
        export_params(
            Table((Rule("a", "a"),)), {"a": (1,), "b": (4,)}, lambda name: np.zeros(0), "FILE"
        )


def test_each_parameter_is_read_once_where_the_arrays_are_made_in_order():
    params = {"kernel": RNG.normal(size=(5, 3, 2, 2)), "bias": RNG.normal(size=4)}
    rules = (Rule(("q", "k", "v"), "kernel", "s (h c) d -> d s h c"), Rule("b", "bias"))
    shapes = {name: array.shape for name, array in params.items()}
    written, make = export_params(Table(rules), shapes, params.pop, "FILE")
    assert [make(name).shape for name in written] == [(4, 5), (4, 5), (4, 5), (4,)]
    assert not params


LIBRARIES = {
    f"{family.name} {name}": library
    for family in FAMILIES.values()
    for name, library in family.libraries().items()
}


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_no_name_stands_in_two_rules_of_a_table(library):
    # Swin v2 has two of v1's three biases: a model has the one parameter or the other.
    rules = [r for r in library.rules if not str(r.target).endswith("bias_qv")]
    for side in ("source", "target"):
        names = [getattr(rule, side) for rule in rules if getattr(rule, side)]
        flat = [*itertools.chain(*([n] if isinstance(n, str) else n for n in names))]
        assert len(flat) == len(set(flat))
