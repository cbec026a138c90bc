"""Evaluate a run: every image counts exactly once.

  python -m vit_jax.evaluate --workdir=runs/digits [--split=val] [--step=best|N]
      [--weights=ema|raw] [--config.key=value ...] [--print_config]

Reads the run's config.json and a checkpoint, the newest by default. The default split is `test`, or
`val` for a run without a test split. No config file is run.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import average, pretrained
from vit_jax.cluster import hosts, launchers, sharding
from vit_jax.config import shared_by_hosts
from vit_jax.config.printing import define_print_flag, print_config
from vit_jax.console import cli
from vit_jax.console.progress import say, warn
from vit_jax.console.text import to_json
from vit_jax.console.waiting import cache_directory, waiting
from vit_jax.console.workdir import is_local, write_json
from vit_jax.data.sources.registry import note_on_order
from vit_jax.evaluation.evaluators import make_evaluators
from vit_jax.evaluation.loop import Evaluation
from vit_jax.evaluation.requests import open_images, resolve
from vit_jax.training.objectives import find_objective


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Evaluate a checkpoint of a run; print the metrics as JSON and write them to a file."""
    names = ("workdir", "split", "step", "weights")
    flag_values = {f"--{name}": values[name].value for name in names}
    request = hosts.run_and_compare(
        lambda: resolve(values.workdir, values.split, overrides),
        lambda found: {**flag_values, **shared_by_hosts(found.resolved.config, {})},
    )
    if values.print_config:
        print_config(request.resolved)
        return
    workdir, resolved, split = request.workdir, request.resolved, request.split
    config = resolved.config
    weights = values.weights or ""
    trained = config_lib.read_config(workdir)
    choice = average.describe(trained, weights)
    raw = bool(choice) and not average.takes_average(trained, weights)
    mesh = sharding.make_mesh(config.mesh.sizes)
    objective = find_objective(config)
    with jax.set_mesh(mesh):
        allowed = values.allow_config_change
        with waiting("verifying and restoring the checkpoint"):
            run = pretrained.restore(
                workdir, values.step, config, mesh, weights=weights, allowed=allowed
            )
        evaluators = make_evaluators(config, run.model, objective.evaluator)
        evaluation = Evaluation(evaluators, config, mesh)
        with waiting("opening the data set"):
            source = hosts.run_and_compare(
                lambda: (
                    open_images(request, run.class_names, run.model.num_classes)
                    if objective.needs_labels
                    else open_images(request)
                ),
                lambda source: shared_by_hosts(config, {request.field: source.fingerprint}),
            )
        say(f"evaluate  {workdir}, step {run.step:,}, on {source.title}")
        notes = [*resolved.notes, *source.notes]
        if objective.needs_labels and not run.class_names:
            notes.append(note_on_order(source))
        for note in notes:
            say(f"note      {note}")
        if choice:
            say(f"weights   {choice}")
        if where := cache_directory():
            say(f"cache     {where} (compiled programs)")
        results = evaluation(run.variables, source, split, raw=raw)
    for line in evaluation.format(split, results, raw=raw):
        say(line)
    report = {"step": run.step, "eval": results}
    _write(workdir / "evaluations" / f"{run.step}-{_file_name(next(iter(results)))}.json", report)
    say(to_json(report))


def _write(path: epath.Path, report: Mapping[str, Any]) -> None:
    """Write the metrics into the run folder, unless it is read-only or links out of it."""
    if is_local(path) and os.path.islink(path.parent):
        warn(f"{path.parent} is a link out of the run; the metrics are not written")
        return
    try:
        write_json(path, report)
        say(f"written   {path}")
    except OSError as error:
        say(f"note      {path} is not written: {error.strerror or error}")


def _file_name(split: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in split)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    launchers.define_flags(values)
    define_print_flag(values)
    flags.DEFINE_string("workdir", "", "The work directory of the run.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "",
        "train, val, test or a name in eval.sets, as the run's config has them, or a TFDS split "
        "such as 'test[:100]'; by default test, or val for a run without a test split.",
        flag_values=values,
    )
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    cli.define_allow_flag(values)
    cli.define_weights_flag(values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
