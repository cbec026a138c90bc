"""Every recipe trains, evaluates, saves and resumes, with a small model and few images.

The reduced recipe, its proxy, keeps augmentation, mixing, loss, optimizer, schedule and decay.
"""

import ast
import dataclasses
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from conftest import ROOT, resolved
from etils import epath
from PIL import Image

from vit_jax import config, models
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained
from vit_jax.cluster import sharding
from vit_jax.data.sources.folder import choose_splits
from vit_jax.errors import ConfigError, Interrupted
from vit_jax.training import loop

FILES = sorted((ROOT / "configs").glob("*.py"))
# Settings of the proxies. Of recipes that differ only in sizes and durations, one is trained.
SMALL = {
    **{"batch_size": 16, "total_steps": 4, "total_epochs": 0.0, "seed": 0},
    "data": {
        **{"name": "synthetic", "train_split": "train", "val_split": "train[:20]"},
        **{"test_split": "test", "image_size": (16, 16), "threads": 1},
        "synthetic": {"train_examples": 48, "test_examples": 5, "num_classes": 3},
    },
    "optim": {"warmup_steps": 1, "warmup_epochs": 0.0, "warmup_images": 0, "accum_steps": 1},
    "eval": {"every_steps": 0, "batch_size": 32},
    "checkpoint": {"every_steps": 2, "keep": 2},
    "log": {"tensorboard": False},
}
MODEL = {
    "vit": {
        **{"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8},
        "stem": {"patch": (8, 8)},
    },
    "swin": {
        **{"width": 8, "depths": (2, 1), "num_heads": (1, 2), "mlp_ratio": 1.0},
        "stem": {"patch": (2, 2)},
        "attention": {"window": (4, 4)},
    },
}
RESNET = {"layers": (1,), "width_factor": 0.5, "patch": (2, 2)}


def recipes():
    """Returns `FILE` or `FILE:ARGUMENT` of every recipe, from the table of each file."""
    found = []
    for path in FILES:
        names = re.findall(r"pick\((\w+), ", path.read_text())
        scope = {}
        exec(compile(path.read_text(), path, "exec"), scope)  # noqa: S102
        found += [f"{path}:{key}" for name in names for key in scope[name]] or [str(path)]
    return found


RECIPES = [recipe for recipe in recipes() if not recipe.endswith("finetune_folder.py")]


def load(recipe):
    """Returns the config of a recipe, completed with a model and a teacher if it needs them."""
    tree = config.load_config_file(recipe)
    flags = {} if tree.model.name else {"model.name": "vit_ti16"}
    if tree.objective.name == "distillation":
        flags["objective.teacher"] = "TEACHER"
    return config.resolve(tree, flags).config


def proxy(recipe):
    """Returns the recipe with a small model and few images."""
    tree = config.as_dict(load(recipe))

    def shrink(node, smaller):
        for key, value in smaller.items():
            if isinstance(value, dict):
                shrink(node[key], value)
            else:
                node[key] = value

    shrink(tree, SMALL)
    fields = tree["model"]
    shrink(fields, MODEL[models.family(fields["name"]).name] | {"num_classes": 0})
    if fields["stem"]["name"] == "resnet":
        shrink(fields["stem"], RESNET)
    if fields["representation_size"]:
        fields["representation_size"] = 8
    return config.resolve(tree).config


def structure(settings):
    """Returns a text that is equal for proxies that differ only in numbers that are not zero."""
    values = config.flatten(config.as_dict(settings))
    reduced = {}
    for key, value in values.items():
        if key != "model.name":
            number = isinstance(value, int | float)
            reduced[key] = bool(value) if number else re.sub(r"\d+", "0", str(value))
    return str(reduced)


PROXIES = {}
for name in RECIPES:
    PROXIES.setdefault(structure(proxy(name)), name)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Uses one device, because its program compiles faster; other tests cover meshes."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(
        sharding,
        "make_mesh",
        lambda sizes=(-1, 1, 1), devices=None: make_mesh(sizes, jax.devices()[:1]),
    )


def short(recipe):
    return epath.Path(recipe.replace(":", "-")).name


@pytest.mark.parametrize("recipe", RECIPES, ids=short)
def test_a_recipe_names_a_model_and_data_that_there_are(recipe):
    settings = load(recipe)
    model = models.create(**settings.model)
    assert settings.model["num_classes"] == 0, "the data should determine the classes"
    assert settings.total_epochs or settings.total_steps
    assert all(s % c == 0 for s, c in zip(settings.data.image_size, model.stride, strict=True))


def test_a_recipe_with_a_teacher_asks_for_it():
    tree = config.load_config_file(f"{ROOT}/configs/deit.py:s_distilled")
    with pytest.raises(ConfigError, match=r"^config\.objective\.teacher: expected the run folder"):
        config.resolve(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_a_document(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert "python -m vit_jax.train --config=configs/" in text
    assert len(path.read_text().splitlines()) <= 100
    measured = "Measured with this code" in text
    assert measured or path.stem in ("synthetic", "folder", "finetune_folder") or "Nobody" in text


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained run with the classes of the proxies."""
    folder = tmp_path_factory.mktemp("teacher")
    train_lib.train(resolved(proxy(f"{ROOT}/configs/deit.py:ti")), epath.Path(folder))
    return folder


@pytest.mark.parametrize("recipe", PROXIES.values(), ids=short)
def test_a_recipe_starts_evaluates_saves_and_resumes(
    recipe, tmp_path, capsys, monkeypatch, request
):
    settings = proxy(recipe)
    if settings.objective["name"] == "distillation":
        teacher = str(request.getfixturevalue("teacher"))
        objective = {**settings.objective, "teacher": teacher}
        settings = dataclasses.replace(settings, objective=objective)
    workdir = epath.Path(tmp_path)
    push = loop.Reporter.push

    def push_and_stop(self, step, metrics):
        push(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop.Reporter, "push", push_and_stop)
        train_lib.train(resolved(settings), workdir)
    results = train_lib.train(resolved(settings), workdir)
    assert "resume    from the checkpoint of step 2" in capsys.readouterr().out
    assert (results["step"], results["skipped"]) == (4, 0)
    assert results["eval"]["test"]["count"] == 5
    assert ("test_raw" in results["eval"]) == bool(settings.optim.ema_decay)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all()


# --- An image folder.


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for label, value in (("cat", 60), ("dog", 190)):
        for i in range(20):
            path = tmp_path / "photos" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.normal(value, 20, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def source(tmp_path, tiny_config):
    overrides = {"data.channels": "3", "data.mean": "0.4,0.4,0.4", "data.std": "0.2,0.2,0.2"}
    made = tiny_config({**overrides, "total_steps": "1", "model.pool": "gap"})
    train_lib.train(resolved(made), epath.Path(tmp_path / "source"))
    return tmp_path / "source"


def folder_config(**overrides):
    path = str(ROOT / "configs" / "finetune_folder.py")
    given = {
        **{"batch_size": "8", "total_steps": "2", "optim.warmup_steps": "0"},
        **{"data.threads": "1", "log.tensorboard": "false"},
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return choose_splits(config.resolve(config.load_config_file(path), given)).config


@pytest.mark.parametrize(
    ("flags", "moved"),
    [
        ({}, "all"),
        ({"optim__tune": "head"}, "head"),
        ({"optim__freeze": "stem.*,blocks_.*"}, "part"),
    ],
)
def test_a_folder_of_images_and_a_run_are_enough_to_fine_tune(
    flags, moved, photos, source, tmp_path, capsys
):
    settings = folder_config(data__root=str(photos), init_from=str(source), **flags)
    assert settings.data.image_size == (8, 8) and settings.data.mean == (0.4, 0.4, 0.4)
    assert (settings.model["name"], settings.model["pool"]["name"]) == ("vit_mu4", "gap")
    assert settings.model["block"]["drop_path"] == 0.1
    results = train_lib.train(resolved(settings), epath.Path(tmp_path / "run"))
    assert results["step"] == 2
    out = capsys.readouterr().out
    assert "head" in out and "2 classes" in out
    trained = from_pretrained(str(tmp_path / "run"))
    last = trained.variables["params"]
    first = from_pretrained(str(source)).variables["params"]
    assert trained.class_names == ("cat", "dog")
    changed = {
        part
        for part in last
        if part != "head"
        and any(
            (a != b).any()
            for a, b in zip(jax.tree.leaves(last[part]), jax.tree.leaves(first[part]), strict=True)
        )
    }
    rest = set(last) - {"head"}
    assert changed == {"all": rest, "head": set(), "part": rest - {"stem", "blocks_0"}}[moved]


def test_a_model_name_trains_from_scratch_and_without_both_it_is_refused(photos):
    settings = folder_config(data__root=str(photos), model__name="vit_ti16")
    assert (settings.model["name"], settings.model["block"]["drop_path"]) == ("vit_ti16", 0.1)
    with pytest.raises(Exception, match=r"^config\.init_from: expected a run folder or conv"):
        folder_config(data__root=str(photos))
