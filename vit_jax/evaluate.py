"""Evaluate a run: every image counts exactly once.

  python -m vit_jax.evaluate --workdir=runs/digits [--split=val] [--step=best|N]
      [--weights=ema|raw] [--config.key=value ...] [--print_config]

Reads the run's config.json and a checkpoint, the newest by default. The default split is `test`, or
`val` for a run without a test split. No config file is run.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import average, pretrained
from vit_jax.cluster import hosts, launchers, sharding
from vit_jax.config import SPLITS, shared_by_hosts, stored
from vit_jax.config.identity import SETS
from vit_jax.config.printing import define_print_flag, print_config
from vit_jax.console import cli
from vit_jax.console.progress import say, warn
from vit_jax.console.text import to_json
from vit_jax.console.waiting import cache_directory, waiting
from vit_jax.console.workdir import is_local, open_path, write_json
from vit_jax.data import transforms
from vit_jax.data.sources import Source
from vit_jax.data.sources.folder import choose_splits
from vit_jax.data.sources.registry import note_on_order, open_set, open_split
from vit_jax.errors import ConfigError
from vit_jax.evaluation.evaluators import make_evaluators
from vit_jax.evaluation.loop import Evaluation
from vit_jax.training.objectives import find_objective


class Request(NamedTuple):
    """What to evaluate."""

    workdir: epath.Path
    resolved: config_lib.Resolved
    split: str  # the label of the results: train, val, test, the name of a set, or a TFDS split
    field: str  # the field of the data section that names the split, or `SETS`
    known: tuple[str, ...]  # the splits and sets of the run, for messages


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Evaluate a checkpoint of a run; print the metrics as JSON and write them to a file."""
    names = ("workdir", "split", "step", "weights")
    flag_values = {f"--{name}": values[name].value for name in names}
    request = hosts.run_and_compare(
        lambda: _resolve(values, overrides),
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
                lambda: _open(request, run.class_names, objective.needs_labels),
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


def _open(request: Request, class_names: tuple[str, ...], labelled: bool) -> Source:
    """Open the images; if they are labelled, check that they have the classes of the model."""
    config, field = request.resolved.config, request.field
    class_names = class_names if labelled else ()
    if field == SETS:
        path = "config.eval.sets"
        source = open_set(config, request.split, class_names)
    else:
        path = f"config.data.{field}"
        try:
            source = open_split(config.data, field, class_names)
        except ConfigError as error:
            if error.path != path or request.split in request.known:
                raise
            names = ", ".join(request.known) or "no split of its own"
            problem = f"{error.problem.rstrip('.')}; the run has {names}"
            raise ConfigError("--split", problem) from error
    count = len(source.class_names)
    if labelled and count != config.model["num_classes"]:
        problem = f"{source.title} has {count} classes, the model {config.model['num_classes']}"
        raise ConfigError(path, problem)
    return source


def _resolve(values: flags.FlagValues, overrides: dict[str, str]) -> Request:
    """Return what the flags ask for."""
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    workdir = open_path(values.workdir, "--workdir")
    run = stored.without_mesh(stored.read_layer(workdir))
    trained = config_lib.merge(run=run).config
    merged = config_lib.merge(None, overrides, run=run)
    chosen = choose_splits(merged)
    data, sets = chosen.config.data, dict(chosen.config.eval.sets)
    known = (*(name for name, field in SPLITS.items() if getattr(data, field)), *sets)
    split = values.split or _default_split(known)
    field = SETS if split in sets else SPLITS.get(split, "test_split")
    if field != SETS:
        text = getattr(data, field) if split in known else split
        if text != getattr(merged.config.data, field):
            overrides = {**overrides, f"data.{field}": text}
    resolved = config_lib.resolve(None, overrides, run=run)
    resolved = config_lib.fit_to_weights(resolved, str(workdir), trained)
    stored.check_places(resolved.config, run, overrides)
    transforms.check(resolved.config.data)
    notes = [*resolved.notes, *chosen.notes[len(merged.notes) :]]
    if split != (values.split or "test"):
        notes.append(f"--split={split}, as the run has no test split")
    resolved = dataclasses.replace(resolved, notes=tuple(notes))
    return Request(workdir, resolved, split, field, known)


def _default_split(known: tuple[str, ...]) -> str:
    """Return `test`, or `val` if the run has no test split.

    Args:
      known: The splits and sets of the run.

    Raises:
      ConfigError: It has neither.
    """
    for split in ("test", "val"):
        if split in known:
            return split
    others = f"the run has {', '.join(known)}" if known else "the run has no splits"
    raise ConfigError("--split", f"there is no test or val split ({others}); pass --split=NAME")


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
