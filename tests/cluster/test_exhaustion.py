"""XLA's error about too little memory becomes an error of a setting; others stay as they are."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.cluster.exhaustion import explaining_exhaustion
from vit_jax.errors import ConfigError

FOUR_PETABYTES = (1 << 50,)


def test_an_allocation_that_fails_names_the_setting():
    with pytest.raises(ConfigError) as error, explaining_exhaustion("config.x", "take less"):
        jnp.zeros(FOUR_PETABYTES, jnp.float32).block_until_ready()
    assert str(error.value) == (
        f"config.x: a device is out of memory (Out of memory allocating {1 << 52} bytes); take less"
    )
    assert isinstance(error.value.__cause__, jax.errors.JaxRuntimeError)


def test_a_program_that_fails_while_it_runs_is_explained_where_its_result_is_fetched():
    @jax.jit
    def use_much(x):
        return jnp.sum(jnp.sort(jnp.broadcast_to(x, FOUR_PETABYTES) + jnp.arange(1 << 50)))

    with pytest.raises(ConfigError, match="out of memory"), explaining_exhaustion("config.x", "y"):
        jax.device_get(use_much(jnp.float32(1)))


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("INTERNAL: no"), OSError("no")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match="no"), explaining_exhaustion("config.x", "y"):
        raise error


def test_an_error_is_explained_once():
    with (
        pytest.raises(ConfigError, match=r"^config\.inner: "),
        explaining_exhaustion("config.outer", ""),
        explaining_exhaustion("config.inner", ""),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20G of 15G hbm.")
