"""Print how large and how costly models are.

  python -m vit_jax.models ['vit_b*' deit_s14 ...] [--image_size=224 or 224,320]

GFLOPs are billions of multiply-adds for one RGB image. A model whose stride does not divide the
size is measured at the nearest size that it takes, which its line tells.
"""

import sys

from absl import flags

from vit_jax import models
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.errors import ConfigError


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Prints a line a model as soon as it is known.

    Raises:
      ConfigError: No model has such a name, or the image size is none.
    """
    asked = _image_size(values.image_size)
    # What is no pattern of registered names may be the name of another model.
    found = [models.list_models(operand) or [operand] for operand in operands or ["*"]]
    built = {name: models.create(name) for names in found for name in names}
    say(f"{'model':<20}{'parameters':>15}{'GFLOPs':>10}  image size")
    for name, model in built.items():
        rows, columns = model.stride
        height, width = (
            max(1, round(size / stride)) * stride
            for size, stride in zip(asked, (rows, columns), strict=True)
        )
        note = "" if (height, width) == asked else f", stride {rows}x{columns}"
        cost = models.profile(model, (height, width))
        line = f"{name:<20}{cost.parameters:>15,}{cost.gflops:>10.4g}"
        say(f"{line}  {height}x{width}{note}")


def _image_size(text: str) -> tuple[int, int]:
    """Reads a side of a square, or height and width."""
    sides = text.split(",")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ConfigError("--image_size", f"expected pixels, as in 224 or 224,320, got '{text}'")
    return int(sides[0]), int(sides[-1])


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    values.set_gnu_getopt(True)  # flags may follow the names
    flags.DEFINE_string("image_size", "224", "Pixels: a side, or height,width.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=cli.parse_operands))
