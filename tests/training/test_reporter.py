"""The reporter fetches one step late, shows the pace of the steps, and ends a diverged run."""

import dataclasses

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


class Clock:
    """Time that passes only when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def make_reporter(tiny_config, monkeypatch):
    """Returns a function that makes a reporter of a run of 10 steps, and its clock."""
    from vit_jax.console import metrics_writer

    rows = Rows()
    monkeypatch.setattr(metrics_writer.MetricsWriter, "__init__", lambda self: None)
    monkeypatch.setattr(
        metrics_writer.MetricsWriter, "write", lambda self, *args: rows.write(*args)
    )

    def make(state=STATE, **overrides):
        clock = Clock()
        config = tiny_config({"max_skipped": "3", **overrides})
        made = Reporter(config, metrics_writer.MetricsWriter(), state, 10, clock)
        made.rows = rows
        return made, clock

    return make


@pytest.fixture
def reporter(make_reporter):
    return make_reporter()[0]


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


SHOW = {"log.every_seconds": "0"}


def push(reporter, clock, times):
    """Pushes steps, each at a time in seconds."""
    for step, now in times.items():
        clock.now = now
        reporter.push(step, metrics(0))


def shown(capsys):
    """Returns the step, the ETA and the rest of every progress line."""
    lines = capsys.readouterr().out.replace("\n          ", "  ").splitlines()
    return {int(line.split()[1].split("/")[0]): line.split("  ")[1:] for line in lines}


def test_compilation_is_no_part_of_the_pace(make_reporter, capsys):
    reporter, clock = make_reporter(**SHOW)
    push(reporter, clock, {1: 60.0, 2: 61.0, 3: 62.0})
    lines = shown(capsys)
    assert lines[1] == ["ETA --", "loss 1.0000", "lr 1.0e+00"]
    assert lines[2] == ["ETA 0:08", "loss 1.0000", "lr 1.0e+00", "16 images/s"]


def test_after_a_resume_the_eta_is_unknown_until_the_second_step(make_reporter, capsys):
    state = dataclasses.replace(STATE, step=jnp.int32(5))
    reporter, clock = make_reporter(state, **SHOW)
    push(reporter, clock, {6: 30.0, 7: 30.5, 8: 31.0})
    lines = shown(capsys)
    assert lines[6][0] == "ETA --"
    assert lines[7][0] == "ETA 0:02"


def test_evaluations_and_saves_are_no_part_of_the_pace(make_reporter, capsys):
    reporter, clock = make_reporter(**SHOW)
    push(reporter, clock, {1: 60.0, 2: 61.0})
    clock.now = 62.0
    reporter.drain()
    with reporter.pause():
        clock.now = 500.0
    push(reporter, clock, {3: 600.0, 4: 601.0, 5: 602.0})
    etas = {step: line[0] for step, line in shown(capsys).items()}
    assert etas == {1: "ETA --", 2: "ETA 0:08", 3: "ETA 0:07", 4: "ETA 0:06"}


def test_the_eta_is_unknown_after_an_evaluation_if_no_pace_was_known(make_reporter, capsys):
    reporter, clock = make_reporter(**SHOW)
    push(reporter, clock, {1: 60.0})
    clock.now = 61.0
    reporter.drain()
    with reporter.pause():
        clock.now = 500.0
    push(reporter, clock, {2: 600.0, 3: 601.0, 4: 602.0})
    etas = {step: line[0] for step, line in shown(capsys).items()}
    assert etas == {1: "ETA --", 2: "ETA --", 3: "ETA 0:07"}


def test_the_eta_has_the_evaluations_to_come_but_not_their_compilation(make_reporter, capsys):
    reporter, clock = make_reporter(**SHOW, **{"eval.every_steps": "2"})

    def evaluate(seconds, found):
        reporter.drain()
        clock.now += seconds
        return found

    push(reporter, clock, {1: 60.0, 2: 61.0})
    clock.now = 62.0
    assert reporter.evaluate(lambda: evaluate(100.0, {"val": {}})) == {"val": {}}
    push(reporter, clock, {3: 170.0, 4: 171.0})
    clock.now = 172.0
    reporter.evaluate(lambda: evaluate(7.0, {"val": {}}))
    push(reporter, clock, {5: 180.0, 6: 181.0})
    clock.now = 182.0
    reporter.evaluate(lambda: evaluate(0.0, {}))  # evaluated before the run was resumed
    push(reporter, clock, {7: 190.0, 8: 191.0})
    etas = {step: line[0] for step, line in shown(capsys).items()}
    assert etas[3] == "ETA 0:07"
    assert etas[5] == "ETA 0:26"  # 5 steps, and the evaluations at 6, 8 and 10
    assert etas[7] == "ETA 0:17"  # 3 steps, and the evaluations at 8 and 10


def test_waiting_for_data_is_shown_from_five_percent(make_reporter, capsys):
    reporter, clock = make_reporter(**SHOW)

    def batches():
        for seconds in (50.0, 0.43, 0.43, 0.01):
            clock.now += seconds
            yield {"label": np.arange(1)}

    arriving = batches()
    for step in range(1, 5):
        reporter.wait_for(arriving)
        clock.now = 100.0 + step
        reporter.push(step, metrics(0))
    lines = shown(capsys)
    assert "waiting for data 43% of the time" in lines[2]
    assert not any("waiting" in part for part in lines[1])
    reporter, clock = make_reporter(**SHOW)
    push(reporter, clock, {1: 60.0, 2: 61.0, 3: 62.0})
    assert not any("waiting" in part for part in shown(capsys)[2])
