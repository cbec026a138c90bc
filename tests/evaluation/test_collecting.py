"""Predictions come from the pass that counts, one row for each readable image, in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.evaluation.classification import Classification
from vit_jax.evaluation.evaluators import EVALUATORS
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training import state
from vit_jax.training.run import open_run


def collect(config, devices=None):
    """Returns figures and predictions of random weights, whose head is not zero."""
    run = open_run(config, devices)
    shape = run.config.data.image_shape
    with jax.set_mesh(run.mesh):
        params = state.init(run.model, run.tx, shape, 0, run.shapes).params
        noise = jax.random.normal(jax.random.key(1), params["head"]["kernel"].shape)
        variables = {"params": {**params, "head": {**params["head"], "kernel": noise}}}
        evaluation = Evaluation(run.evaluators, run.config, run.mesh)
        source = run.splits["test"]
        results, found = evaluation.collect(variables, source, "test")
        assert evaluation(variables, source, "test") == results
    return run, variables, results, found


@pytest.mark.parametrize("size", ["8", "24", "64"])
def test_rows_equal_a_plain_forward_pass(tiny_config, size):
    run, variables, results, found = collect(tiny_config({"eval.batch_size": size}))
    source = run.splits["test"]
    images = np.stack([source[i]["image"] for i in range(21)])
    normalized = (jnp.asarray(images, jnp.float32) / 255 - 0.5) / 0.25
    output = models.forward(run.model, variables, normalized)
    np.testing.assert_allclose(found.logits, output.logits, atol=1e-5)
    np.testing.assert_allclose(found.features, output.features, atol=1e-5)
    assert found.indices.tolist() == list(range(21))
    assert found.labels.tolist() == [source[i]["label"] for i in range(21)]
    assert found.ids[20] == "synthetic:test[20]" and found.skipped == 0
    assert (found.name, found.title, found.loss) == ("test", source.title, "softmax")
    assert found.class_names == source.class_names
    assert np.mean(found.logits.argmax(1) == found.labels) == results["test"]["top1"]


def test_one_device_gives_the_rows_of_eight(tiny_config):
    rows = [
        collect(tiny_config({"eval.batch_size": "5", "mesh.data": "1"}), jax.devices()[:1])[3],
        collect(tiny_config({"eval.batch_size": "24", "mesh.fsdp": "2"}))[3],
    ]
    np.testing.assert_allclose(rows[0].logits, rows[1].logits, atol=1e-5)
    assert rows[0].ids == rows[1].ids


def test_unreadable_images_have_no_row(tiny_config, monkeypatch):
    config = tiny_config({"data.max_unreadable": "0.2"})
    source_type = type(open_run(config).splits["test"])
    read = source_type.__getitem__

    def fail(self, index):
        if index in (0, 13):
            raise OSError("gone")
        return read(self, index)

    monkeypatch.setattr(source_type, "__getitem__", fail)
    _, _, results, found = collect(config)
    assert found.indices.tolist() == [i for i in range(21) if i not in (0, 13)]
    assert found.skipped == results["test"]["skipped"] == 2
    assert len(found.ids) == len(found.logits) == results["test"]["count"] == 19


def test_an_evaluator_with_sums_of_its_own_makes_no_predictions(tiny_config, monkeypatch):
    class Doubled(Classification):
        def __call__(self, variables, batch):
            found = super().__call__(variables, batch)
            return {**found, "loss": 2 * found["loss"]}

    plain = collect(tiny_config())[2]["test"]["loss"]
    monkeypatch.setitem(EVALUATORS, "doubled", Doubled)
    _, _, results, found = collect(tiny_config({"eval.evaluators": "doubled"}))
    assert found is None
    assert results["test"]["loss"] == pytest.approx(2 * plain, rel=1e-6)
    both = tiny_config({"eval.evaluators": "doubled,classification"})
    _, _, results, found = collect(both)
    assert found.name == "test_classification"
    assert results["test"]["loss"] == pytest.approx(2 * plain, rel=1e-6)


def test_the_loss_is_that_of_the_evaluator(tiny_config, monkeypatch):
    class Own(Classification):
        loss = "sigmoid"

    monkeypatch.setitem(EVALUATORS, "own", Own)
    assert collect(tiny_config({"eval.evaluators": "own"}))[3].loss == "sigmoid"


def test_a_stopped_evaluation_has_no_predictions(tiny_config):
    run = open_run(tiny_config())
    with jax.set_mesh(run.mesh):
        params = state.init(run.model, run.tx, run.config.data.image_shape, 0, run.shapes).params
        evaluation = Evaluation(run.evaluators, run.config, run.mesh)
        found = evaluation.collect(
            {"params": params}, run.splits["test"], "test", stopped=lambda: True
        )
    assert found == ({}, None)
