"""Models for tests: equal models are traced and compiled once, whatever weights they have."""

import functools

import jax
import numpy as np
import pytest

from vit_jax import models

_FORWARDS = {}
_VARIABLES = {}


def forward(model, params, images):
    """Returns the output of a model in evaluation mode."""
    key = repr(model)  # has all fields of the model and of its parts
    if key not in _FORWARDS:
        _FORWARDS[key] = jax.jit(functools.partial(models.forward, model))
    return _FORWARDS[key]({"params": params}, np.asarray(images))


@pytest.fixture
def shared_shapes(monkeypatch):
    """Makes imports and exports of equal models share the shapes of their variables."""
    compute = models.abstract_variables

    def abstract_variables(model, image_shape):
        key = (repr(model), tuple(image_shape))
        if key not in _VARIABLES:
            _VARIABLES[key] = compute(model, image_shape)
        return _VARIABLES[key]

    monkeypatch.setattr(models, "abstract_variables", abstract_variables)
