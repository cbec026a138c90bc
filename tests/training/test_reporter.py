"""The reporter fetches one step late, and ends a run that diverges."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.errors import DivergedError
from vit_jax.training.reporter import Reporter
from vit_jax.training.state import TrainState

STATE = TrainState(jnp.int32(0), jnp.int32(0), {}, {}, (), {})


class Rows(list):
    """Collects what would be written."""

    def write(self, step, values):
        self.append((step, values["loss"]))


@pytest.fixture
def reporter(tiny_config, monkeypatch):
    from vit_jax.console import metrics_writer

    rows = Rows()
    monkeypatch.setattr(metrics_writer.MetricsWriter, "__init__", lambda self: None)
    monkeypatch.setattr(
        metrics_writer.MetricsWriter, "write", lambda self, *args: rows.write(*args)
    )
    made = Reporter(tiny_config({"max_skipped": "3"}), metrics_writer.MetricsWriter(), STATE, 10)
    made.rows = rows
    return made


def metrics(skipped, loss=1.0):
    names = ("learning_rate", "grad_norm", "param_norm")
    return {name: jnp.float32(1) for name in names} | {
        "loss": jnp.float32(loss),
        "skipped": jnp.int32(skipped),
    }


def test_a_step_is_reported_when_the_next_one_is_pushed(reporter):
    reporter.push(1, metrics(0, 1.5))
    assert reporter.rows == []
    reporter.push(2, metrics(0, 2.5))
    assert reporter.rows == [(1, 1.5)]
    reporter.drain()
    reporter.drain()
    assert reporter.rows == [(1, 1.5), (2, 2.5)]


def test_only_skips_in_a_row_end_the_run(reporter):
    for step, skipped in enumerate([1, 2, 2, 3, 4, 4], 1):
        reporter.push(step, metrics(skipped))
    reporter.push(7, metrics(5))
    reporter.push(8, metrics(6))
    reporter.push(9, metrics(7))
    with pytest.raises(DivergedError, match="step 9: 3 steps in a row were not finite"):
        reporter.drain()


def test_waiting_for_data_gives_the_batches(reporter):
    batches = iter([{"label": np.arange(1)}, {"label": np.arange(2)}])
    assert [len(reporter.wait_for(batches)["label"]) for _ in range(2)] == [1, 2]
