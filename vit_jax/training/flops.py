"""The floating point operations of a run for one image: matrix products and convolutions."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import models
from vit_jax.models.products import in_plain_form, multiply_adds
from vit_jax.models.stacking import find_stacks, stack, unstack
from vit_jax.training import rounding
from vit_jax.training.run import Run
from vit_jax.training.stacked_state import stack_shapes
from vit_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating point operations for one image; a multiply-add is two.

    Softmax, norms, activations and the optimizer are not counted, as in papers. What a batch
    computes once, such as the position biases of Swin v2, counts for an image.

    Attributes:
      forward: The forward pass of the model.
      training: A training step: forward pass and backward pass, as the gradient of the trained
        parameters needs them; the forward pass of a teacher; both passes of SAM.
      recomputed: What `model.remat` adds to a training step.
    """

    forward: int
    training: int
    recomputed: int


def count(run: Run) -> Flops:
    """Count the floating point operations of a run for one image, without computing anything.

    Blocks are applied by a scan, whatever `model.scan` says, so that each is traced once.
    """
    counter = _Counter(run)
    training = counter.training(remat="none")
    remat = run.model.remat
    recomputed = counter.training(remat) - training if remat != "none" else 0
    return Flops(counter.forward(), training, recomputed)


class _Counter:
    """Counts the operations of a model whose blocks are stacked as far as they have equal cost."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._model = run.model.clone(scan=True)
        trains = unstack(run.trains, run.stacks, lambda leaf, _: leaf)
        stacks = find_stacks(self._model, _grouping(self._model, trains))
        shapes = stack_shapes(run.saved_shapes, stacks)
        self._shapes = jax.tree.map(_without_sharding, shapes)
        self._trains = stack(trains, stacks, lambda *layers: layers[0])
        image = jax.ShapeDtypeStruct((1, *run.config.data.image_shape), jnp.uint8)
        self._batch = {"image": image, "label": jax.ShapeDtypeStruct((1,), jnp.int32)}

    def forward(self) -> int:
        """Return the operations of the model in evaluation."""

        def apply(state: TrainState, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            pixels = images.astype(jnp.float32)
            output = models.forward(self._model, state.variables, pixels)
            return output.logits, output.features  # a model without classes has no logits

        return _count(apply, self._shapes, self._batch["image"])

    def training(self, remat: str) -> int:
        """Return the operations of a training step, for the activations that `remat` keeps."""
        model = self._model.clone(remat=remat)
        objective = type(self._run.objective)(self._run.config, model)

        def loss(params: Any, state: TrainState, batch: Any, frozen: Any) -> tuple[jax.Array, Any]:
            params = jax.tree.map(
                lambda p, trained: p if trained else jax.lax.stop_gradient(p), params, self._trains
            )
            key = jax.random.key(0)
            rows = objective.prepare(batch, key)
            variables = {"params": params, **state.collections}
            return objective(variables, rows, key, frozen=frozen, ema=state.ema)

        def step(state: TrainState, batch: Any, frozen: Any) -> Any:
            gradient = jax.value_and_grad(loss, has_aux=True)
            return gradient(rounding.widen(state.params), state, batch, frozen)

        frozen = objective.frozen_shapes(self._run.mesh, self._run.splits["train"])
        frozen = jax.tree.map(_without_sharding, frozen)
        passes = 2 if self._run.config.optim.sam_radius else 1
        return passes * _count(step, self._shapes, self._batch, frozen)


def _count(function: Callable[..., Any], *shapes: Any) -> int:
    """Return the operations of a function of arrays of these shapes."""
    with in_plain_form():
        return 2 * multiply_adds(jax.make_jaxpr(function)(*shapes).jaxpr)


def _grouping(model: models.Transformer, trains: Any) -> Callable[[str], Hashable]:
    """Return the group of a block, by name; blocks of a group have equal cost.

    The first block that is trained is a group of its own if the layers below it are frozen: it
    needs no gradient of its input.
    """
    trained = {name: tuple(jax.tree.leaves(trains[name])) for n in model.block_names for name in n}
    first = next((name for name, leaves in trained.items() if any(leaves)), "")
    if all(jax.tree.leaves(trains)):
        first = ""
    return lambda name: (trained[name], name == first)


def _without_sharding(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
