"""Evaluate a run: every image counts exactly once.

  python -m vit_jax.evaluate --workdir=runs/digits [--split=test] [--step=best|N]
      [--config.key=value ...]

Reads the run's config.json and its newest checkpoint unless told otherwise; runs no config file.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

from vit_jax import checkpoint, cli, losses, metrics, models, sharding, state
from vit_jax import config as config_lib
from vit_jax.data import loader, transforms
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError, pick
from vit_jax.logs import Progress, say
from vit_jax.run import SPLITS, eval_batch_size, open_split
from vit_jax.workdir import open_path, write_json

EvalStep = Callable[[Any, metrics.Sums, Mapping[str, jax.Array]], metrics.Sums]
Result = dict[str, float | int]


def make_eval_step(
    model: nn.Module, loss_fn: losses.Loss, data: config_lib.Data, mesh: jax.sharding.Mesh
) -> EvalStep:
    """Returns the compiled step `(params, sums, batch) -> sums`, which adds a batch to the sums."""

    def eval_step(params: Any, sums: metrics.Sums, batch: Mapping[str, jax.Array]) -> metrics.Sums:
        with nn.logical_axis_rules(sharding.RULES):
            images = transforms.normalize(batch["image"], data.mean, data.std)
            logits = models.forward(model, params, images).logits
        targets = losses.targets(batch["label"], logits.shape[-1])
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
) -> Result | None:
    """Returns top-1, top-5 and loss as means over every image of a source, and their count.

    Returns nothing where `stopped` says so before the end.
    """
    size = eval_batch_size(config, mesh)
    batches = loader.eval_batches(source, config.data, size)
    total = -(-len(source) // size)
    progress = Progress(total, 0, config.log.every_seconds, f"evaluate {label}")
    sums = jax.device_put(metrics.zeros(), sharding.replicated(mesh))
    try:
        for i, batch in enumerate(batches, 1):
            if stopped():
                return None
            sums = eval_step(params, sums, sharding.put(batch, mesh))
            if progress.due():
                jax.block_until_ready(sums)  # now and then: else the queue would hide the pace
                progress.show(i, f"{min(i * size, len(source)):,} images")
    finally:
        progress.close()
        batches.close()
    return metrics.means(jax.device_get(sums))


def format_result(name: str, result: Result) -> str:
    """Returns one line of figures."""
    return (
        f"{name}: top-1 {result['top1']:.2%}  top-5 {result['top5']:.2%}  "
        f"loss {result['loss']:.4f}  ({result['count']:,} images)"
    )


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Evaluates the checkpoint of a work directory; prints and writes the figures as JSON."""
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    workdir = open_path(values.workdir, "--workdir")
    trained = cli.load_run_config(workdir)
    # The devices of the training are not those of today.
    tree = dataclasses.replace(trained, mesh=config_lib.Mesh())
    settings = config_lib.override(config_lib.to_config_dict(tree), overrides)
    split = values.split
    field = SPLITS.get(split, "test_split")
    if split not in SPLITS:
        settings["data"][field] = split
    config = config_lib.resolve(settings)
    if config.data.channels != trained.data.channels:
        problem = f"this run was trained with {trained.data.channels}, got {config.data.channels}"
        raise ConfigError("config.data.channels", problem)
    mesh = sharding.make_mesh(config.mesh)
    source = open_split(config, field)
    model = models.create(**config.model)
    loss_fn = pick(losses.LOSSES, config.loss, "config.loss")
    with jax.set_mesh(mesh):
        # The images may be of another size now; the parameters are as they were trained.
        boxed = state.abstract_params(model, state.image_shape(trained.data))
        shapes = state.lay_out(boxed, mesh)
        step, params = checkpoint.load_params(
            workdir, values.step, shapes, ema=config.optim.ema_decay > 0
        )
        say(f"evaluate  {workdir}, step {step:,}, on {source.name}")
        eval_step = make_eval_step(model, loss_fn, config.data, mesh)
        result = evaluate(eval_step, params, source, config, mesh, label=split)
    assert result is not None  # noqa: S101 - for the type checker: nothing stops it
    say(format_result(split, result))
    report = {"step": step, "eval": {split: result}}
    say(json.dumps(report))
    write_json(workdir / "evaluations" / f"{step}-{_file_name(split)}.json", report)


def _file_name(split: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in split)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("workdir", "", "The work directory of a run.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "test",
        "train, val or test as the run's config has them, or a TFDS split such as 'test[:100]'.",
        flag_values=values,
    )
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
