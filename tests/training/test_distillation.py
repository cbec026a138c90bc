"""Learning from a teacher: its losses, what it sees, and that it is an argument of the step."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolved
from etils import epath

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax import train as train_lib
from vit_jax.checkpoints import from_pretrained
from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.evaluation import losses
from vit_jax.models import Output
from vit_jax.models.layers.grid import Grid
from vit_jax.training.objectives import distillation
from vit_jax.training.run import open_run
from vit_jax.training.step import make_train_step

RNG = np.random.default_rng(0)
STUDENT, TEACHER, TOKEN = (jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32) for _ in range(3))
TARGETS = losses.targets(jnp.asarray([0, 1, 2, 3]), 5, 0.1)


def test_hard_is_the_cross_entropy_with_the_teachers_choice():
    choice = np.asarray(TEACHER).argmax(axis=1)
    log_probabilities = np.asarray(jax.nn.log_softmax(STUDENT))
    expected = -log_probabilities[np.arange(4), choice]
    np.testing.assert_allclose(distillation.hard(STUDENT, TEACHER, 3.0), expected, rtol=1e-6)


def test_soft_is_the_divergence_times_the_squared_temperature():
    def probabilities(logits):
        exponents = np.exp(np.asarray(logits, np.float64) / 3)
        return exponents / exponents.sum(axis=1, keepdims=True)

    known, found = probabilities(TEACHER), probabilities(STUDENT)
    expected = 9 * (known * np.log(known / found)).sum(axis=1)
    np.testing.assert_allclose(distillation.soft(STUDENT, TEACHER, 3.0), expected, rtol=1e-4)
    np.testing.assert_allclose(distillation.soft(TEACHER, TEACHER, 3.0), 0, atol=1e-6)


@pytest.mark.parametrize("token", [True, False])
def test_the_teacher_is_heard_on_the_token_where_there_is_one(token, teacher, tiny_config):
    empty = jnp.zeros((4, 0))
    output = Output(STUDENT, empty, empty[:, None], Grid(1, 1), (TOKEN,) if token else ())
    run = open_run(
        tiny_config(
            {
                "objective": "distillation",
                "objective.teacher": str(teacher),
                "objective.alpha": "0.3",
            }
        )
    )
    found = run.objective.mix(output, TARGETS, TEACHER)
    taught = distillation.hard(TOKEN if token else STUDENT, TEACHER, 1.0)
    expected = 0.7 * losses.softmax(STUDENT, TARGETS) + 0.3 * taught
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A trained run of another model, with another normalization."""
    from conftest import TINY

    tree = config_lib.to_config_dict(config_lib.Config())
    given = {**TINY, "model.width": "8", "data.mean": "0.3", "data.std": "0.4", "total_steps": "3"}
    folder = tmp_path_factory.mktemp("teacher")
    made = config_lib.resolve(tree, given).config
    train_lib.train(resolved(made), epath.Path(folder))
    return folder


def test_the_teacher_sees_the_students_pixels_as_it_knows_them(teacher, tiny_config):
    run = open_run(tiny_config({"objective": "distillation", "objective.teacher": str(teacher)}))
    with jax.set_mesh(run.mesh):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
    pixels = RNG.random((2, 8, 8, 1))
    seen = jnp.asarray((pixels - 0.5) / 0.25, jnp.float32)
    origin = from_pretrained(str(teacher))
    known = jnp.asarray((pixels - 0.3) / 0.4, jnp.float32)
    expected = models.forward(origin.model, origin.variables, known).logits
    np.testing.assert_allclose(run.objective.opened(frozen, seen), expected, rtol=1e-4, atol=1e-5)


def test_a_finished_student_does_not_miss_its_teacher(teacher, tiny_config, tmp_path, capsys):
    there = shutil.copytree(teacher, tmp_path / "teacher")
    folder = epath.Path(tmp_path / "student")
    given = {"objective": "distillation", "objective.teacher": str(there), "total_steps": "1"}
    student = resolved(tiny_config(given))
    train_lib.train(student, folder)
    shutil.rmtree(there)
    capsys.readouterr()
    train_lib.train(student, folder)
    assert "finished  this run is complete" in capsys.readouterr().out
    longer = resolved(tiny_config({**given, "total_steps": "2"}))
    with pytest.raises(InputMissingError, match=r"^config\.objective\.teacher: .*/teacher/config"):
        train_lib.train(longer, folder, ("total",))


@pytest.mark.parametrize("accum", ["1", "2"])
def test_a_student_follows_its_teacher(accum, teacher, tiny_config, tmp_path):
    """With alpha 1 only the teacher counts, and the student comes to choose as it does."""
    overrides = {
        **{
            "objective": "distillation",
            "objective.teacher": str(teacher),
            "objective.kind": "soft",
            "objective.alpha": "1",
        },
        **{
            "mix.mixup": "1",
            "data.erasing": "0.5",
            "total_steps": "60",
            "optim.accum_steps": accum,
        },
    }
    train_lib.train(resolved(tiny_config(overrides)), epath.Path(tmp_path))
    student, origin = from_pretrained(str(tmp_path)), from_pretrained(str(teacher))
    pixels = jnp.asarray(RNG.random((64, 8, 8, 1)), jnp.float32)
    chosen = models.forward(student.model, student.variables, (pixels - 0.5) / 0.25).logits
    known = models.forward(origin.model, origin.variables, (pixels - 0.3) / 0.4).logits
    first = jax.nn.softmax(known) * (jax.nn.log_softmax(known) - jax.nn.log_softmax(chosen))
    start = jax.nn.softmax(known) * (jax.nn.log_softmax(known) + jnp.log(10.0))
    assert first.sum() < 0.5 * start.sum()


def test_the_variables_of_the_teacher_are_an_argument(teacher, tiny_config):
    """What the step compiles to has them as inputs, laid out over the mesh, not as constants."""
    config = tiny_config(
        {"objective": "distillation", "objective.teacher": str(teacher), "mesh.fsdp": "2"}
    )
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        frozen = run.objective.frozen(run.mesh, run.splits["train"])
        batch = {"image": np.zeros((16, 8, 8, 1), np.uint8), "label": np.zeros(16, np.int32)}
        batch = sharding.to_global(batch, run.mesh)
        lowered = make_train_step(run).lower(run.shapes, batch, frozen)
        shaped = run.objective.frozen_shapes(run.mesh, run.splits["train"])
    for found, made in zip(jax.tree.leaves(shaped), jax.tree.leaves(frozen), strict=True):
        assert (found.shape, found.dtype) == (made.shape, made.dtype)
        assert found.sharding.is_equivalent_to(made.sharding, made.ndim)
    assert jax.tree.structure(shaped) == jax.tree.structure(frozen)
    shapes = jax.tree.leaves(lowered.in_avals)
    count = len(jax.tree.leaves((run.shapes, batch, frozen)))
    assert len(shapes) == count
    kernel = frozen["params"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert "fsdp" in str(kernel.sharding.spec)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"objective.kind": "warm"}, r"config\.objective\.kind: unknown 'warm'"),
        (
            {"data.synthetic.num_classes": "7", "model.num_classes": "0"},
            r"config\.objective\.teacher: .* has 10 classes, the run 7",
        ),
        (
            {"data.image_size": "6,6", "model.stem.patch": "2,2"},
            r"config\.objective\.teacher: .* expects a multiple of 4 pixels, got 6",
        ),
    ],
)
def test_a_teacher_of_other_things_is_refused(overrides, problem, teacher, tiny_config):
    with pytest.raises(ConfigError, match=problem):
        open_run(
            tiny_config(
                {"objective": "distillation", "objective.teacher": str(teacher), **overrides}
            )
        ).objective.check()


def test_a_teacher_that_is_not_there_or_names_other_classes_is_refused(teacher, tiny_config):
    with pytest.raises(InputMissingError, match=r"config\.json: no such file"):
        open_run(
            tiny_config(
                {"objective": "distillation", "objective.teacher": str(teacher / "nothing")}
            )
        ).objective.check()
    run = open_run(tiny_config({"objective": "distillation", "objective.teacher": str(teacher)}))
    names = ("cat", *run.splits["train"].class_names[1:])
    with (
        jax.set_mesh(run.mesh),
        pytest.raises(ConfigError, match=r"class mismatch: 'class_0' in .*, 'cat' in the"),
    ):
        run.objective.opened.restore(run.mesh, names)
