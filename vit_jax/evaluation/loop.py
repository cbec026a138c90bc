"""The evaluation loop: every image of a source counts exactly once."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import config as config_lib
from vit_jax.cluster import sharding
from vit_jax.cluster.exhaustion import explaining_exhaustion
from vit_jax.console.progress import Progress
from vit_jax.console.waiting import Booking, compiled_first, waiting
from vit_jax.data import loader
from vit_jax.data.sources import Source
from vit_jax.errors import DataError
from vit_jax.evaluation.evaluators import Evaluator, Result, labels

# `(variables, sums, batch) -> sums`, with the sums of each evaluator by its name.
EvalStep = Callable[[Mapping[str, Any], Any, Mapping[str, jax.Array]], Any]


class Evaluation:
    """Runs evaluators, compiled together once, on any source.

    Args:
      evaluators: The evaluators of the run, by name.
      config: The config of the run.
      mesh: The device mesh.
      booking: Measures the compilation; see `compiled_first`.
    """

    def __init__(
        self,
        evaluators: Mapping[str, Evaluator],
        config: config_lib.Config,
        mesh: jax.sharding.Mesh,
        booking: Booking = contextlib.nullcontext,
    ) -> None:
        self._evaluators = evaluators
        self._config = config
        self._mesh = mesh
        step = make_eval_step(evaluators, mesh)
        self._step = compiled_first(step, "evaluation step", booking=booking)

    def labels(self, name: str, *, raw: bool = False) -> dict[str, str]:
        """Return the label of the result of each evaluator on a set; see `evaluators.labels`."""
        return labels(self._evaluators, name, raw=raw)

    def __call__(
        self,
        variables: Mapping[str, Any],
        source: Source,
        name: str,
        *,
        raw: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, Result]:
        """Return the metrics of each evaluator by label, over all readable images.

        Each result also has the number of images (`count`) and of unreadable images (`skipped`).
        The dictionary is empty if the evaluation was stopped.

        Args:
          variables: `params` and the other collections of the model.
          source: The images.
          name: The name of the set.
          raw: Whether these are the weights themselves, next to their EMA.
          stopped: Returns whether to stop.

        Raises:
          ConfigError: The evaluation needs more memory than a device has.
          DataError: More images are unreadable than the config allows, or all are.
        """
        named = self.labels(name, raw=raw)
        with explaining_exhaustion("config.eval.batch_size", self._advice()):
            totals = self._sum(variables, source, next(iter(named.values())), stopped)
        if not totals:
            return {}
        results = {}
        for evaluator, label in named.items():
            sums = totals[evaluator]
            count = int(sums["count"])
            if not count:
                raise DataError(f"{source.title}: all images are unreadable")
            means = self._evaluators[evaluator].means(sums)
            results[label] = {**means, "skipped": len(source) - count}
        return results

    def format(self, name: str, results: Mapping[str, Result], *, raw: bool = False) -> list[str]:
        """Return a line for each result of a set; results of other sets are ignored."""
        lines = []
        for evaluator, label in self.labels(name, raw=raw).items():
            if label in results:
                result = results[label]
                images = f"{result['count']:,} images"
                if result["skipped"]:
                    images += f", {result['skipped']:,} unreadable"
                lines.append(f"{label}: {self._evaluators[evaluator].format(result)}  ({images})")
        return lines

    def _advice(self) -> str:
        """Return what to do if an evaluation needs more memory than a device has."""
        size = eval_batch_size(self._config, self._mesh)
        fewer = sharding.round_up(max(1, size // 2), self._mesh)
        return f"try --config.eval.batch_size={fewer}" if fewer < size else "use more devices"

    def _sum(
        self,
        variables: Mapping[str, Any],
        source: Source,
        label: str,
        stopped: Callable[[], bool],
    ) -> dict[str, Any]:
        """Return the sums of each evaluator over a source; empty if it was stopped."""
        config, mesh = self._config, self._mesh
        size = eval_batch_size(config, mesh)
        host, num_hosts = sharding.batch_shard(mesh)
        batches = loader.eval_batches(source, config.data, size, host=host, num_hosts=num_hosts)
        total = math.ceil(len(source) / size)
        progress = Progress(total, 0, config.log.every_seconds, f"evaluate {label}")
        sums = jax.device_put(zeros(self._evaluators), sharding.replicated(mesh))
        try:
            for i, batch in _numbered(batches, source.title):
                if stopped():
                    return {}
                sums = self._step(variables, sums, sharding.to_global(batch, mesh))
                if i == 1 or progress.due():
                    # Otherwise steps would only be queued, and the pace would be that of the queue.
                    jax.block_until_ready(sums)
                    progress.mark(i)
                if progress.due():
                    progress.show(i, f"{min(i * size, len(source)):,} images")
        finally:
            progress.close()
            batches.close()
        return jax.device_get(sums)


def _numbered(batches: Iterator[loader.Batch], name: str) -> Iterator[tuple[int, loader.Batch]]:
    """Yield the batches with their numbers, from 1; announce the wait for the first one."""
    with waiting(f"reading the first batch of {name}"):
        first = next(batches, None)
    if first is not None:
        yield from enumerate(itertools.chain([first], batches), 1)


def make_eval_step(evaluators: Mapping[str, Evaluator], mesh: jax.sharding.Mesh) -> EvalStep:
    """Return the jitted step, which adds the sums of a batch to those so far, and donates them."""

    def eval_step(variables: Any, sums: Any, batch: Mapping[str, jax.Array]) -> Any:
        with nn.logical_axis_rules(sharding.RULES):
            new = {name: evaluator(variables, batch) for name, evaluator in evaluators.items()}
        return jax.tree.map(jnp.add, sums, new)

    return jax.jit(eval_step, out_shardings=sharding.replicated(mesh), donate_argnums=1)


def zeros(evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """Return the sums of each evaluator over no images."""
    return {name: evaluator.zeros() for name, evaluator in evaluators.items()}


def eval_batch_size(config: config_lib.Config, mesh: jax.sharding.Mesh) -> int:
    """Return the global batch size of an evaluation, rounded up to a multiple of the shards."""
    return sharding.round_up(config.eval.batch_size or config.batch_size, mesh)
