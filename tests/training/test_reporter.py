"""The reporter fetches one step late, shows the pace of the steps, and ends a diverged run."""

import concurrent.futures
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.console.pace import Pace
from vit_jax.errors import DivergedError
from vit_jax.training import reporter as reporter_lib
from vit_jax.training.measuring import MEASURED
from vit_jax.training.reporter import Reporter
from vit_jax.training.results import Evaluated
from vit_jax.training.state import TrainState

STATE = TrainState(jnp.int32(0), jnp.int32(0), {}, {}, (), {})


class Rows(list):
    """Collects what would be written."""

    def write(self, step, values):
        self.append((step, values["loss"]))
        self.values = {**getattr(self, "values", {}), step: values}


class Foreseen(concurrent.futures.Executor):
    """Waits for the end of a step, which takes some seconds, at the time of its push."""

    def __init__(self, seconds):
        self.seconds = seconds

    def submit(self, function, /, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args) + self.seconds)
        return future


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

    memory = {"memory_bytes": 3 * 2**30, "peak_memory_bytes": 5 * 2**30}
    monkeypatch.setattr(reporter_lib, "memory_in_use", lambda: memory)

    def make(state=STATE, peak=None, seconds=0.0, **overrides):
        clock = Clock()
        config = tiny_config({"max_skipped": "3", **overrides})
        writer = metrics_writer.MetricsWriter()
        made = Reporter(config, writer, state, 10, peak, clock, Foreseen(seconds))
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
MEMORY = "memory 3.0 GiB (peak 5.0)"


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
    assert lines[1] == ["ETA --", "loss 1.0000", "lr 1.0e+00", MEMORY]
    pace = ["16 images/s", "1,000.0 ms/step"]
    assert lines[2] == ["ETA 0:08", "loss 1.0000", "lr 1.0e+00", *pace, MEMORY]


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
    found = Evaluated({"val": {}}, {})
    assert reporter.evaluate(lambda: evaluate(100.0, found)) is found
    push(reporter, clock, {3: 170.0, 4: 171.0})
    clock.now = 172.0
    reporter.evaluate(lambda: evaluate(7.0, found))
    push(reporter, clock, {5: 180.0, 6: 181.0})
    clock.now = 182.0
    nothing = Evaluated({}, {})  # evaluated before the run was resumed
    reporter.evaluate(lambda: evaluate(0.0, nothing))
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


def test_mfu_is_the_share_of_the_throughput_at_the_peak(make_reporter, capsys):
    reporter, clock = make_reporter(peak=64.0, **SHOW)
    push(reporter, clock, {1: 60.0, 2: 60.5, 3: 61.0})
    reporter.drain()
    row = reporter.rows.values[2]
    found = {key: row[key] for key in MEASURED}
    assert found == {
        "images_per_second": 32.0,
        "step_seconds": 0.5,
        "mfu": 0.5,
        "waiting_for_data": 0.0,
        "memory_bytes": 3 * 2**30,
        "peak_memory_bytes": 5 * 2**30,
    }
    out = capsys.readouterr().out.splitlines()
    assert out[1:3] == [
        "step 2/10  ETA 0:04  loss 1.0000  lr 1.0e+00  32 images/s  500.0 ms/step",
        f"          MFU 50.0%  {MEMORY}",
    ]
    assert max(map(len, out)) <= 80


def test_memory_that_is_not_known_is_not_shown(make_reporter, monkeypatch, capsys):
    reporter, clock = make_reporter(**SHOW)
    monkeypatch.setattr(reporter_lib, "memory_in_use", dict)
    push(reporter, clock, {1: 60.0, 2: 61.0})
    assert shown(capsys)[1] == ["ETA --", "loss 1.0000", "lr 1.0e+00"]


def test_only_the_row_of_a_progress_line_is_measured(make_reporter):
    reporter, clock = make_reporter(peak=64.0, **{"log.every_seconds": "10"})
    push(reporter, clock, {step: 4.0 * step for step in range(1, 8)})
    rows = reporter.rows.values
    measured = [step for step, row in rows.items() if row.keys() & set(MEASURED)]
    assert measured == [2, 5]  # reported at 12 s and 24 s
    plain = metrics(0).keys()
    assert all(row.keys() == plain for step, row in rows.items() if step not in measured)


def test_waiting_for_data_begins_at_the_end_of_a_step(make_reporter):
    """Steps of 3 s; the batches take so long that the devices idle before steps 3 and 5."""
    reporter, clock = make_reporter(seconds=3.0, **SHOW)

    def arriving():
        for seconds in (1.0, 1.0, 5.0, 2.0, 9.0):
            clock.now += seconds
            yield {"label": np.arange(1)}

    batches = arriving()
    end = 0.0
    for step in range(1, 6):
        reporter.wait_for(batches)
        clock.now = max(clock.now, end)
        end = clock.now + 3.0
        reporter.push(step, metrics(0))
    shares = [row.get("waiting_for_data") for row in reporter.rows.values.values()]
    recent = np.exp([-3 / Pace.MEMORY, -9 / Pace.MEMORY])
    idle, time = [2.0], [5.0]  # 5 s of reading, of which the step took 3; then 9 s
    for factor, more, seconds in zip(recent, (0.0, 6.0), (3.0, 9.0), strict=True):
        idle.append(factor * idle[-1] + more)
        time.append(factor * time[-1] + seconds)
    assert shares[0] is None
    assert shares[1:] == pytest.approx(np.divide(idle, time))
