"""Label images with a trained run.

  python -m vit_jax.predict --workdir=runs/digits IMAGE_OR_FOLDER... [--topk=5] [--json]
      [--step=best|N] [--weights=ema|raw]

Preprocessing and class names come from the run. In a notebook:

  predictor = Predictor("runs/digits")
  predictor(["a.jpg", "b.png"])
"""

import collections
import concurrent.futures
import functools
import operator
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from absl import flags

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.checkpoints import average, pretrained
from vit_jax.cluster import sharding
from vit_jax.console import cli
from vit_jax.console.progress import Progress, say, say_aside
from vit_jax.console.text import to_json
from vit_jax.console.waiting import compiled_first
from vit_jax.console.workdir import open_path
from vit_jax.data import transforms
from vit_jax.data.reader import Reader
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import ConfigError, DataError
from vit_jax.evaluation.operands import images_of
from vit_jax.evaluation.probabilities import PROBABILITIES


class Prediction(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float


class ImageResult(NamedTuple):
    """The predictions for an image, the most probable first, or the reason for having none."""

    name: str
    predictions: list[Prediction]
    error: str = ""


class Predictor:
    """A trained run that labels images.

    Args:
      workdir: Work directory of the run.
      step: Step of the checkpoint: a number, `best`, or `""` for the newest.
      batch_size: Maximum number of images per batch.
      weights: `ema` (the exponential moving average, the default for a run that has one) or `raw`.
      allow_config_change: Keys of `config.json` that may differ from the config of the checkpoint,
        such as `data.mean`.

    Raises:
      InputMissingError: There is no such run or checkpoint.
      CheckpointError: The checkpoint is corrupt.
      ConfigError: The batch size is not a positive integer, or the run has no such weights.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        step: str = "",
        batch_size: int = 64,
        weights: str = "",
        allow_config_change: Sequence[str] = (),
    ) -> None:
        path = open_path(str(workdir), "--workdir")
        config = config_lib.read_config(path)
        self._batch_size = _positive(batch_size, "batch_size")
        self._data = config.data
        self._mesh = sharding.make_mesh(devices=jax.local_devices())
        allowed = allow_config_change
        run = pretrained.open_run(
            path, step, config, self._mesh, weights=weights, allowed=allowed, aside=True
        )
        self.step = run.step
        # Which of two sets of weights is used; empty if there is one.
        self.choice = average.describe(config, weights)
        self.class_names = run.labels
        if not self.class_names or "loss" not in config.objective:
            problem = f"{workdir} has a model without classes, for features only"
            raise ConfigError("--workdir", problem)
        self._variables = run.variables
        score = PROBABILITIES[config.objective["loss"]]

        @functools.partial(jax.jit, static_argnums=2)
        def top(variables: Any, images: jax.Array, topk: int) -> tuple[jax.Array, jax.Array]:
            with nn.logical_axis_rules(sharding.RULES):
                normalized = transforms.normalize(images, self._data.mean, self._data.std)
                logits = models.forward(run.model, variables, normalized).logits
            _, classes = jax.lax.top_k(logits, topk)
            return classes, jax.numpy.take_along_axis(score(logits), classes, axis=-1)

        self._top = compiled_first(top, "model", aside=True)

    def __call__(self, images: Any, topk: int = 5) -> list[list[Prediction]]:
        """Return the `topk` most probable classes of each image, the most probable first.

        Args:
          images: Iterable of paths, encoded files (bytes or open), Pillow images, or uint8 pixels
            of shape (h, w) or (h, w, c) from NumPy, JAX or torch; or a batch (n, h, w, c).
          topk: Number of classes; all classes if there are fewer.

        Raises:
          DataError: An image cannot be read.
          ConfigError: `topk` is not a positive integer.
          TypeError: `images` is a single image, or not an ordered iterable.
        """
        results = list(self.stream(images, topk))
        for result in results:
            if result.error:
                raise DataError(f"{result.name}: {result.error}")
        return [result.predictions for result in results]

    def stream(self, images: Any, topk: int = 5) -> Iterator[ImageResult]:
        """Yield a result for each image, in order, as soon as its batch is computed."""
        source = InMemory(images, self.class_names)
        return self._stream(source, min(_positive(topk, "topk"), len(self.class_names)))

    def _stream(self, source: InMemory, topk: int) -> Iterator[ImageResult]:
        if not source:
            return
        size = self._size(len(source))
        index = 0
        for rows in self._read(source, size):
            batch = np.zeros((size, *self._data.image_shape), np.uint8)
            for row, image in enumerate(rows):
                if isinstance(image, np.ndarray):
                    batch[row] = image
            with jax.set_mesh(self._mesh):
                pixels = sharding.to_global({"image": batch}, self._mesh)["image"]
                classes, scores = jax.device_get(self._top(self._variables, pixels, topk))
            for row, image in enumerate(rows):
                error = image if isinstance(image, str) else ""
                if not error and not np.isfinite(scores[row]).all():
                    error = "the output of the model is not finite"
                predictions = [] if error else self._predictions(classes[row], scores[row])
                yield ImageResult(source.describe(index), predictions, error)
                index += 1

    def _read(self, source: InMemory, size: int) -> Iterator[list[np.ndarray | str]]:
        """Yield the rows of each batch: pixels, or the reason for an unreadable image."""
        reader = Reader(source, transforms.for_evaluation(self._data))
        starts = range(0, len(source), size)
        ahead: collections.deque[Iterator[np.ndarray | str]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(self._data.threads) as threads:
            for start in starts:
                rows = range(start, min(start + size, len(source)))
                ahead.append(threads.map(reader.pixels_or_reason, rows))
                if len(ahead) > 1:
                    yield list(ahead.popleft())
            yield from map(list, ahead)

    def _predictions(self, classes: np.ndarray, scores: np.ndarray) -> list[Prediction]:
        pairs = zip(classes, scores, strict=True)
        return [Prediction(self.class_names[k], float(score)) for k, score in pairs]

    def _size(self, num_images: int) -> int:
        """Return a batch size that avoids many empty rows if there are few images."""
        power_of_two = 1 << (num_images - 1).bit_length()
        return sharding.round_up(min(self._batch_size, power_of_two), self._mesh)


def _positive(value: Any, name: str) -> int:
    """Return a positive integer.

    Raises:
      ConfigError: The value is not a positive integer.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise ConfigError(name, f"expected an integer of at least 1, got {value!r}")
    return operator.index(value)


def main(values: flags.FlagValues, operands: list[str]) -> None:
    """Print the predictions for images, and for all images below folders.

    Raises:
      ConfigError: A flag is wrong, or there are no operands.
      DataError: There is no prediction for any image.
      InputMissingError: None of the operands exists.
    """
    if not values.workdir:
        raise ConfigError("--workdir", "expected the work directory of a run")
    for flag, value in (("--topk", values.topk), ("--batch_size", values.batch_size)):
        if value < 1:
            raise ConfigError(flag, f"expected at least 1, got {value}")
    images = images_of(operands)
    predictor = Predictor(
        values.workdir,
        step=values.step,
        batch_size=values.batch_size,
        weights=values.weights or "",
        allow_config_change=values.allow_config_change,
    )
    if predictor.choice:
        say_aside(f"weights   {predictor.choice}")
    progress = Progress(len(images), 0, 10.0, "predict", aside=True)
    began = time.monotonic()
    skipped = 0
    try:
        for i, result in enumerate(predictor.stream(images, values.topk), 1):
            skipped += bool(result.error)
            say(_as_json(result) if values.json else _as_line(result))
            if progress.due():
                progress.show(i, f"{i / (time.monotonic() - began):,.0f} images/s")
    finally:
        progress.close()
    if skipped == len(images):
        raise DataError(f"no image could be predicted; the last one: {_as_line(result)}")


def _as_line(result: ImageResult) -> str:
    if result.error:
        return f"{result.name}  skipped: {result.error}"
    return "  ".join([result.name, *(f"{p.probability:.1%} {p.label}" for p in result.predictions)])


def _as_json(result: ImageResult) -> str:
    if result.error:
        return to_json({"image": result.name, "error": result.error})
    found = [p._asdict() for p in result.predictions]
    return to_json({"image": result.name, "predictions": found})


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    values.set_gnu_getopt(True)  # flags may follow the images
    flags.DEFINE_string("workdir", "", "The work directory of the run.", flag_values=values)
    flags.DEFINE_string("step", "", "A step, or 'best'; the newest by default.", flag_values=values)
    cli.define_allow_flag(values)
    cli.define_weights_flag(values)
    flags.DEFINE_integer("topk", 5, "Number of classes to print.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print one JSON object per line.", flag_values=values)
    flags.DEFINE_integer(
        "batch_size", 64, "Maximum number of images per batch.", flag_values=values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__, parse=cli.parse_operands))
