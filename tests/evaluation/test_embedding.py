"""An embedding names its images, its model and its data, and comes back from its file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from vit_jax import models
from vit_jax.checkpoints.pretrained import Trained
from vit_jax.cluster import sharding
from vit_jax.console.tables import write_table
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import DataError
from vit_jax.evaluation import fingerprints
from vit_jax.evaluation.embedding import SourceEmbedder, read_embedding, write_embedding


def model_and_variables(config):
    model = models.create(**config.model)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *config.data.image_shape)), train=False)
    return model, nn.unbox(variables)


@pytest.fixture
def embedder(tiny_config):
    config = tiny_config({"data.max_unreadable": "1.0"})
    model, variables = model_and_variables(config)
    trained = Trained(7, (), model, variables, "raw")
    return config, SourceEmbedder(trained, config, sharding.make_mesh(), "blocks_0", "tokens")


def test_it_holds_the_labels_of_the_source_and_says_where_it_comes_from(embedder):
    config, embed = embedder
    source = open_split(config.data, "test_split")
    found = embed(source)
    assert found.features.shape == (21, 5, 16) and found.features.dtype == np.float32
    assert found.ids == tuple(source.describe(i) for i in range(21))
    assert found.labels.tolist() == [source[i]["label"] for i in range(21)]
    assert found.class_names == source.class_names
    assert {**found.facts, "model": len(found.facts["model"])} == {
        "layer": "blocks_0",
        "pool": "tokens",
        "grid": {"height": 2, "width": 2, "num_prefix": 1},
        "model": 64,
        "data": fingerprints.of_images(source),
        "skipped": {},
        "step": 7,
        "weights": "raw",
    }
    assert "classes" not in found.facts["data"] and found.facts["data"]["examples"] == 21


def test_the_variables_are_hashed_once(embedder, monkeypatch):
    config, embed = embedder
    source = open_split(config.data, "test_split")
    first = embed(source)
    monkeypatch.setattr(fingerprints, "of_model", None)
    assert embed(source).facts == first.facts


def check_file(path, embedding):
    write_embedding(path, embedding)
    again = read_embedding(path)
    for name in ("features", "labels", "indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(embedding, name))
    assert again.features.dtype == np.float32
    assert again.ids == embedding.ids and again.facts == embedding.facts
    assert again.class_names == tuple(embedding.class_names)


@pytest.mark.parametrize("suffix", (".npz", ".parquet"))
def test_it_comes_back_from_its_file(embedder, tmp_path, suffix):
    config, embed = embedder
    path = epath.Path(tmp_path / f"e{suffix}")
    check_file(path, embed(open_split(config.data, "test_split")))
    grey = np.full((8, 8), 7, np.uint8)
    unlabelled = embed(InMemory([grey, b"no image", grey], ("",)), labelled=False)
    check_file(path, unlabelled)
    assert unlabelled.labels is None and unlabelled.class_names == ()
    assert unlabelled.ids == ("image[0]", "image[2]")
    assert list(unlabelled.facts["skipped"]) == ["image[1]"]


def test_another_table_is_not_an_embedding(tmp_path):
    path = epath.Path(tmp_path / "t.npz")
    write_table(path, {"ids": ["a"]})
    with pytest.raises(DataError, match="expected an embedding, found no indices, features"):
        read_embedding(path)


def test_the_fingerprint_is_that_of_the_function(tiny_config):
    config = tiny_config()
    _, variables = model_and_variables(config)
    first = fingerprints.of_model(config, variables)
    same = (
        {"model.remat": "block", "model.scan": "true"},
        {"model.attention": "fused"},
        {"model.attention": "full", "data.threads": "2"},
        {"optim.learning_rate": "1", "data.test_split": "test[:3]", "data.flip": "true"},
    )
    for overrides in same:
        assert fingerprints.of_model(tiny_config(overrides), variables) == first, overrides
    for overrides in ({"data.mean": "0.4"}, {"data.fit": "squash"}, {"model.norm_eps": "1e-5"}):
        assert fingerprints.of_model(tiny_config(overrides), variables) != first, overrides
    changed = jax.tree.map(lambda x: x, variables)
    changed["params"]["norm"]["bias"] = changed["params"]["norm"]["bias"].at[3].set(1e-9)
    assert fingerprints.of_model(config, changed) != first
