"""Draw what a trained model attends to in images, and what it has learned.

  python -m vit_jax.attend --workdir=runs/digits IMAGE_OR_FOLDER... --output=DIR
      [--layers=last|all|blocks_3,blocks_11] [--class=top|NAME] [--size=HEIGHTxWIDTH]
      [--maps=heads,mean,rollout,relevance,components,filters,positions,distances]
      [--foreground] [--arrays] [--width=PIXELS] [--step=best|N] [--weights=ema|raw]

Writes a sheet for each image, with its attention maps, rollout, relevance and the principal
components of its features, and pictures of the model: filters, positions and distances. By default,
all maps are drawn that the model has. `--arrays` writes the numbers, too.
"""

import dataclasses
import sys
from typing import cast

from absl import flags

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.attending.drawing import draw_images
from vit_jax.attending.files import keep_images, make_folder, write
from vit_jax.attending.images import read_images
from vit_jax.attending.request import (
    TOP,
    Request,
    choose_layers,
    choose_maps,
    find_class,
    parse_size,
)
from vit_jax.checkpoints import average
from vit_jax.checkpoints.pretrained import Pretrained, from_pretrained
from vit_jax.console import cli
from vit_jax.console.progress import say_aside
from vit_jax.console.waiting import waiting
from vit_jax.console.workdir import local_path, open_path
from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.evaluation.operands import images_of
from vit_jax.interpretation.overview import OF_IMAGES, OF_MODEL, model_maps
from vit_jax.viz.drawing import figure_class
from vit_jax.viz.map_sheets import model_picture

# What the pictures of the model show.
ABOUT = {
    "filters": "the first filters, and their principal components",
    "positions": "the similarity of position embeddings",
    "distances": "the attention distance of each head, over the images",
}


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Draw the maps of images, and those of the model.

    Raises:
      ConfigError: A flag is wrong, there are no operands, the model does not have a map that
        `--maps` names, or a picture would replace an image.
      DataError: No image can be read, or the model has no finite output for any.
      InputMissingError: None of the operands exists, or a map that `--maps` names needs a package
        that is not installed.
      WorkdirError: There can be no files in the folder.
    """
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    if not values.output:
        raise ConfigError("--output", "expected a folder for the pictures")
    output = local_path(values.output, "--output")
    if output.exists() and not output.is_dir():
        raise ConfigError("--output", f"expected a folder, got the file {output}")
    names = choose_maps(values.maps)
    paths = images_of(operands)
    trained = _open(values)
    model = cast(models.Transformer, trained.model)
    request = Request(
        names=names,
        is_explicit=bool(values.maps),
        layers=choose_layers(values.layers, model),
        label=find_class(values["class"].value or TOP, trained.labels),
        width=values.width,
        foreground=values.foreground,
        arrays=values.arrays,
    )
    make_folder(output)
    images = read_images(paths, trained.data)
    keep_images(paths, output, [image.name for image in images])
    of_model, lacking = model_maps(
        model, trained.variables, trained.data.image_shape, request.names
    )
    request = request.without({**lacking, **_lacking_packages(request)})
    request, distances = draw_images(trained, images, request, output)
    if "distances" in request.names:
        of_model["distances"] = distances
    for name, arrays in of_model.items():
        picture = model_picture(name, arrays)
        write(output / name, picture, arrays if values.arrays else {}, ABOUT[name])


def _lacking_packages(request: Request) -> dict[tuple[str, ...], InputMissingError]:
    """Return why maps cannot be drawn for want of a package, by their names."""
    if "distances" in request.names:
        try:
            figure_class()
        except InputMissingError as error:
            return {("distances",): error}
    return {}


def _open(values: flags.FlagValues) -> Pretrained:
    """Open the run, with images of the size of `--size`.

    Raises:
      ConfigError: The model does not take images of this size.
    """
    weights = values.weights or ""
    config = config_lib.read_config(open_path(values.workdir, "--workdir"))
    with waiting("verifying and restoring the checkpoint", aside=True):
        trained = from_pretrained(
            values.workdir,
            step=values.step,
            weights=weights,
            allow_config_change=values.allow_config_change,
        )
    if choice := average.describe(config, weights):
        say_aside(f"weights   {choice}")
    if not values.size:
        return trained
    size = parse_size(values.size, trained.model.stride)
    return dataclasses.replace(trained, data=dataclasses.replace(trained.data, image_size=size))


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    values.set_gnu_getopt(True)  # flags may follow the images
    text = "Maps to draw, separated by commas; all that the model has by default: "
    flags.DEFINE_string("workdir", "", "The work directory of the run.", flag_values=values)
    flags.DEFINE_string("output", "", "The folder for the pictures.", flag_values=values)
    flags.DEFINE_string("maps", "", text + ", ".join(OF_IMAGES + OF_MODEL), flag_values=values)
    text = "Layers whose attention is drawn: last, all, or names such as blocks_3,blocks_11."
    flags.DEFINE_string("layers", "last", text, flag_values=values)
    text = "The class of the relevance maps; top: the most probable one of each image."
    flags.DEFINE_string("class", TOP, text, flag_values=values)
    text = "HEIGHTxWIDTH of the images in pixels, as the run has it by default."
    flags.DEFINE_string("size", "", text, flag_values=values)
    text = "Show only patches in the foreground as principal components."
    flags.DEFINE_bool("foreground", False, text, flag_values=values)
    flags.DEFINE_bool("arrays", False, "Write the numbers as npz files, too.", flag_values=values)
    text = "Width of a picture in pixels."
    flags.DEFINE_integer("width", 192, text, lower_bound=16, upper_bound=4096, flag_values=values)
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    cli.define_allow_flag(values)
    cli.define_weights_flag(values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=cli.parse_operands))
