"""An objective that is not in the package trains, resumes and chooses its best checkpoint."""

import dataclasses
import itertools
import json

import chex
import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import read_rows, resolved, restore_state
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.checkpoints import seals
from vit_jax.config.objective import Objective as ObjectiveSettings
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.data import loader, transforms
from vit_jax.errors import ConfigError
from vit_jax.evaluation.evaluators import EVALUATORS
from vit_jax.settings.fields import field
from vit_jax.training.objectives import OBJECTIVES, Aux, Objective, add_objective
from vit_jax.training.run import open_run

SIDE = 4  # of a patch; the width of the model is the number of its pixels


def squared_errors(model, variables, images, output):
    """Returns the mean squared error of each image, whose tokens are taken for its patches."""
    grid = output.grid
    tokens = output.tokens[:, grid.num_prefix :]
    patches = einops.rearrange(
        tokens, "b (h w) (i j) -> b (h i) (w j) 1", h=grid.height, w=grid.width, i=SIDE, j=SIDE
    )
    return jnp.mean((patches - images) ** 2, axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class ReconstructionSettings(ObjectiveSettings):
    """A field of its own in the config."""

    weight: float = field(1.0, "factor of the loss", above=0)


class Reconstruction(Objective):
    """The pixels of the images, without any label."""

    evaluator = "reconstruction"
    needs_labels = False

    settings = ReconstructionSettings

    def __init__(self, config, model):
        self.config = config
        self.model = model

    def describe(self):
        return {"rebuilds": f"pixels times {self.config.objective['weight']}"}

    def prepare(self, batch, key):
        data = self.config.data
        return {"image": transforms.normalize(batch["image"], data.mean, data.std)}

    def __call__(self, variables, rows, key, *, frozen, ema):
        output, collections = models.forward_train(self.model, variables, rows["image"], key)
        errors = squared_errors(self.model, variables, rows["image"], output)
        weight = self.config.objective["weight"]
        return weight * errors.mean(), Aux(collections, {"rmse": jnp.sqrt(errors).mean()})


class ReconstructionError:
    """The mean squared error, of which less is better."""

    score = "mse"
    maximize = False

    def __init__(self, model, config):
        self.model = model
        self.config = config

    def zeros(self):
        return {"mse": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)}

    def __call__(self, variables, batch):
        data = self.config.data
        images = transforms.normalize(batch["image"], data.mean, data.std)
        output = models.forward(self.model, variables, images)
        errors = squared_errors(self.model, variables, images, output)
        mask = batch["mask"]
        return {"mse": jnp.where(mask, errors, 0).sum(), "count": mask.sum(dtype=jnp.int32)}

    def means(self, totals):
        count = int(totals["count"])
        return {"mse": float(totals["mse"]) / count, "count": count}

    def format(self, result):
        return f"mse {result['mse']:.4f}"


def add(monkeypatch, objective):
    """Adds an objective and its evaluator for one test."""
    monkeypatch.setitem(config_lib.OBJECTIVES, "reconstruction", objective.settings)
    monkeypatch.setitem(OBJECTIVES, "reconstruction", objective)
    monkeypatch.setitem(EVALUATORS, "reconstruction", ReconstructionError)


@pytest.fixture
def reconstruction(monkeypatch):
    add(monkeypatch, Reconstruction)


RUN = {
    "objective": "reconstruction",
    "total_steps": "8",
    "model.dropout": "0.1",
    "model.num_classes": "0",
    "data.val_split": "test[:9]",
    "eval.every_steps": "2",
    "checkpoint.every_steps": "2",
    "optim.ema_decay": "0.5",
    "optim.learning_rate": "0.3",  # so high that the error does not fall all the time
    "log.every_seconds": "0",
}


def train(config, workdir):
    return train_lib.train(resolved(config), epath.Path(workdir))


class KilledError(Exception):
    """Stands for the end of the process at any moment: nothing is saved after it."""


def train_killed(config, workdir, monkeypatch, at):
    """Trains until the batch of a step is asked for."""
    real = loader.train_batches

    def dying(*args, **kwargs):
        batches = real(*args, **kwargs)
        yield from itertools.islice(batches, at - kwargs["step"])
        batches.close()
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loader, "train_batches", dying)
        train(config, workdir)


def everything(workdir, config):
    """Returns all that a run leaves: arrays of the newest checkpoint, and its rows of metrics."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        final = restore_state(workdir, run)
    return jax.device_get(final), read_rows(workdir)


@pytest.mark.usefixtures("reconstruction")
def test_an_objective_without_labels_trains_is_killed_and_resumes(
    tiny_config, tmp_path, monkeypatch, capsys
):
    config = tiny_config(RUN)
    results = train(config, tmp_path / "whole")
    said = capsys.readouterr().out
    assert "rebuilds  pixels times 1.0" in said and "evaluate  step 2  val: mse " in said
    assert "  rmse " in said
    for at in (3, 5):
        train_killed(config, tmp_path / "parts", monkeypatch, at)
    assert {**train(config, tmp_path / "parts")}["eval"] == results["eval"]
    whole, rows = everything(tmp_path / "whole", config)
    parts, rows_parts = everything(tmp_path / "parts", config)
    chex.assert_trees_all_equal(whole, parts)
    assert rows == rows_parts
    assert config.model["num_classes"] == 0 and "head" not in whole.params


@pytest.mark.usefixtures("reconstruction")
def test_its_metrics_are_logged_and_its_least_error_is_the_best(tiny_config, tmp_path):
    results = train(tiny_config(RUN), tmp_path)
    rows = read_metrics(epath.Path(tmp_path) / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert all(0 < row["rmse"] ** 2 <= row["loss"] * (1 + 1e-6) for row in steps)
    assert set(results["eval"]) == {"val", "val_raw", "test", "test_raw"}
    assert set(results["eval"]["val"]) == {"mse", "count", "skipped"}
    errors = {row["step"]: row["val/mse"] for row in rows if "val/mse" in row}
    assert list(errors) == [2, 4, 6, 8]
    least = min(errors, key=errors.get)
    assert max(errors.values()) > errors[least]
    assert results["best"] == {"step": least, "val_mse": errors[least]}
    assert seals.best_step(epath.Path(tmp_path) / "checkpoints") == least
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.usefixtures("reconstruction")
def test_metrics_are_means_over_micro_batches(tiny_config, tmp_path):
    plain = {**RUN, "model.dropout": "0", "total_steps": "2"}
    train(tiny_config(plain), tmp_path / "one")
    train(tiny_config({**plain, "optim.accum_steps": "2"}), tmp_path / "two")
    one, two = (
        read_metrics(epath.Path(tmp_path) / name / "metrics.jsonl") for name in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        for key in a.keys() & {"loss", "rmse"}:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-5, err_msg=key)
    assert "rmse" in two[0]


def test_only_labels_need_the_same_classes(tiny_config, monkeypatch):
    sets = {"eval.sets": "('digits', 'digits:test[:5]'),"}
    message = r"^config\.eval\.sets\[0\]: the classes of digits.* are 0, .* expected class_0"
    with pytest.raises(ConfigError, match=message):
        open_run(tiny_config(sets))
    add(monkeypatch, Reconstruction)
    run = open_run(tiny_config({**sets, "objective": "reconstruction"}))
    assert len(run.splits["digits"]) == 5
    assert run.fingerprint["data"]["sets"]["digits"]["examples"] == 5


def test_an_objective_is_told_the_average(tiny_config, tmp_path, monkeypatch):
    """The loss of the average, which is the model of some steps before."""
    seen = []

    class Told(Reconstruction):
        def __call__(self, variables, rows, key, *, frozen, ema):
            seen.append(jax.tree.structure(ema))
            loss, aux = super().__call__(variables, rows, key, frozen=frozen, ema=ema)
            average = models.forward(self.model, ema, rows["image"])
            of_average = squared_errors(self.model, ema, rows["image"], average).mean()
            return loss, Aux(aux.collections, {"average": of_average})

    add(monkeypatch, Told)
    train(tiny_config({**RUN, "model.dropout": "0", "total_steps": "2"}), tmp_path)
    first, second = [r for r in read_metrics(epath.Path(tmp_path) / "metrics.jsonl") if "loss" in r]
    np.testing.assert_allclose(first["average"], first["loss"], rtol=1e-5)
    assert second["average"] != pytest.approx(second["loss"], rel=1e-3)
    assert seen


def test_an_objective_has_fields_in_the_config(tiny_config, tmp_path, monkeypatch):
    tables = (config_lib.OBJECTIVES, OBJECTIVES)
    for table in tables:
        monkeypatch.setitem(table, "reconstruction", None)  # which is undone after the test
    add_objective("reconstruction", Reconstruction)
    monkeypatch.setitem(EVALUATORS, "reconstruction", ReconstructionError)
    for flags, message in (
        ({"objective.weight": "0"}, r"^config\.objective\.weight: expected more than 0, got 0"),
        ({"objective.loss": "softmax"}, r"reconstruction has no such field; it belongs to"),
        ({"objective": "classification", "objective.weight": "2"}, "classification has no such"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny_config({**RUN, **flags})
    short = {**RUN, "total_steps": "1", "model.dropout": "0"}
    for weight in ("1", "2"):
        train(tiny_config({**short, "objective.weight": weight}), tmp_path / weight)
    one, two = (
        read_metrics(epath.Path(tmp_path) / weight / "metrics.jsonl")[0]["loss"] for weight in "12"
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert {name: entry.settings for name, entry in OBJECTIVES.items()} == config_lib.OBJECTIVES
