"""Evaluation of parameters on a source of images: every image counts exactly once."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.console.progress import Progress
from vit_jax.data import loader, transforms
from vit_jax.data.sources import Source
from vit_jax.errors import DataError
from vit_jax.evaluation import metrics

EvalStep = Callable[[Any, metrics.Sums, Mapping[str, jax.Array]], metrics.Sums]
EvalResult = dict[str, float | int]


def make_eval_step(
    model: nn.Module, loss_fn: metrics.LossFn, data: config_lib.Data, mesh: jax.sharding.Mesh
) -> EvalStep:
    """Return the compiled step `(params, sums, batch) -> sums`, which adds a batch to the sums."""

    def eval_step(params: Any, sums: metrics.Sums, batch: Mapping[str, jax.Array]) -> metrics.Sums:
        with nn.logical_axis_rules(sharding.RULES):
            images = transforms.normalize(batch["image"], data.mean, data.std)
            logits = models.forward(model, params, images).logits
        targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
        new = metrics.sums(logits, batch["label"], loss_fn(logits, targets), batch["mask"])
        return jax.tree.map(jnp.add, sums, new)

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh), donate_argnums=1)


def evaluate(
    eval_step: EvalStep,
    params: Any,
    source: Source,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    label: str,
    stopped: Callable[[], bool] = lambda: False,
) -> EvalResult | None:
    """Return top-1, top-5 and loss as means over every image of a source that can be read.

    Their `count`, and how many were `skipped` as unreadable, are beside them. Returns nothing where
    `stopped` says so before the end.

    Raises:
      DataError: More images cannot be read than the config allows, or none can.
    """
    size = eval_batch_size(config, mesh)
    host, num_hosts = sharding.batch_shard(mesh)
    batches = loader.eval_batches(source, config.data, size, host=host, num_hosts=num_hosts)
    total = math.ceil(len(source) / size)
    progress = Progress(total, 0, config.log.every_seconds, f"evaluate {label}")
    sums = jax.device_put(metrics.zeros(), sharding.replicated(mesh))
    try:
        for i, batch in enumerate(batches, 1):
            if stopped():
                return None
            sums = eval_step(params, sums, sharding.to_global(batch, mesh))
            if progress.due():
                jax.block_until_ready(sums)  # now and then: else the queue would hide the pace
                progress.show(i, f"{min(i * size, len(source)):,} images")
    finally:
        progress.close()
        batches.close()
    totals = jax.device_get(sums)
    if not totals["count"]:
        raise DataError(f"{source.name}: no image can be read")
    return {**metrics.means(totals), "skipped": len(source) - int(totals["count"])}


def format_result(name: str, result: EvalResult) -> str:
    """Return one line of figures."""
    images = f"{result['count']:,} images"
    if result["skipped"]:
        images += f", {result['skipped']:,} unreadable"
    return (
        f"{name}: top-1 {result['top1']:.2%}  top-5 {result['top5']:.2%}  "
        f"loss {result['loss']:.4f}  ({images})"
    )


def eval_batch_size(config: config_lib.Config, mesh: jax.sharding.Mesh) -> int:
    """Return the global batch size of an evaluation, rounded up to what the devices can share."""
    return sharding.round_up(config.eval.batch_size or config.batch_size, mesh)
