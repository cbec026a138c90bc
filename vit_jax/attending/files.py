"""The files of the command attend: replaced as a whole, and never written over an image."""

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from PIL import Image

from vit_jax.console.progress import say
from vit_jax.console.workdir import replacing
from vit_jax.errors import ConfigError, WorkdirError
from vit_jax.interpretation.overview import OF_MODEL

if TYPE_CHECKING:
    import matplotlib.figure


def make_folder(output: pathlib.Path) -> None:
    """Create the folder of the pictures, before there is one to write.

    Args:
      output: The folder.

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


def keep_images(paths: Sequence[str], output: pathlib.Path, names: Sequence[str]) -> None:
    """Refuse to write files of these names, or of the model, over an image.

    Args:
      paths: Paths of all images, also of those that cannot be read.
      output: The folder of the files.
      names: Names of the files about images, without their suffix.

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


def write(
    path: pathlib.Path,
    picture: "Image.Image | matplotlib.figure.Figure",
    arrays: Mapping[str, Any],
    about: str,
) -> None:
    """Write a picture, and the numbers that it shows if there are any, and say so.

    Args:
      path: The path of the files, without their suffix.
      picture: The picture.
      arrays: The numbers by name, for the `.npz` file.
      about: What the picture shows.
    """
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
