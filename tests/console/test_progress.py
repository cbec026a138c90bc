"""Lines, the progress of a task, and metrics.jsonl when a run resumes."""

import glob
import io
import json
import pathlib
import re

import pytest
import rich.console
from etils import epath

from vit_jax.console import metrics_writer, progress
from vit_jax.console.pace import Pace


class Clock:
    """Time that passes only when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00"), (61.0, "1:01"), (3599.6, "1:00:00"), (7325.0, "2:02:05")]
)
def test_seconds_are_readable(seconds, text):
    assert progress.format_seconds(seconds) == text


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_cut_back_to_the_step_of_the_resume(tmp_path):
    writer = metrics_writer.MetricsWriter(epath.Path(tmp_path), 0, tensorboard=False)
    for step in range(1, 6):
        writer.write(step, {"loss": float(step)})
    writer.write(4, {"val/top1": 0.5, "val/count": 9})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a kill
    writer = metrics_writer.MetricsWriter(epath.Path(tmp_path), 4, tensorboard=False)
    assert writer.find(4, "val") == {"top1": 0.5, "count": 9}
    assert writer.find(3, "val") == {}
    writer.write(5, {"loss": 50.0})
    writer.close()
    assert [row["loss"] for row in rows(tmp_path) if "loss" in row] == [1, 2, 3, 4, 50]


def test_a_fresh_start_drops_what_was_there(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1}\n')
    metrics_writer.MetricsWriter(epath.Path(tmp_path), 0, tensorboard=False).close()
    assert rows(tmp_path) == []


def test_tensorboard_events_are_written(tmp_path):
    writer = metrics_writer.MetricsWriter(epath.Path(tmp_path), 0, tensorboard=True)
    writer.write(1, {"loss": 1.0})
    writer.close()
    (events,) = glob.glob(str(tmp_path / "events.out.tfevents.*"))
    assert b"loss" in pathlib.Path(events).read_bytes()


def test_progress_off_a_terminal_is_plain_lines(capsys):
    line = progress.Progress(200, 50, 0.0, "step")
    assert line.due()
    line.show(100, "loss 1.0")
    line.close()
    out = capsys.readouterr().out
    assert out == "step 100/200  ETA --  loss 1.0\n"
    assert "\x1b" not in out
    assert not progress.Progress(200, 0, 60.0, "step").due()


def test_progress_on_a_terminal_is_a_bar_updated_in_place(monkeypatch, capsys):
    console = rich.console.Console(force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(progress, "_console", console)
    clock = Clock()
    line = progress.Progress(200, 0, 60.0, "step", clock=clock)
    assert not line.due()
    clock.now = 0.5
    assert line.due()
    for step in (10, 20):
        line.show(step, "loss 1.0")
    progress.say("save      step 20")
    line.close()
    out = capsys.readouterr().out
    assert "save      step 20" in out
    assert "step 20/200" in out
    assert "10% ETA" in out
    assert "\x1b" in out


def test_the_eta_is_unknown_until_two_marks_in_a_row(capsys):
    clock = Clock()
    line = progress.Progress(100, 0, 0.0, "step", clock=clock)
    for now, step in [(90.0, 1), (91.0, 2), (93.0, 4)]:  # the first step was compiled
        clock.now = now
        line.show(step)
    assert capsys.readouterr().out.splitlines() == [
        "step 1/100  ETA --",
        "step 2/100  ETA 1:38",
        "step 4/100  ETA 1:36",
    ]


def test_pauses_are_no_part_of_the_pace():
    pace = Pace()
    for step, now in [(1, 60.0), (2, 60.5), (3, 61.0)]:
        pace.mark(step, now, waited=0.1)
    assert pace.steps_per_second == pytest.approx(2)
    assert pace.waiting_share == pytest.approx(0.2)
    pace.pause()
    pace.mark(4, 500.0, waited=300.0)
    assert pace.steps_per_second == pytest.approx(2)
    assert pace.waiting_share == pytest.approx(0.2)
    pace.mark(5, 500.5)
    assert pace.steps_per_second == pytest.approx(2)


def test_the_pace_follows_the_recent_steps():
    pace = Pace()
    for step in range(100):
        pace.mark(step, float(step))
    for step in range(100, 150):
        pace.mark(step, 99.0 + (step - 99) * 10)
    assert pace.steps_per_second == pytest.approx(0.1, rel=0.01)


PARTS = ["loss 0.0123", "lr 1.0e-03", "11,234 images/s", "waiting for data 43% of the time"]
LONG = "a_metric_of_an_objective_with_a_name_that_no_terminal_has_enough_columns_to_show 1.0"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_line_on_a_terminal_fits(monkeypatch, width):
    terminal = io.StringIO()
    console = rich.console.Console(
        file=terminal, force_terminal=True, width=width, soft_wrap=True, highlight=False
    )
    monkeypatch.setattr(progress, "_console", console)
    line = progress.Progress(1_876_500, 0, 0.0, "step", clock=Clock())
    line.show(1_251_000, *PARTS, LONG)
    line.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    lines = re.split("[\r\n]+", text)
    assert max(map(len, lines)) <= min(width, 80)
    assert any("waiting for data 43% of" in line for line in lines)
    assert any("━" in line for line in lines)


def test_every_plain_line_fits(capsys):
    line = progress.Progress(1_876_500, 0, 0.0, "step", clock=Clock())
    line.show(1_251_000, *PARTS, LONG, "日" * 60)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "step 1,251,000/1,876,500  ETA --  loss 0.0123  lr 1.0e-03  11,234 images/s",
        "          waiting for data 43% of the time",
    ]
    assert [len(line) for line in lines[2:]] == [80, 10 + 35]  # of which each has two columns


def test_corrupt_rows_are_left_out_and_counted(tmp_path, capsys):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    rows = [b'{"step": %d, "loss": 1}' % step for step in range(1, 6)]
    rows[1] = rows[1].replace(b"loss", b"lo\xf3s")
    rows[3] = rows[3].replace(b"}", b"]")
    path.write_bytes(b"\n".join(rows) + b'\n{"step": 6, "lo')
    assert [row["step"] for row in metrics_writer.read_metrics(path)] == [1, 3, 5]
    assert capsys.readouterr().err == f"warning: {path}: 2 corrupt rows are left out\n"


def test_a_name_is_printed_as_it_is(capsys):
    progress.say("photos/:100:[red].png")
    assert capsys.readouterr().out == "photos/:100:[red].png\n"
