"""Errors suggest the most similar name, and each class has its own exit code."""

import pytest

from vit_jax import errors


def test_suggest_returns_the_most_similar_name_or_all():
    assert errors.suggest("vit_b61", ["vit_b16", "swin"]) == "did you mean 'vit_b16'?"
    assert errors.suggest("zzz", ["b", "a"]) == "choose from a, b"


def test_pick_reports_an_unknown_name_with_its_path():
    assert errors.pick({"a": 1}, "a", "config.x") == 1
    with pytest.raises(errors.ConfigError, match=r"^config.x: unknown 'q'; choose from a$"):
        errors.pick({"a": 1}, "q", "config.x")


def test_exit_codes_differ():
    kinds = errors.UserError.__subclasses__()
    assert len({kind.exit_code for kind in kinds}) == len(kinds) == 8
