"""The operations of a run per image, against the products that the papers' equations name."""

import dataclasses

import jax
import pytest
from etils import epath

from vit_jax import models
from vit_jax.config import stored
from vit_jax.training import flops
from vit_jax.training.run import open_run

# The blocks of the smallest run: 2 x 2 patches of 4 x 4 gray pixels, 10 classes.
WIDTH, HIDDEN, DEPTH, TOKENS, PATCHES, PIXELS, CLASSES = 16, 32, 4, 4, 4, 16, 10
QKV = TOKENS * WIDTH * 3 * WIDTH
SCORES = TOKENS * TOKENS * WIDTH  # as many as the products of weights and values
OUT = TOKENS * WIDTH * WIDTH
LINEAR = TOKENS * WIDTH * HIDDEN  # each of the two layers of an MLP
BLOCK = QKV + 2 * SCORES + OUT + 2 * LINEAR
STEM = PATCHES * PIXELS * WIDTH
HEAD = WIDTH * CLASSES
FORWARD = STEM + DEPTH * BLOCK + HEAD
TRAINING = 3 * FORWARD - STEM  # pixels have no gradient


def counted(config):
    """Returns forward, training and recomputed multiply-adds of a run, and checks them."""
    run = open_run(config)
    with jax.set_mesh(run.mesh):
        found = flops.count(run)
    height, width, channels = run.config.data.image_shape
    if channels == 3:
        gflops = models.profile(run.model, (height, width)).gflops
        assert found.forward == pytest.approx(2e9 * gflops, rel=1e-12)
    assert all(value % 2 == 0 for value in dataclasses.astuple(found))
    return tuple(value // 2 for value in dataclasses.astuple(found))


RGB = {"data.channels": "3", "data.mean": "0.5,0.5,0.5", "data.std": "0.5,0.5,0.5"}
SMALL = {"model.depth": str(DEPTH), "model.pool": "gap"}


@pytest.mark.parametrize("scan", ["true", "false"])
@pytest.mark.parametrize(
    ("overrides", "training", "recomputed"),
    [
        ({}, TRAINING, 0),
        ({"optim.accum_steps": "2"}, TRAINING, 0),
        ({"model.dtype": "bfloat16", "optim.param_dtype": "bfloat16"}, TRAINING, 0),
        ({"model.grad_dtype": "float32", "mesh.fsdp": "4"}, TRAINING, 0),
        ({"optim.ema_decay": "0.9", "batch_size": "32"}, TRAINING, 0),
        ({"optim.sam_radius": "0.1"}, 2 * TRAINING, 0),
        # The output of the last layer is no input of a gradient.
        ({"model.remat": "block"}, TRAINING, DEPTH * (BLOCK - LINEAR)),
        ({"model.remat": "linear"}, TRAINING, DEPTH * 2 * SCORES),
        ({"model.remat": "attention"}, TRAINING, DEPTH * (2 * SCORES + LINEAR)),
        ({"optim.tune": "head"}, FORWARD + HEAD, 0),
        ({"optim.tune": "head", "model.remat": "block"}, FORWARD + HEAD, 0),
        # The first norm needs the gradient of its output, unless it is frozen, too.
        ({"optim.freeze": "(stem|posemb)/.*"}, 3 * FORWARD - 2 * STEM, 0),
        ({"optim.freeze": "(stem|posemb|.*norm1)/.*"}, 3 * FORWARD - 2 * STEM - QKV, 0),
        (
            {"optim.freeze": "(stem|posemb|blocks_[01]|.*norm1)/.*"},
            FORWARD + 2 * (DEPTH // 2 * BLOCK + HEAD) - QKV,
            0,
        ),
    ],
)
def test_a_vit_costs_what_its_equations_say(overrides, training, recomputed, scan, tiny_config):
    config = tiny_config({**SMALL, **overrides, "model.scan": scan})
    assert counted(config) == (FORWARD, training, recomputed)


def test_swin_has_windows_and_stages_of_half_the_tokens(tiny_config):
    swin = {
        "model.name": "swin_t_w7",
        "model.depths": "2,3",
        "model.num_heads": "2,4",
        "model.mlp_dim": None,
        "data.image_size": "56,56",
        **RGB,
    }
    stem = 14**2 * (4 * 4 * 3) * 16
    blocks = sum(
        depth * tokens * (12 * width**2 + 2 * 49 * width)
        for depth, tokens, width in [(2, 14**2, 16), (3, 7**2, 32)]
    )
    merging = 7**2 * (4 * 16) * 32
    forward = stem + blocks + merging + 32 * CLASSES
    assert counted(tiny_config(swin)) == (forward, 3 * forward - stem, 0)


def test_the_gradient_of_a_strided_convolution_costs_as_much_as_the_convolution(tiny_config):
    hybrid = {
        "model.name": "vit_r26_s32",
        "model.stem.layers": "1,1",
        "model.depth": "1",
        "data.image_size": "64,64",
        **RGB,
    }
    forward, training, _ = counted(tiny_config(hybrid))
    first = 32**2 * 7**2 * 3 * 64
    assert training == 3 * forward - first


def test_a_teacher_costs_its_forward_pass(tiny_config, tmp_path):
    teacher = tiny_config({"model.depth": "2", "model.width": "32", "model.pool": "gap"})
    stored.write(epath.Path(tmp_path / "teacher"), open_run(teacher).config, {})
    of_teacher = counted(teacher)[0]
    student = {"objective": "distillation", "objective.teacher": str(tmp_path / "teacher")}
    assert of_teacher != FORWARD
    assert counted(tiny_config({**SMALL, **student})) == (FORWARD, TRAINING + of_teacher, 0)


def test_the_base_model_of_the_paper(tiny_config):
    vit = {
        "model.name": "vit_b16",
        "model.width": None,
        "model.num_heads": None,
        "model.mlp_dim": None,
        "data.image_size": "224,224",
        **RGB,
    }
    stem = 196 * (16 * 16 * 3) * 768
    forward = stem + 12 * (197 * 12 * 768**2 + 2 * 197**2 * 768) + 768 * CLASSES
    assert counted(tiny_config(vit)) == (forward, 3 * forward - stem, 0)
