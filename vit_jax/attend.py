"""Draw what a trained model attends to in images, and what it has learned.

  python -m vit_jax.attend --workdir=runs/digits IMAGE_OR_FOLDER... --output=DIR
      [--layers=last|all|blocks_3,blocks_11] [--class=top|NAME] [--size=HEIGHTxWIDTH]
      [--maps=heads,mean,rollout,relevance,components,filters,positions,distances]
      [--foreground] [--arrays] [--width=PIXELS] [--step=best|N] [--weights=ema|raw]

Writes a sheet for each image, with its attention maps, rollout, relevance and the principal
components of its features, and pictures of the model: filters, positions and distances. By default,
all maps are drawn that the model has. `--arrays` writes the numbers, too.
"""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.checkpoints import average
from vit_jax.checkpoints.pretrained import Pretrained, from_pretrained
from vit_jax.console import cli
from vit_jax.console.progress import Progress, say, say_aside
from vit_jax.console.waiting import waiting
from vit_jax.console.workdir import local_path, open_path, replacing
from vit_jax.data import transforms
from vit_jax.data.image_files import images_of
from vit_jax.data.images import UnreadableError
from vit_jax.data.reader import Reader
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import ConfigError, DataError, InputMissingError, WorkdirError
from vit_jax.viz.atlas import TOP, Atlas, Seen
from vit_jax.viz.map_names import OF_IMAGES, OF_MODEL, Maps

# What the pictures of the model show.
ABOUT = {
    "filters": "the first filters, and their principal components",
    "positions": "the similarity of position embeddings",
    "distances": "the attention distance of each head, over the images",
}


class Named(NamedTuple):
    """An image that was read."""

    path: str
    name: str  # of its files, without their suffix
    pixels: np.ndarray  # uint8 (h, w, c), as the model gets them


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Draw the maps of images, and those of the model.

    Raises:
      ConfigError: A flag is wrong, there are no operands, the model does not have a map that
        `--maps` names, or a picture would replace an image.
      DataError: No image can be read, or the model has no finite output for any.
      InputMissingError: None of the operands exists.
      WorkdirError: There can be no files in the folder.
    """
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    if not values.output:
        raise ConfigError("--output", "expected a folder for the pictures")
    output = local_path(values.output, "--output")
    if output.exists() and not output.is_dir():
        raise ConfigError("--output", f"expected a folder, got the file {output}")
    maps = Maps(values.maps.split(",") if values.maps else ())
    paths = images_of(operands)
    trained = _open(values)
    atlas = Atlas(trained, maps, values.layers, values["class"].value or TOP, values.width)
    if not any(map(os.path.exists, operands)):
        raise InputMissingError(f"{', '.join(operands)}: no such file")
    _make_folder(output)
    images = _read(paths, trained.data)
    _keep_images(paths, output, [image.name for image in images])
    progress = Progress(2 * len(images), 0, 10.0, "attend", aside=True)
    try:
        seen = list(_look(atlas, images, progress))
        if not seen:
            raise DataError("there is no map of any image")
        colours = atlas.colours([each for _, each in seen], foreground=values.foreground)
        for i, (image, each) in enumerate(seen):
            own = None if colours is None else colours[i]
            sheet, arrays = atlas.draw(os.path.basename(image.path), each, own)
            _write(output / image.name, sheet, arrays if values.arrays else {}, image.path)
            if progress.due():
                progress.show(len(images) + i + 1)
    finally:
        progress.close()
    for name, picture, arrays in atlas.of_model():
        _write(output / name, picture, arrays if values.arrays else {}, ABOUT[name])


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
    size = _parse_size(values.size, trained.model.stride)
    return dataclasses.replace(trained, data=dataclasses.replace(trained.data, image_size=size))


def _parse_size(text: str, stride: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of `HEIGHTxWIDTH`, or of one number for both.

    Raises:
      ConfigError: It is not a size, or the stride does not divide it.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise ConfigError("--size", f"expected HEIGHTxWIDTH, such as 448x336, got {text}")
    size = (int(match[1]), int(match[2] or match[1]))
    height, width = (
        max(step, round(side / step) * step) for side, step in zip(size, stride, strict=True)
    )
    fitting = (height, width)
    if size != fitting:
        problem = f"expected multiples of {_by(stride)} pixels, got {_by(size)}"
        raise ConfigError("--size", f"{problem}; {_by(fitting)} is near")
    return size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _read(paths: Sequence[str], data: config_lib.Data) -> list[Named]:
    """Return the images; print a line for one that cannot be read."""
    reader = Reader(InMemory(paths, ("",)), transforms.for_evaluation(data))
    generator = np.random.default_rng(0)  # required, but unused by the evaluation transform

    def read(index: int) -> np.ndarray | str:
        try:
            return reader.read(index, generator)["image"]
        except UnreadableError as error:
            return " ".join(str(error).split())

    found = {}
    with (
        waiting("reading the images", aside=True),
        concurrent.futures.ThreadPoolExecutor(data.threads) as threads,
    ):
        for path, pixels in zip(paths, threads.map(read, range(len(paths))), strict=True):
            if isinstance(pixels, str):
                say(f"skipped   {path}: {pixels}")
            else:
                found[path] = pixels
    names = _file_names(list(found))
    return [Named(*each) for each in zip(found, names, found.values(), strict=True)]


def _look(
    atlas: Atlas, images: Sequence[Named], progress: Progress
) -> Iterator[tuple[Named, Seen]]:
    """Yield each image with what the model makes of it; print a line if that is no number."""
    for i, image in enumerate(images, 1):
        seen = atlas.look(image.pixels)
        if np.isfinite(seen.features).all():
            yield image, seen
        else:
            say(f"skipped   {image.path}: the output of the model is not finite")
        if progress.due():
            progress.show(i)


def _file_names(paths: Sequence[str]) -> list[str]:
    """Return a name for the files of each image: its own, with a number if it is taken."""
    taken = set(OF_MODEL)
    names = []
    for path in paths:
        stem = re.sub(r"[^\w.-]", "_", pathlib.Path(path).stem) or "image"
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(
            name for name in itertools.chain([stem], numbered) if name.casefold() not in taken
        )
        taken.add(name.casefold())
        names.append(name)
    return names


def _make_folder(output: pathlib.Path) -> None:
    """Create the folder of the pictures, before there is one to write.

    Raises:
      WorkdirError: There can be no files in it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        problem = error.strerror or error
        raise WorkdirError(f"--output: cannot write to {output} ({problem})") from error


def _keep_images(paths: Sequence[str], output: pathlib.Path, names: Sequence[str]) -> None:
    """Refuse to write files of these names, or of the model, over an image.

    Raises:
      ConfigError: An image has the path of such a file.
    """
    images = {_identity(path) for path in paths if os.path.exists(path)}
    for name in (*names, *OF_MODEL):
        for file in (output / f"{name}.png", output / f"{name}.npz"):
            if file.exists() and _identity(file) in images:
                problem = f"expected a folder without the images, but {file} is one of them"
                raise ConfigError("--output", f"{problem} and would be replaced")


def _identity(path: str | pathlib.Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _write(path: pathlib.Path, picture: Any, arrays: Mapping[str, Any], about: str) -> None:
    """Write a picture, and the numbers that it shows if there are any, and say so."""
    target = epath.Path(path)
    with replacing(target.with_name(f"{path.name}.png"), "b") as file:
        if isinstance(picture, Image.Image):
            picture.save(file, "png")
        else:
            picture.savefig(file, format="png", dpi=120)
    say(f"write     {path}.png  {about}")
    if arrays:
        with replacing(target.with_name(f"{path.name}.npz"), "b") as file:
            np.savez_compressed(file, **arrays)
        say(f"write     {path}.npz  {', '.join(arrays)}")


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
