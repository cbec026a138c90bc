"""Plan a run: compile its whole step for devices that need not be here, and say what it needs.

  python -m vit_jax.plan --config=configs/deit.py:b [--topology=h100:8|v5e:4x4|here]
      [--step=train|eval] [--search] [--num_images=N] [--json] [--config.key=value ...]

The compiler is that of the devices: the extra `plan-tpu` installs it for TPUs, `plan-gpu` for
NVIDIA GPUs. No data set is read and nothing is computed. `--search` finds the largest batch that
fits, and what makes the config's batch fit.
"""

import dataclasses
import functools
import sys

import jax
from absl import flags

from vit_jax import config as config_lib
from vit_jax.console import cli
from vit_jax.console.progress import say, say_aside
from vit_jax.console.text import to_json
from vit_jax.errors import ConfigError
from vit_jax.planning import topologies
from vit_jax.planning.compiling import compile_step
from vit_jax.planning.declared import declare
from vit_jax.planning.search import search


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Plan the run that a config file and the flags describe."""
    resolved = config_lib.resolve(config_lib.load_config_file(values.config), overrides)
    if values.search and values.step != "train":
        raise ConfigError("--search", f"expected --step=train, got {values.step}")
    measure = functools.partial(
        compile_step,
        topology=values.topology,
        step=values.step,
        num_images=values.num_images,
        imports=values["import"].value or "",
        aside=values.json,
    )
    tell = say_aside if values.json else say
    report = measure(resolved.config)
    report = dataclasses.replace(report, notes=(*report.notes, *resolved.notes))
    for line in [] if values.json else report.describe():
        say(line)
    document = report.to_json()
    if values.search:
        train = declare(resolved.config, values.num_images).sources["train"]
        found = search(resolved.config, report, measure, len(train), tell)
        document["search"] = found.to_json()
    if values.json:
        print(to_json(document, indent=2))


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("config", "", "The config file.", flag_values=values)
    text = f"The devices: {topologies.FORMS}."
    flags.DEFINE_string("topology", topologies.HERE, text, flag_values=values)
    text = "The step to compile: train or eval."
    flags.DEFINE_string("step", "train", text, flag_values=values)
    text = "Number of training images, of a data set whose size the program does not know."
    flags.DEFINE_integer("num_images", 0, text, lower_bound=0, flag_values=values)
    text = "Search the largest batch that fits, and what makes the batch of the config fit."
    flags.DEFINE_bool("search", False, text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print the report as JSON.", flag_values=values)
    return values


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # the process that compiles takes the devices
    sys.exit(cli.run(main, _flags(), __doc__))
