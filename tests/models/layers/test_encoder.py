"""The loop over the blocks: unrolled, as a scan, and with activations that are computed again."""

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.models.layers.encoder import REMATS
from vit_jax.models.stacking import find_stacks, stack, unstack

VIT = {"width": 8, "depth": 5, "num_heads": 2, "mlp_dim": 16, "stem.patch": (4, 4)}
SWIN = {"width": 8, "depths": (1, 5), "num_heads": (1, 2), "attention.window": (2, 2)}
RANDOM = {"block.drop_path": 0.4, "dropout": 0.2}
CASES = {
    "vit": ("vit_ti16", {**VIT, **RANDOM, "attention": "full", "attention.dropout": 0.2}),
    "distilled": ("deit_ti16_distilled", {**VIT, **RANDOM}),
    "registers, SwiGLU, LayerScale, rotary": (
        "vit_ti16",
        {**VIT, "mlp": "swiglu", "block.layer_scale": 0.1, "num_registers": 2, "posemb": "rope"},
    ),
    "a position embedding after the first block": ("vit_ti16", {**VIT, "posemb": "conditional"}),
    "post-norm, a bias of the scores": (
        "vit_ti16",
        {**VIT, **RANDOM, "block": "post", "posemb": "relative_bias"},
    ),
    "swin": ("swin_t_w7", {**SWIN, **RANDOM, "attention.dropout": 0.2}),
    "alternating windows and grids": ("vit_ti16", {**VIT, "attention": "dilated"}),
    "swin v2": ("swinv2_t_w8", {**SWIN, "block.drop_path": 0.4}),
}


def images(size=16):
    return jax.random.normal(jax.random.key(1), (4, size, size, 3))


def variables_of(model, size=16):
    """Random variables, none of which is at a symmetric value such as 0."""
    variables = nn.unbox(models.init_variables(model, (size, size, 3), 0))
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return structure.unflatten(noisy)


def loss_and_grad(model, variables):
    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        output, _ = models.forward_train(model, variables, images(), jax.random.key(3))
        return jnp.sum(jnp.sin(output.logits)) + jnp.sum(output.features**2)

    return loss(variables)


def assert_near(found, expected):
    """Check that arrays are equal to 1e-6 of their largest value."""

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1e-3, float(np.abs(b).max())))

    jax.tree.map(check, found, expected)


@pytest.fixture
def float64():
    """Compute in float64, so that what differs is no rounding."""
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", CASES)
def test_a_scan_has_the_loss_and_the_gradients_of_the_unrolled_blocks(case):
    name, fields = CASES[case]
    model = models.create(name, num_classes=3, **fields, scan=True, dtype="float64")
    stacks = find_stacks(model)
    assert stacks
    variables = variables_of(model)
    loss, grads = loss_and_grad(model.clone(scan=False), variables)
    stacked = stack(variables, stacks)
    assert not any(layer in stacked["params"] for layers in stacks.values() for layer in layers)
    scanned_loss, scanned_grads = loss_and_grad(model, stacked)
    np.testing.assert_allclose(scanned_loss, loss, rtol=1e-6)
    assert_near(unstack(scanned_grads, stacks), grads)


@pytest.mark.parametrize(
    ("case", "remat", "scan"),
    [
        ("vit", "linear", True),
        ("vit", "attention", False),
        ("vit", "block", True),
        ("vit", "block", False),
        ("swin", "linear", False),
        ("swin", "block", True),
    ],
)
@pytest.mark.usefixtures("float64")
def test_computing_activations_again_changes_nothing(case, remat, scan):
    name, fields = CASES[case]
    plain = models.create(name, num_classes=3, **fields, dtype="float64")
    model = plain.clone(remat=remat, scan=scan)
    stacks = find_stacks(model)
    variables = variables_of(plain)
    loss, grads = loss_and_grad(plain, variables)
    again, again_grads = loss_and_grad(model, stack(variables, stacks))
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    assert_near(unstack(again_grads, stacks), grads)


def kept_bytes(remat, scan):
    """Return the bytes that the forward pass keeps for the backward pass, besides parameters."""
    fields = {**VIT, "depth": 8, "scan": scan, "remat": remat, "attention": "full"}
    model = models.create("vit_ti16", num_classes=3, **fields)
    variables = stack(variables_of(model), find_stacks(model))

    def forward(variables):
        return models.forward_train(model, variables, images(), jax.random.key(3))[0].logits

    _, backward = jax.eval_shape(lambda v: jax.vjp(forward, v), variables)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))
    return kept - sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("scan", [False, True])
def test_each_policy_keeps_less_than_the_one_before(scan):
    kept = [kept_bytes(remat, scan) for remat in REMATS]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)
    tokens = 4 * 17 * 8 * 4  # images, tokens, width, bytes
    assert kept[-1] < 8 * 2.5 * tokens  # `block`: about one array of tokens per block


def test_stochastic_depth_needs_a_random_key():
    model = models.create("vit_ti16", num_classes=3, **VIT, **{"block.drop_path": 0.5})
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply(variables_of(model), images(), train=True)


def test_evaluation_draws_nothing():
    model = models.create("vit_ti16", num_classes=3, **VIT, **RANDOM)
    plain = models.create("vit_ti16", num_classes=3, **VIT)
    variables = variables_of(model)
    chex.assert_trees_all_equal(
        models.forward(model, variables, images()), models.forward(plain, variables, images())
    )


@pytest.mark.parametrize("remat", REMATS)
def test_features_have_the_names_of_their_blocks(remat):
    model = models.create("vit_ti16", num_classes=3, **VIT, remat=remat, scan=True)
    found = models.features(model, variables_of(model), images(), ["blocks_1", "blocks_4/attn"])
    plain = models.create("vit_ti16", num_classes=3, **VIT)
    expected = models.features(plain, variables_of(plain), images(), list(found))
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_blocks_of_different_groups_are_not_in_one_stack():
    model = models.create("vit_ti16", num_classes=3, **VIT, scan=True)
    stacks = find_stacks(model, lambda name: name in ("blocks_0", "blocks_1"))
    assert list(stacks) == ["blocks_0_to_blocks_1", "blocks_2_to_blocks_4"]
    variables = variables_of(model)
    chex.assert_trees_all_equal(unstack(stack(variables, stacks), stacks), variables)
    chex.assert_trees_all_close(
        models.forward(model, stack(variables, stacks), images()).logits,
        models.forward(model, variables, images()).logits,
        rtol=1e-5,
    )


def test_alternating_blocks_form_two_stacks():
    model = models.create("swin_t_w7", num_classes=3, **SWIN, scan=True)
    assert find_stacks(model) == {
        "stages_1_0_to_stages_1_2": ("stages_1_0", "stages_1_2"),
        "stages_1_1_to_stages_1_3": ("stages_1_1", "stages_1_3"),
    }
    assert not find_stacks(model.clone(scan=False))
