"""The gradients of a step are those of the plain forms, whatever makes the step fast or small.

The plain forms are full attention, activations under automatic differentiation, and unrolled blocks
that keep all activations, on one device.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from vit_jax.cluster import sharding
from vit_jax.models.layers import mlp
from vit_jax.models.stacking import stack, unstack
from vit_jax.training.parameter_groups import parameter_names
from vit_jax.training.run import open_run

VIT = {
    "model.depth": "3",
    "model.stem.patch": "2,2",
    "model.block.drop_path": "0.4",
}
SWIN = {
    "model.width": "8",
    "model.depths": "1,4",
    "model.num_heads": "2,4",
    "model.mlp_dim": None,
    "model.stem.patch": "1,1",
    "model.attention.window": "2,2",
    "model.block.drop_path": "0.4",
}
FAMILIES = {
    "ViT": VIT,
    "DeiT": {**VIT, "model.name": "deit_ti16_distilled"},
    "DINOv2": {**VIT, "model.name": "dinov2_s14_reg4", "model.mlp": "swiglu"},
    "Swin": {**SWIN, "model.name": "swin_t_w7"},
    "Swin v2": {**SWIN, "model.name": "swinv2_t_w8"},
}
STEP = {
    "batch_size": "8",
    "model.dtype": "float64",  # so that what differs is no rounding
    "mix.mixup": "0.8",
    "mix.cutmix": "1.0",
    "data.erasing": "0.5",
}
FAST = {"model.scan": "true", "model.remat": "block"}
EIGHT = {"mesh.data": "2", "mesh.fsdp": "2", "mesh.tensor": "2"}


def gradients(config, num_devices):
    """Returns the loss of the first step and its gradients, by the names of the parameters."""
    run = open_run(config, jax.devices()[:num_devices])
    rng = np.random.default_rng(0)
    draw = functools.partial(rng.normal, 0, 0.2)
    params = jax.tree.map(lambda leaf: draw(leaf.shape).astype("f4"), run.saved_shapes.params)
    layout = jax.tree.map(lambda leaf: leaf.sharding, run.shapes.params)
    batch = {
        "image": rng.integers(0, 256, (config.batch_size, *config.data.image_shape), np.uint8),
        "label": rng.integers(0, 10, config.batch_size, np.int32),
    }

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        rows = run.objective.prepare(batch, jax.random.key(1))
        with nn.logical_axis_rules(sharding.RULES):
            return run.objective({"params": params}, rows, jax.random.key(2), frozen={}, ema={})[0]

    with jax.set_mesh(run.mesh):
        params = jax.device_put(stack(params, run.stacks), layout)
        value, grads = loss(params, sharding.to_global(batch, run.mesh))
    grads = unstack(grads, run.stacks)
    names = parameter_names(grads)
    return jax.device_get({"loss": value, **dict(zip(names, jax.tree.leaves(grads), strict=True))})


@pytest.fixture
def plain_activations(monkeypatch):
    """Returns a function that puts activations under automatic differentiation."""

    def use():
        exact = functools.partial(nn.gelu, approximate=False)
        monkeypatch.setitem(mlp.ACTIVATIONS, "gelu", exact)
        monkeypatch.setattr(mlp, "swiglu", lambda gate, x: nn.silu(gate) * x)

    return use


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_plain_forms(
    family, tiny_config, kernel_on_cpu, plain_activations
):
    fields = {**STEP, **FAMILIES[family]}
    with jax.enable_x64(True):
        calls = kernel_on_cpu("cudnn")
        found = {
            devices: gradients(tiny_config({**fields, **FAST, **mesh}), devices)
            for devices, mesh in {1: {}, 8: EIGHT}.items()
        }
        assert calls
        plain_activations()
        kernel = "kernel" if "Swin" in family else "name"
        expected = gradients(tiny_config({**fields, f"model.attention.{kernel}": "full"}), 1)
    for devices, values in found.items():
        assert values.keys() == expected.keys()
        for name, value in values.items():
            limit = 1e-6 * max(np.abs(expected[name]).max(), 1e-2)
            np.testing.assert_allclose(
                value, expected[name], rtol=0, atol=limit, err_msg=f"{name}, {devices} devices"
            )
