"""How many images a second one core augments: the DeiT recipe, against timm on the same images.

  pip install --no-deps timm
  taskset -c 0 python benchmarks/augmentation.py [--images=64] [--repeats=7]

From a decoded Pillow image of 500x375 to uint8 pixels of 224x224: random resized crop, flip,
RandAugment `rand-m9-mstd0.5-inc1`. RandAugment is timm's own file; its crop and flip come from
torchvision, of which there is no build for every CPU, and are written out here with the same calls
of Pillow. What follows on the device (normalization, erasing, mixing) is timed for itself.
"""

import functools
import importlib.util
import math
import pathlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from vit_jax import config
from vit_jax.console import cli
from vit_jax.console.progress import say
from vit_jax.data import mixing, transforms
from vit_jax.errors import InputMissingError
from vit_jax.evaluation import losses

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
DEIT = config.Data(crop="inception", flip=True, augment=POLICY, erasing=0.25, mean=MEAN, std=STD)


def pictures(num: int) -> list[Image.Image]:
    """Return images of 500x375 that are smooth with some noise, as photographs are."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + rng.normal(0, 8, smooth.shape)
        images.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return images


def timms_policy() -> Any:
    """Return timm's RandAugment, from its one file, which needs neither torch nor torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise InputMissingError("timm is not installed: pip install --no-deps timm")
    path = pathlib.Path(spec.origin).parent / "data" / "auto_augment.py"
    file_spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    assert file_spec is not None and file_spec.loader is not None  # noqa: S101 - for mypy
    module = importlib.util.module_from_spec(file_spec)
    file_spec.loader.exec_module(module)
    # Pillow refuses to keep 0 bits, which timm asks for at magnitude 10.
    ops = module.NAME_TO_OP
    ops["PosterizeIncreasing"] = lambda image, bits, **_: module.posterize(image, max(1, bits))
    mean = tuple(round(255 * value) for value in MEAN)
    return module.rand_augment_transform(POLICY, {"translate_const": 100, "img_mean": mean})


def theirs(policy: Any) -> Callable[[Image.Image], np.ndarray]:
    """Return what timm does to one image."""

    def augment(image: Image.Image) -> np.ndarray:
        width, height = image.size
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1.0)  # noqa: S311
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))  # noqa: S311
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if wide <= width and tall <= height:
                left = random.randint(0, width - wide)  # noqa: S311
                top = random.randint(0, height - tall)  # noqa: S311
                break
        else:
            left, top, wide, tall = 0, 0, width, height
        crop = image.crop((left, top, left + wide, top + tall))
        crop = crop.resize((224, 224), Image.Resampling.BICUBIC)
        if random.random() < 0.5:  # noqa: S311
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(policy(crop), dtype=np.uint8)

    return augment


def ours() -> Callable[[Image.Image], np.ndarray]:
    """Return what we do to one image."""
    pipeline = transforms.for_training(DEIT)
    rng = np.random.default_rng(0)
    return lambda image: pipeline(pipeline.decode(image), rng)


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Measure both in turns and print the ratio."""
    images = pictures(values.images)
    pipelines = {"timm": theirs(timms_policy()), "vit_jax": ours()}
    speeds: dict[str, list[float]] = {name: [] for name in pipelines}
    for repeat in range(values.repeats + 1):
        for name, augment in pipelines.items():
            began = time.perf_counter()
            for image in images:
                augment(image)
            if repeat:  # the first warms up
                speeds[name].append(len(images) / (time.perf_counter() - began))
    median = {name: statistics.median(repeats) for name, repeats in speeds.items()}
    for name, repeats in speeds.items():
        say(f"{name:<8}  {median[name]:6.0f} images/s  ({min(repeats):.0f} to {max(repeats):.0f})")
    ratio = median["vit_jax"] / median["timm"]
    say(f"ratio     {ratio:.2f} (vit_jax / timm, {values.repeats} interleaved repeats)")
    targets = functools.partial(losses.targets, num_classes=1000, smoothing=0.1)
    prepare = jax.jit(mixing.batch_transform(DEIT, config.Mix(mixup=0.8, cutmix=1.0), targets))
    pixels = jnp.zeros((values.images, 224, 224, 3), jnp.uint8)
    labels = jnp.zeros(values.images, jnp.int32)
    times = []
    for step in range(values.repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(prepare(pixels, labels, jax.random.key(step)))
        times.append(time.perf_counter() - began)
    device = jax.devices()[0].device_kind
    speed = values.images / statistics.median(times[1:])
    say(f"on the device, {device}: {speed:.0f} images/s normalized, erased and mixed")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_integer("images", 64, "Different images.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("repeats", 7, "Of each.", lower_bound=1, flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
