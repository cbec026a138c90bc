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
from vit_jax.evaluation.collecting import Collector, replicator
from vit_jax.evaluation.evaluators import Evaluator, Result, labels
from vit_jax.evaluation.predictions import Outputs, PredictionEvaluator, Predictions

# `(variables, sums, batch) -> (sums, outputs)`, with the sums of each evaluator by its name, and
# the outputs for the rows of the batch if an evaluator has them.
EvalStep = Callable[[Mapping[str, Any], Any, Mapping[str, jax.Array]], tuple[Any, Outputs | None]]


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
        self._replicate = replicator(mesh)

    @property
    def predicts(self) -> bool:
        """Whether an evaluator makes predictions, which `collect` returns."""
        return find_predictor(self._evaluators) is not None

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
        return self._run(variables, source, name, None, raw=raw, stopped=stopped)

    def collect(
        self,
        variables: Mapping[str, Any],
        source: Source,
        name: str,
        *,
        raw: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[str, Result], Predictions | None]:
        """Return the metrics, and the predictions of the same pass on every host; see `__call__`.

        There are no predictions if no evaluator of the run makes them, or if it was stopped.
        """
        collector = Collector(source, self._replicate)
        results = self._run(variables, source, name, collector, raw=raw, stopped=stopped)
        found = find_predictor(self._evaluators)
        if not results or found is None:
            return results, None
        label = self.labels(name, raw=raw)[found[0]]
        return results, collector.predictions(label, found[1].loss)

    def _run(
        self,
        variables: Mapping[str, Any],
        source: Source,
        name: str,
        collector: Collector | None,
        *,
        raw: bool,
        stopped: Callable[[], bool],
    ) -> dict[str, Result]:
        """Return the metrics; the collector, if any, gets the outputs."""
        named = self.labels(name, raw=raw)
        with explaining_exhaustion("config.eval.batch_size", self._advice()):
            totals = self._sum(variables, source, next(iter(named.values())), collector, stopped)
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
                text = self._evaluators[evaluator].format(results[label])
                lines.append(format_result(label, text, results[label]))
        return lines

    def intervals(
        self, name: str, results: Mapping[str, Result], *, raw: bool = False
    ) -> dict[str, dict[str, list[float]]]:
        """Return the ends of the 95 % intervals of a set's metrics, by label and metric."""
        found = find_predictor(self._evaluators)
        label = self.labels(name, raw=raw)[found[0]] if found else ""
        if found is None or label not in results:
            return {}
        intervals = found[1].intervals(results[label])
        return {label: {key: list(interval) for key, interval in intervals.items()}}

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
        collector: Collector | None,
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
                images = sharding.to_global(batch, mesh)
                sums, outputs = self._step(variables, sums, images)
                if collector is not None and outputs is not None:
                    collector.add(outputs, images)
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


def format_result(label: str, text: str, result: Result) -> str:
    """Return the line of a result: its label, the metrics as text, and the number of images."""
    images = f"{result['count']:,} images"
    if result["skipped"]:
        images += f", {result['skipped']:,} unreadable"
    return f"{label}: {text}  ({images})"


def _numbered(batches: Iterator[loader.Batch], name: str) -> Iterator[tuple[int, loader.Batch]]:
    """Yield the batches with their numbers, from 1; announce the wait for the first one."""
    with waiting(f"reading the first batch of {name}"):
        first = next(batches, None)
    if first is not None:
        yield from enumerate(itertools.chain([first], batches), 1)


def make_eval_step(evaluators: Mapping[str, Evaluator], mesh: jax.sharding.Mesh) -> EvalStep:
    """Return the jitted step, which adds the sums of a batch to those so far, and donates them.

    It also returns the outputs of the evaluator that makes predictions. A caller that does not need
    them does not fetch them, and the program is the same.
    """
    found = find_predictor(evaluators)

    def eval_step(
        variables: Any, sums: Any, batch: Mapping[str, jax.Array]
    ) -> tuple[Any, Outputs | None]:
        new, outputs = {}, None
        with nn.logical_axis_rules(sharding.RULES):
            for name, evaluator in evaluators.items():
                if found and name == found[0]:
                    outputs = found[1].outputs(variables, batch)
                    new[name] = found[1].total(outputs, batch)
                else:
                    new[name] = evaluator(variables, batch)
        return jax.tree.map(jnp.add, sums, new), outputs

    shardings = (sharding.replicated(mesh), sharding.batch_sharding(mesh))
    return jax.jit(eval_step, out_shardings=shardings, donate_argnums=1)


def find_predictor(
    evaluators: Mapping[str, Evaluator],
) -> tuple[str, PredictionEvaluator] | None:
    """Return the first evaluator that makes predictions, and its name, if there is one."""
    for name, evaluator in evaluators.items():
        if isinstance(evaluator, PredictionEvaluator) and evaluator.predicts:
            return name, evaluator
    return None


def zeros(evaluators: Mapping[str, Evaluator]) -> dict[str, Any]:
    """Return the sums of each evaluator over no images."""
    return {name: evaluator.zeros() for name, evaluator in evaluators.items()}


def eval_batch_size(config: config_lib.Config, mesh: jax.sharding.Mesh) -> int:
    """Return the global batch size of an evaluation, rounded up to a multiple of the shards."""
    return sharding.round_up(config.eval.batch_size or config.batch_size, mesh)
