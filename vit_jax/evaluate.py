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
from etils import epath

from vit_jax import cli, hosts, launchers, losses, metrics, models, sharding, trained
from vit_jax import config as config_lib
from vit_jax.data import loader, sources, transforms
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError, DataError, pick
from vit_jax.logs import Progress, say
from vit_jax.run import SPLITS, eval_batch_size
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
    """Returns top-1, top-5 and loss as means over every image of a source that can be read.

    Their `count`, and how many were `skipped` as unreadable, are beside them. Returns nothing where
    `stopped` says so before the end.

    Raises:
      DataError: More images cannot be read than the config allows, or none can.
    """
    size = eval_batch_size(config, mesh)
    host, num_hosts = sharding.host_share(mesh)
    batches = loader.eval_batches(source, config.data, size, host=host, num_hosts=num_hosts)
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
    totals = jax.device_get(sums)
    if not totals["count"]:
        raise DataError(f"{source.name}: no image can be read")
    return {**metrics.means(totals), "skipped": len(source) - int(totals["count"])}


def format_result(name: str, result: Result) -> str:
    """Returns one line of figures."""
    return (
        f"{name}: top-1 {result['top1']:.2%}  top-5 {result['top5']:.2%}  "
        f"loss {result['loss']:.4f}  ({result['count']:,} images"
        + f", {result['skipped']:,} unreadable" * bool(result["skipped"])
        + ")"
    )


def must_agree(config: config_lib.Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what all hosts must have alike, by the path of the field.

    Args:
      config: Of the run.
      data: The fingerprint of what each split field names.
    """
    settings = config_lib.flatten(config_lib.as_dict(config))
    fixed = {key: value for key, value in settings.items() if key not in config_lib.FREE_KEYS}
    return config_lib.flatten({"config": {**fixed, "data": data}})


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Evaluates the checkpoint of a work directory; prints and writes the figures as JSON."""
    asked = {f"--{name}": values[name].value for name in ("workdir", "split", "step", "raw")}
    workdir, config, field = hosts.agree(
        lambda: _settings(values, overrides), lambda found: {**asked, **must_agree(found[1], {})}
    )
    mesh = sharding.make_mesh(config.mesh)
    loss_fn = pick(losses.LOSSES, config.loss, "config.loss")
    with jax.set_mesh(mesh):
        run = trained.restore(workdir, values.step, config, mesh, raw=values.raw)
        source = hosts.agree(
            lambda: sources.load(config.data, field, run.class_names),
            lambda source: must_agree(config, {field: source.fingerprint}),
        )
        found, known = len(source.class_names), config.model["num_classes"]
        if found != known:
            problem = f"{source.name} has {found} classes, the model {known}"
            raise ConfigError(f"config.data.{field}", problem)
        say(f"evaluate  {workdir}, step {run.step:,}, on {source.name}")
        eval_step = make_eval_step(run.model, loss_fn, config.data, mesh)
        label = values.split + "_raw" * values.raw
        result = evaluate(eval_step, run.params, source, config, mesh, label=label)
    assert result is not None  # noqa: S101 - for the type checker: nothing stops it
    say(format_result(label, result))
    report = {"step": run.step, "eval": {label: result}}
    say(json.dumps(report))
    write_json(workdir / "evaluations" / f"{run.step}-{_file_name(label)}.json", report)


def _settings(
    values: flags.FlagValues, overrides: dict[str, str]
) -> tuple[epath.Path, config_lib.Config, str]:
    """Returns the work directory, the config, and which of its fields names the split."""
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    workdir = open_path(values.workdir, "--workdir")
    # The devices of the training are not those of today.
    tree = dataclasses.replace(trained.read_config(workdir), mesh=config_lib.Mesh())
    settings = config_lib.override(config_lib.to_config_dict(tree), overrides)
    field = SPLITS.get(values.split, "test_split")
    if values.split not in SPLITS or not settings["data"][field]:
        settings["data"][field] = values.split
    config = config_lib.resolve(settings)
    if config.data.channels != tree.data.channels:
        problem = f"this run was trained with {tree.data.channels}, got {config.data.channels}"
        raise ConfigError("config.data.channels", problem)
    transforms.check(config.data)
    return workdir, config, field


def _file_name(split: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in split)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    launchers.define_flags(values)
    flags.DEFINE_string("workdir", "", "The work directory of a run.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "test",
        "train, val or test as the run's config has them, or a TFDS split such as 'test[:100]'.",
        flag_values=values,
    )
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    flags.DEFINE_bool(
        "raw", False, "The parameters themselves, not their moving average.", flag_values=values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
