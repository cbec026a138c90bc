"""Errors name the nearest right name, and every kind has its exit code."""

import pytest

from vit_jax import errors


def test_suggest_names_the_nearest_or_all():
    assert errors.suggest("vit_b61", ["vit_b16", "swin"]) == "did you mean 'vit_b16'?"
    assert errors.suggest("zzz", ["b", "a"]) == "choose from a, b"


def test_pick_refuses_an_unknown_name_with_its_path():
    assert errors.pick({"a": 1}, "a", "config.x") == 1
    with pytest.raises(errors.ConfigError, match=r"^config.x: unknown 'q'; choose from a$"):
        errors.pick({"a": 1}, "q", "config.x")


def test_exit_codes_differ():
    kinds = errors.UserError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds) == 7
