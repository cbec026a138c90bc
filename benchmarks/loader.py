"""How many images a second one CPU core reads for training, from JPEG files in a folder.

  python benchmarks/loader.py [--images=256] [--repeats=5]

The files are 500x375 pixels and about 110 kB each, as in ImageNet (138 GB for 1,281,167 images).
The stream of training batches decodes, crops and augments them to uint8 pixels of 224x224. What is
counted is CPU seconds of all threads, so that other work on the machine matters little.
"""

import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time

from absl import flags
from augmentation import DEIT, pictures

from vit_jax import config
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.data.loader import train_batches
from vit_jax.data.sources.registry import open_split

QUALITY = 96  # of the JPEG files: about 110 kB for these pictures
BATCH = 32
RECIPES = {
    "crop and flip": config.Data(crop="inception", flip=True),
    "DeiT: crop, flip, RandAugment": DEIT,
}


def write_photos(folder: pathlib.Path, num: int) -> float:
    """Write pictures of two classes as JPEG files, and return their mean size in bytes."""
    for i, image in enumerate(pictures(num)):
        path = folder / f"class_{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.save(path, quality=QUALITY)
    return statistics.mean(path.stat().st_size for path in folder.rglob("*.jpg"))


def speeds(data: config.Data, num: int, repeats: int) -> list[float]:
    """Return the images per CPU second of each repeat, without the first, which warms up."""
    batches = train_batches(open_split(data, "train_split"), data, BATCH, seed=0)
    measured = []
    try:
        for _ in range(repeats + 1):
            began = time.process_time()
            for _ in range(-(-num // BATCH)):
                next(batches)
            measured.append(-(-num // BATCH) * BATCH / (time.process_time() - began))
    finally:
        batches.close()
    return measured[1:]


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Write the files, and print the speed of each recipe."""
    with tempfile.TemporaryDirectory() as name:
        size = write_photos(pathlib.Path(name), values.images)
        say(f"{values.images} JPEG files of 500x375 pixels, {size / 1000:.0f} kB each")
        for title, recipe in RECIPES.items():
            data = dataclasses.replace(recipe, root=name, train_split="train", threads=2)
            found = speeds(data, values.images, values.repeats)
            spread = f"({min(found):.0f} to {max(found):.0f})"
            say(f"{title:<32}{statistics.median(found):5.0f} images per CPU second {spread}")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_integer("images", 256, "Different images.", lower_bound=2, flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Of all images.", lower_bound=1, flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
