"""Train a Vision Transformer.

  python -m vit_jax.train --config=configs/digits.py [--workdir=runs/digits]
      [--config.key=value ...] [--allow_config_change=KEY] [--print_config] [--profile=10:15]
      [--report=DIR]

The run is written to the work directory, runs/<config name> by default. Running the same command
again resumes the run.
"""

import sys

from absl import flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import seals
from vit_jax.cluster import hosts, launchers
from vit_jax.config import stored
from vit_jax.config.layers import from_file
from vit_jax.config.printing import define_print_flag, print_config
from vit_jax.console import cli
from vit_jax.console.workdir import open_path
from vit_jax.data.sources.folder import choose_splits
from vit_jax.training.advice import add_advice
from vit_jax.training.goodput import age_of_process
from vit_jax.training.loop import train
from vit_jax.training.profiler import parse_window


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Train the run that a config file and the flags describe."""
    window = hosts.run_and_compare(lambda: parse_window(values.profile))
    workdir = hosts.run_and_compare(lambda: _find_workdir(values))
    resolved = hosts.run_and_compare(lambda: _resolve(values.config, overrides, workdir))
    if values.print_config:
        print_config(resolved)
        return
    allowed = tuple(values.allow_config_change)
    report = hosts.run_and_compare(
        lambda: _find_report(values.report, workdir), lambda found: {"--report": str(found)}
    )
    train(resolved, workdir, allowed, window, age=age_of_process(), report=report)


def _find_workdir(values: flags.FlagValues) -> epath.Path:
    path, argument = config_lib.split_config_path(values.config)
    default = "runs/" + "_".join([epath.Path(path).stem, *argument])
    return open_path(values.workdir or default, "--workdir")


def _find_report(text: str | None, workdir: epath.Path) -> epath.Path | None:
    """Return the directory of the report; None for an empty flag, which leaves it out."""
    if text is None:
        return workdir / "report"
    return open_path(text, "--report") if text else None


def _resolve(file: str, overrides: dict[str, str], workdir: epath.Path) -> config_lib.Resolved:
    """Return the settings; if the run resumes, its settings are one of the layers."""
    tree = config_lib.load_config_file(file)
    resumes = seals.sealed_steps(workdir / "checkpoints")
    run = stored.read_layer_to_resume(workdir) if resumes else None
    resolved = config_lib.resolve(tree, overrides, run=run)
    stored.check_places(resolved.config, run or {}, {*overrides, *from_file(tree).layer})
    return add_advice(choose_splits(resolved))


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    launchers.define_flags(values)
    define_print_flag(values)
    flags.DEFINE_string("config", "", "The config file.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        "",
        "The work directory of the run, local or gs://; runs/<config name> by default.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "allow_config_change",
        [],
        "A config key whose value may differ from the one the run was started with; may be "
        "repeated. total, optim.warmup and optim.cooldown stand for all units of these durations.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "report",
        None,
        "The directory of the report at the end of the run, report/ in the work directory by "
        "default; --report= leaves it out.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile",
        "",
        "The steps to trace, FIRST:LAST such as 10:15; the trace is written to profile/ in the "
        "work directory, for XProf.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
