"""Probe frozen features: nearest neighbours, linear probes, few-shot.

  python -m vit_jax.probe --workdir=runs/digits [--probes=knn,ridge] [--split=val]
      [--layer=blocks_5] [--pool=cls|mean] [--step=best|N] [--weights=ema|raw]
      [--config.key=value ...]
  python -m vit_jax.probe --train=FILE --test=FILE [--val=FILE] [--output=FILE]

Probes are fitted on the features of the train split, without augmentation, and measured on another
split. Files are those of vit_jax.embed.
"""

import itertools
import sys

import jax
from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import average, pretrained
from vit_jax.cluster import hosts, launchers, sharding
from vit_jax.config import shared_by_hosts
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.console.text import to_json
from vit_jax.console.waiting import cache_directory, waiting
from vit_jax.console.workdir import check_writable, naming_failures, open_path, write_json
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError, pick
from vit_jax.evaluation.embedding import SourceEmbedder
from vit_jax.evaluation.probes import PROBES, Probe, Result, Settings, Task
from vit_jax.evaluation.probes.labelled import EVERY, count_known
from vit_jax.evaluation.probes.lines import format_result
from vit_jax.evaluation.probes.parts import Probed, document, labelled, read_files
from vit_jax.evaluation.requests import Request, open_images, resolve, splits_read
from vit_jax.evaluation.result_files import write_result

FILES = ("train", "val", "test")


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Probe the features of a run or of files; print the accuracies as JSON.

    Raises:
      ConfigError: A flag is wrong.
      DataError: The features cannot be probed.
      InputMissingError: There is no such run or file, or a package is missing.
      WorkdirError: The file cannot be written.
    """
    chosen, settings = _choose_probes(values)
    output = open_path(values.output, "--output") if values.output else None
    if output is not None:
        check_writable(output, "--output")
    probed = _embed(values, overrides) if values.workdir else _read(values, overrides)
    train = labelled("--train", probed.train)
    val = probed.val and labelled("--val", probed.val)
    test = labelled("--test", probed.test)
    task = Task(train, val, test, len(probed.train.class_names), settings)
    count, width = train.features.shape
    say(f"train     {probed.titles['train']}: {count:,} images, {width:,} features")
    if known := count_known(train, test):
        say(f"note      {known:,} of the images to predict have the features of an image of train")
    if any(probe.chooses for probe in chosen.values()):
        part = probed.titles.get("val", f"every {EVERY}th image of each class of train")
        say(f"penalty   the best on {part}; then all of train is fitted")
    for text in dict.fromkeys(probe.scaling for probe in chosen.values()):
        names = [name for name, probe in chosen.items() if probe.scaling == text]
        say(f"scaling   {', '.join(names)}: {text}")
    results = {}
    for name, probe in chosen.items():
        with waiting(f"probing: {name}"):
            results[name] = probe.measure(task)
        for line in format_result(name, results[name]):
            say(line)
    _report(output, (values.layer, values.pool), probed, results)


def _choose_probes(values: flags.FlagValues) -> tuple[dict[str, Probe], Settings]:
    """Return the probes by name, and their settings.

    Raises:
      ConfigError: A name is unknown, or a number of shots is not a positive integer.
      InputMissingError: A package that a probe needs is not installed.
    """
    chosen = {name: pick(PROBES, name, "--probes") for name in values.probes}
    for probe in chosen.values():
        probe.require()
    for text in values.shots:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError("--shots", f"expected positive integers with commas, got '{text}'")
    shots = tuple(map(int, values.shots))
    return chosen, Settings(values.neighbours, shots=shots, seeds=values.seeds)


def _read(values: flags.FlagValues, overrides: dict[str, str]) -> Probed:
    """Return the embeddings of files.

    Raises:
      ConfigError: A flag is missing, or the files do not belong together.
    """
    given = {name: str(values[name].value) for name in FILES if values[name].value}
    if not given:
        problem = "expected the work directory of a run, or files: --train=FILE --test=FILE"
        raise ConfigError("--workdir", problem)
    for name in ("train", "test"):
        if name not in given:
            raise ConfigError(f"--{name}", "expected a file that vit_jax.embed wrote")
    for flag in ("split", "layer", "pool", "step", "weights"):
        if values[flag].value:
            raise ConfigError(f"--{flag}", "expected no such flag with --train and --test")
    if overrides:
        raise ConfigError(f"--config.{min(overrides)}", "expected no such flag with --train")
    probed = read_files(given)
    say(f"probe     {values.test}")
    return probed


def _embed(values: flags.FlagValues, overrides: dict[str, str]) -> Probed:
    """Return the embeddings of the splits of a run.

    Raises:
      ConfigError: A flag is wrong.
    """
    for name in FILES:
        if values[name].value:
            raise ConfigError(f"--{name}", "expected no such file with --workdir")
    names = ("workdir", "split", "step", "weights", "layer", "pool")
    flag_values = {f"--{name}": values[name].value for name in names}
    test, train, val = hosts.run_and_compare(
        lambda: _requests(values.workdir, values.split, overrides),
        lambda found: {**flag_values, **shared_by_hosts(found[0].resolved.config, {})},
    )
    config, workdir = test.resolved.config, test.workdir
    weights = values.weights or ""
    mesh = sharding.make_mesh(config.mesh.sizes)
    allowed = values.allow_config_change
    run = pretrained.open_run(workdir, values.step, config, mesh, weights=weights, allowed=allowed)
    with jax.set_mesh(mesh):
        with waiting("opening the data set"):
            sources = hosts.run_and_compare(
                lambda: _open(train, val, test),
                lambda found: {name: source.fingerprint for name, source in found.items()},
            )
        embed = SourceEmbedder(run, config, mesh, values.layer or "", values.pool or "")
        say(f"probe     {workdir}, step {run.step:,}, on {sources['test'].title}")
        opened = [test.resolved.notes, train.resolved.notes, val.resolved.notes if val else ()]
        opened += [source.notes for source in sources.values()]
        for note in dict.fromkeys(itertools.chain(*opened)):  # splits of a folder share notes
            say(f"note      {note}")
        if choice := average.describe(config_lib.read_config(workdir), weights):
            say(f"weights   {choice}")
        say(f"features  {embed.features}")
        if where := cache_directory():
            say(f"cache     {where} (compiled programs)")
        found = {name: embed(source) for name, source in sources.items()}
    titles = {name: source.title for name, source in sources.items()}
    parts = (found["train"], found.get("val"), found["test"])
    return Probed(*parts, titles, test.split, workdir)


def _requests(
    workdir: str, split: str, overrides: dict[str, str]
) -> tuple[Request, Request, Request | None]:
    """Return what to predict, what to fit, and the val split, if it may choose penalties.

    Raises:
      ConfigError: A flag is wrong, or the split is the one that probes are fitted on.
    """
    test = resolve(workdir, split, overrides)
    if test.split == "train":
        raise ConfigError("--split", "expected other images than train, which probes are fitted on")
    val = resolve(workdir, "val", overrides) if "val" in test.known else None
    if val is not None and _splits(val) & _splits(test):
        val = None
    return test, resolve(workdir, "train", overrides), val


def _splits(request: Request) -> frozenset[tuple[str, str, str]]:
    return splits_read(request.resolved.config, request.split)


def _open(train: Request, val: Request | None, test: Request) -> dict[str, Source]:
    """Return the images of each part, which have the same classes."""
    first = open_images(train)
    others = {"val": val, "test": test}
    opened = {
        name: open_images(request, first.class_names)
        for name, request in others.items()
        if request is not None
    }
    return {"train": first, **opened}


def _report(
    output: epath.Path | None,
    asked: tuple[str | None, ...],
    probed: Probed,
    results: dict[str, Result],
) -> None:
    """Print the results as JSON; write them to a file.

    Args:
      output: The file; None: one in the run.
      asked: The layer and the pool of the flags, which the name of a file in the run has.
      probed: What was probed.
      results: The results by probe.

    Raises:
      WorkdirError: The file cannot be written.
    """
    report = document(probed, results)
    if output is not None:
        with naming_failures(output, "--output"):
            write_json(output, report)
        say(f"written   {output}")
    elif probed.workdir is not None:
        name = "-".join(["probe", probed.split, *filter(None, asked)])
        write_result(probed.workdir, report["step"], name, report)
    say(to_json(report))


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    launchers.define_flags(values)
    flags.DEFINE_string("workdir", "", "The work directory of a run.", flag_values=values)
    text = "Files of vit_jax.embed to probe instead of a run: its features of the {} images."
    for name, images in (("train", "training"), ("val", "validation"), ("test", "test")):
        flags.DEFINE_string(name, "", text.format(images), flag_values=values)
    flags.DEFINE_list("probes", list(PROBES), "The probes, with commas.", flag_values=values)
    flags.DEFINE_string(
        "split",
        "",
        "The images to predict: val, test or a name in eval.sets, as the run's config has them, or "
        "a TFDS split, DATASET:SPLIT or FOLDER:SPLIT; by default test, or val for a run without a "
        "test split.",
        flag_values=values,
    )
    text = "A layer such as blocks_5; the input of the head by default."
    flags.DEFINE_string("layer", "", text, flag_values=values)
    text = "How tokens become one vector; as the model does by default."
    flags.DEFINE_enum("pool", None, ["cls", "mean"], text, flag_values=values)
    text = "Number of nearest neighbours."
    flags.DEFINE_integer("neighbours", Settings().neighbours, text, 1, flag_values=values)
    text = "Numbers of training images of each class for few_shot, with commas."
    flags.DEFINE_list("shots", list(map(str, Settings().shots)), text, flag_values=values)
    text = "Number of draws of few_shot."
    flags.DEFINE_integer("seeds", Settings().seeds, text, 1, flag_values=values)
    text = "A JSON file to write instead of one in the run."
    flags.DEFINE_string("output", "", text, flag_values=values)
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    cli.define_allow_flag(values)
    cli.define_weights_flag(values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
