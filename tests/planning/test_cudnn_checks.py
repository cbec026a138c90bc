"""The checks of cuDNN's attention in JAX are those that a plan answers for an H100."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import pytest

from vit_jax.planning import cudnn

PARAMETERS = {
    "check_cudnn_version": [],
    "check_compute_capability": ["capability"],
    "is_cuda_compute_capability_equal": ["capability"],
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_jax_has_the_check(name):
    """If this fails, JAX has moved or changed the function: see `planning/cudnn.py`."""
    function = getattr(importlib.import_module(cudnn.MODULE), name, None)
    assert function is not None, f"{cudnn.MODULE}.{name} is gone"
    assert list(inspect.signature(function).parameters) == PARAMETERS[name], name
    assert list(inspect.signature(cudnn.ANSWERS[name]).parameters) == PARAMETERS[name], name


def test_the_answers_are_those_of_an_h100():
    assert cudnn.ANSWERS["check_cudnn_version"]() >= 91000
    assert cudnn.ANSWERS["check_compute_capability"]("8.0")
    assert cudnn.ANSWERS["check_compute_capability"]("9.0")
    assert not cudnn.ANSWERS["check_compute_capability"]("10.0")
    assert cudnn.ANSWERS["is_cuda_compute_capability_equal"]("9.0")
    assert not cudnn.ANSWERS["is_cuda_compute_capability_equal"]("9.3")


def test_cudnns_attention_is_traced_while_it_is_assumed_and_jax_is_as_before_after_it():
    module = importlib.import_module(cudnn.MODULE)
    before = {name: getattr(module, name) for name in PARAMETERS}
    x = jax.ShapeDtypeStruct((2, 198, 4, 64), jnp.bfloat16)

    def attend(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")

    with pytest.raises(ZeroDivisionError), cudnn.assumed():
        assert jax.eval_shape(attend, x, x, x).shape == x.shape
        raise ZeroDivisionError
    assert {name: getattr(module, name) for name in PARAMETERS} == before
