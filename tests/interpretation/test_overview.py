"""The overview has the maps that were asked for, and says why others are missing."""

import numpy as np
import pytest
from tiny_models import IMAGES, random_variables, tiny_vit

from vit_jax.interpretation.heads import head_maps
from vit_jax.interpretation.overview import OF_IMAGES, OF_MODEL, image_maps, model_maps
from vit_jax.interpretation.weights import attention_layers, attention_maps

IMAGE = IMAGES[:1]


def problems(lacking):
    return {names: error.problem for names, error in lacking.items()}


def test_layers_have_the_heads_and_blocks_have_the_distances():
    model = tiny_vit()
    variables = random_variables(model, IMAGE)
    first, last = attention_layers(model)
    maps, lacking = image_maps(model, variables, IMAGE, (*OF_IMAGES, *OF_MODEL), [last], 1)
    assert not lacking and maps.components is None
    (expected,) = head_maps(model, last, attention_maps(model, variables, IMAGE, [last])[last])
    assert list(maps.heads) == [last] and maps.readouts == {last: "class token"}
    np.testing.assert_allclose(maps.heads[last], expected, rtol=1e-6)
    assert list(maps.distances) == [first, last]
    assert maps.rollout.shape == maps.relevance.shape == expected.shape[1:]


@pytest.mark.parametrize("name", [*OF_IMAGES, *OF_MODEL])
def test_only_what_is_asked_for_is_there(name):
    model = tiny_vit()
    variables = random_variables(model, IMAGE)
    maps, _ = image_maps(model, variables, IMAGE, [name], attention_layers(model), 0)
    shown = {field for field, value in maps._asdict().items() if value is not None and len(value)}
    fields = {"heads": {"heads", "readouts"}, "mean": {"heads", "readouts"}}
    alone = {name} if name in ("rollout", "relevance", "distances") else set()
    assert shown == fields.get(name, alone)
    made, _ = model_maps(model, variables, IMAGE.shape[1:], [name])
    assert set(made) == ({name} if name in ("filters", "positions") else set())


def test_maps_that_a_model_lacks_have_a_reason():
    model = tiny_vit(attention="reduced", posemb="conditional", num_classes=0)
    variables = random_variables(model, IMAGE)
    names = ("heads", "distances", "rollout", "relevance", "filters", "positions")
    maps, lacking = image_maps(model, variables, IMAGE, names, attention_layers(model), -1)
    assert maps.heads == {} and maps.distances == {} and maps.rollout is maps.relevance is None
    reasons = problems(lacking)
    assert set(reasons) == {("heads", "distances"), ("rollout",), ("relevance",)}
    assert reasons["heads", "distances"].startswith("reduced has no weights over tokens")
    assert reasons["relevance",] == "relevance is of a class, but there is no head"
    made, lacking = model_maps(model, variables, IMAGE.shape[1:], names)
    assert set(made) == {"filters"}
    assert problems(lacking)["positions",].endswith("is a convolution after the first block")
