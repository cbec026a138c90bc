"""Lines, the progress line, and metrics.jsonl that a resumed run goes on."""

import glob
import json
import pathlib

import pytest
import rich.console
from etils import epath

from vit_jax.console import metrics_writer, progress


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
    assert out.startswith("step 100/200 ETA ")
    assert "\x1b" not in out
    assert not progress.Progress(200, 0, 60.0, "step").due()


def test_progress_on_a_terminal_is_one_line_updated_in_place(monkeypatch, capsys):
    console = rich.console.Console(force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(progress, "_console", console)
    line = progress.Progress(200, 0, 60.0, "step")
    assert line.due()
    for step in (10, 20):
        line.show(step, "loss 1.0")
    progress.say("save      step 20")
    line.close()
    out = capsys.readouterr().out
    assert "save      step 20" in out
    assert "\x1b" in out


def test_damaged_rows_are_left_out_and_counted(tmp_path, capsys):
    path = epath.Path(tmp_path) / "metrics.jsonl"
    rows = [b'{"step": %d, "loss": 1}' % step for step in range(1, 6)]
    rows[1] = rows[1].replace(b"loss", b"lo\xf3s")
    rows[3] = rows[3].replace(b"}", b"]")
    path.write_bytes(b"\n".join(rows) + b'\n{"step": 6, "lo')
    assert [row["step"] for row in metrics_writer.read_metrics(path)] == [1, 3, 5]
    assert capsys.readouterr().err == f"warning: {path}: 2 damaged rows are left out\n"


def test_a_name_is_printed_as_it_is(capsys):
    progress.say("photos/:100:[red].png")
    assert capsys.readouterr().out == "photos/:100:[red].png\n"
