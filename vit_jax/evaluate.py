"""Evaluate a run: every image counts exactly once.

  python -m vit_jax.evaluate --workdir=runs/digits [--split=val,test] [--step=best|N]
      [--weights=ema|raw|both] [--against=runs/other] [--label_set=NAME] [--table=FILE.npz]
      [--report=DIR] [--config.key=value ...] [--print_config]

Reads the run's config.json and a checkpoint, the newest by default. The default split is `test`, or
`val` for a run without a test split. No config file is run.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import average
from vit_jax.cluster import hosts, launchers, sharding
from vit_jax.config.identity import changed_outputs
from vit_jax.config.printing import define_print_flag, print_config
from vit_jax.console import cli, tables
from vit_jax.console.progress import say
from vit_jax.console.text import to_json
from vit_jax.console.waiting import cache_directory
from vit_jax.console.workdir import open_path
from vit_jax.errors import ConfigError
from vit_jax.evaluation import prediction_table, summary
from vit_jax.evaluation.against import check_classes, check_run, compare, stored_classes
from vit_jax.evaluation.label_sets import summarize_corruptions
from vit_jax.evaluation.requests import Request, resolve_all
from vit_jax.evaluation.result_files import write_result
from vit_jax.evaluation.sets import EvaluatedSet, Keep, measure, open_sets, open_validation
from vit_jax.evaluation.subjects import Subject, open_subject
from vit_jax.reporting.content import Content
from vit_jax.reporting.writing import Shown, check_directory, gather, write_report
from vit_jax.training.objectives import find_objective

BOTH = "both"


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Evaluate a checkpoint of a run; print the metrics as JSON and write them to a file."""
    names = ("workdir", "split", "step", "weights", "against", "label_set", "calibrate")
    flag_values = {f"--{name}": values[name].value for name in names}
    requests = hosts.run_and_compare(
        lambda: resolve_all(values.workdir, values.split, overrides),
        lambda found: {
            **flag_values,
            **config_lib.shared_by_hosts(found[0].resolved.config, {}),
        },
    )
    if values.print_config:
        print_config(requests[0].resolved)
        return
    table = tables.check_output(values.table, "--table") if values.table else None
    directory = check_directory(values.report, "--report") if values.report else None
    sets = evaluate(values, requests, overrides)
    workdir = requests[0].workdir
    run, used = config_lib.read_config(workdir), requests[0].resolved.config
    changed = {"settings": settings} if (settings := changed_outputs(run, used)) else {}
    for found in sets:
        found.report |= changed
        write_result(workdir, found.report["step"], found.name, found.report)
    content = _summarize(sets)
    if corruptions := content.get("corruptions"):
        means = {"step": content["step"], "corruptions": corruptions, **changed}
        write_result(workdir, content["step"], "corruptions", means)
    if table is not None:
        rows = prediction_table.join([rows for found in sets for rows in found.tables])
        tables.write_table(table, rows, flag="--table")
        say(f"written   {table}")
    if directory is not None:
        _report(directory, values, sets)
    say(to_json(content))


def evaluate(
    values: flags.FlagValues, requests: Sequence[Request], overrides: Mapping[str, str]
) -> list[EvaluatedSet]:
    """Return each set with its report, which is also printed, and what other flags need of it.

    Models are on the devices one after the other, and all weights are of one step.

    Raises:
      UserError: A flag, the run or the data is wrong.
    """
    config, workdir = requests[0].resolved.config, requests[0].workdir
    labelled = find_objective(config).needs_labels
    if labelled and not config.model["num_classes"]:
        problem = f"{workdir} has a model without classes, for features only"
        raise ConfigError("--workdir", f"{problem}; python -m vit_jax.probe classifies them")
    other = _read_other(values.against, config) if values.against else None
    keep = Keep(
        table=bool(values.table),
        logits=bool(values.against or values.report),
        features=bool(values.report),
    )
    mesh = sharding.make_mesh(config.mesh.sizes)
    step, sets = values.step, list[EvaluatedSet]()
    with jax.set_mesh(mesh):
        for weights in average.CHOICES if values.weights == BOTH else (values.weights or "",):
            subject = _open(values, workdir, config, mesh, step=step, weights=weights)
            step = str(subject.trained.step)  # of a run that goes on, the newest one changes
            is_first = not sets
            if is_first:
                _check_predicts(values, subject)
                if other and (names := stored_classes(other[0])):
                    check_classes(subject.trained.labels, names)
                sets = open_sets(requests, subject, labelled, values.label_set)
                validation = open_validation(values.calibrate, sets, subject, overrides)
            if choice := average.describe(config_lib.read_config(workdir), weights):
                say(f"weights   {choice}")
            if is_first and (where := cache_directory()):
                say(f"cache     {where} (compiled programs)")
            measure(sets, subject, validation, keep)
            class_names = subject.trained.labels
            del subject  # the next model needs its memory
        if other:
            subject = _open(values, *other, mesh)
            check_classes(class_names, subject.trained.labels)
            for found in sets:
                _compare(found, subject)
    return sets


def _report(directory: epath.Path, values: flags.FlagValues, sets: Sequence[EvaluatedSet]) -> None:
    """Write a report of the sets, with maps by the weights that were evaluated first."""
    workdir, config = sets[0].request.workdir, sets[0].request.resolved.config
    step = str(sets[0].report["step"])
    weights = average.CHOICES[0] if values.weights == BOTH else values.weights or ""
    mesh = sharding.make_mesh(config.mesh.sizes)

    @functools.cache
    def trained() -> tuple[nn.Module, Mapping[str, Any]]:
        subject = _open(values, workdir, config, mesh, step=step, weights=weights)
        return subject.trained.model, subject.trained.variables

    def content() -> Content:
        shown = [Shown(found.predictions, found.source) for found in sets if found.predictions]
        return gather(workdir, [found.report for found in sets], shown, config.data, trained)

    with jax.set_mesh(mesh):
        hosts.run_on_host0(functools.partial(write_report, directory, content))


def _open(
    values: flags.FlagValues,
    workdir: epath.Path,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    step: str = "",
    weights: str = "",
) -> Subject:
    return open_subject(
        workdir,
        config,
        mesh,
        find_objective(config).evaluator,
        step=step,
        weights=weights,
        allowed=values.allow_config_change,
    )


def _check_predicts(values: flags.FlagValues, subject: Subject) -> None:
    """Check that the run makes predictions if a flag needs them.

    Raises:
      ConfigError: It makes none.
    """
    for flag in ("table", "label_set", "calibrate", "against"):
        if values[flag].value and not subject.predicts:
            raise ConfigError(
                f"--{flag}", f"the evaluators of {subject.workdir} make no predictions"
            )


def _read_other(against: str, config: config_lib.Config) -> tuple[epath.Path, config_lib.Config]:
    """Return the run folder of `--against` and its config, if it predicts as many classes.

    Raises:
      ConfigError: It has another number of classes, or makes no predictions.
      InputMissingError: There is no such run.
    """
    path = open_path(against, "--against")
    other = hosts.run_and_compare(lambda: config_lib.read_config(path))
    check_run(path, other, config.model["num_classes"], find_objective(other).evaluator)
    return path, other


def _compare(found: EvaluatedSet, subject: Subject) -> None:
    """Evaluate another model on the same images, and add the comparison to the report."""
    second = found.measure(subject).predictions
    assert found.predictions and second  # noqa: S101 - both predict; for the type checker
    compared = compare(
        found.predictions,
        second,
        other=str(subject.workdir),
        step=subject.trained.step,
        weights=subject.weights,
    )
    found.report["against"] = compared
    for line in summary.describe_against(compared):
        say(line)


def _summarize(sets: Sequence[EvaluatedSet]) -> dict[str, Any]:
    """Return the last line: the metrics of all sets with their intervals."""
    reports = [found.report for found in sets]
    content: dict[str, Any] = {"step": reports[0]["step"]}
    for key in ("eval", "intervals"):
        content[key] = {label: of for report in reports for label, of in report[key].items()}
    compared = [report["against"] for report in reports if "against" in report]
    if compared:
        kept = ("other", "difference", "mcnemar")
        content["against"] = {found["set"]: {key: found[key] for key in kept} for found in compared}
    if corruptions := summarize_corruptions(content["eval"]):
        content["corruptions"] = corruptions
    return content


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    launchers.define_flags(values)
    define_print_flag(values)
    flags.DEFINE_string("workdir", "", "The work directory of the run.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "",
        "Names with commas: train, val, test or a name in eval.sets, as the run's config has them, "
        "a TFDS split such as 'test[:100]', DATASET:SPLIT or FOLDER:SPLIT; by default test, or val "
        "for a run without a test split.",
        flag_values=values,
    )
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    flags.DEFINE_enum(
        "weights",
        None,
        [*average.CHOICES, BOTH],
        "ema (exponential moving average), raw, or both side by side. Default: ema if the "
        "checkpoint has it.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "against", "", "Another run, to compare with on the same images.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "label_set",
        [],
        "The classes that count: a label set by name or in a file, for all sets, or SET=NAME for "
        "one. Repeat the flag for several.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "calibrate",
        None,
        "The split or set of the run that temperatures are fitted to; by default val, if the run "
        "has it; empty: none.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "table", "", "A .npz or .parquet file for the prediction of each image.", flag_values=values
    )
    flags.DEFINE_string(
        "report",
        "",
        "A directory for a report: one HTML file of the figures, the images and the run.",
        flag_values=values,
    )
    cli.define_allow_flag(values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
