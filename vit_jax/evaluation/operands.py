"""The images that the operands of a command name."""

import os
from collections.abc import Sequence

from vit_jax.console.progress import warn
from vit_jax.data.image_files import find_images
from vit_jax.errors import ConfigError, DataError, InputMissingError


def images_of(operands: Sequence[str]) -> list[str]:
    """Return the paths of the images that operands name: a folder names all images below it.

    Args:
      operands: Paths of images and of folders. Some of them may be missing: a missing image is
        unreadable. A warning says what is skipped in a folder.

    Raises:
      ConfigError: There is no operand.
      DataError: The folders hold no image, or cannot be listed.
      InputMissingError: None of the operands exists.
    """
    if not operands:
        raise ConfigError("IMAGE", "expected images or folders of images after the flags")
    if not any(map(os.path.exists, operands)):
        raise InputMissingError(f"{', '.join(operands)}: no such file")
    paths = []
    for operand in operands:
        if not os.path.isdir(operand):
            paths.append(operand)
            continue
        (found,) = find_images(operand)
        if found.passed_over():
            warn(f"{operand}: skipped {found.passed_over()}")
        paths += [image.path for image in found.images]
    if not paths:
        raise DataError(f"{' '.join(operands)}: expected images, found none")
    return paths
