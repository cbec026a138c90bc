"""Print the parameters and GFLOPs of models.

  python -m vit_jax.models ['vit_b*' deit_s14 ...] [--image_size=224 or 224,320]

GFLOPs are billions of multiply-adds for one RGB image. A model whose stride does not divide the
image size is profiled at the nearest size that it does, which its line states.
"""

import sys

from absl import flags

from vit_jax import models
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.errors import ConfigError


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Print one line per model.

    Raises:
      ConfigError: No such model, or the image size is invalid.
    """
    image_size = _image_size(values.image_size)
    names = [name for operand in operands or ["*"] for name in _matches(operand)]
    created = {name: models.create(name) for name in names}
    say(f"{'model':<20}{'parameters':>15}{'GFLOPs':>10}  image size")
    for name, model in created.items():
        rows, columns = model.stride
        height, width = (
            max(1, round(size / stride)) * stride
            for size, stride in zip(image_size, (rows, columns), strict=True)
        )
        note = "" if (height, width) == image_size else f", stride {rows}x{columns}"
        cost = models.profile(model, (height, width))
        line = f"{name:<20}{cost.parameters:>15,}{cost.gflops:>10.4g}"
        say(f"{line}  {height}x{width}{note}")


def _matches(operand: str) -> list[str]:
    """Return the registered names that match, or the operand itself.

    A model that is not registered has a name too, such as `vit_b14`.
    """
    return models.list_models(operand) or [operand]


def _image_size(text: str) -> tuple[int, int]:
    """Parse the side of a square, or height and width."""
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
