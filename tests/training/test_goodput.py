"""The goodput of a run is kept in its work directory over restarts, and adds up to its time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, resolved, tiny_flags
from etils import epath

from vit_jax import train as train_lib
from vit_jax.data import loader
from vit_jax.errors import DivergedError
from vit_jax.training import goodput
from vit_jax.training.ledger import Account, History, Ledger
from vit_jax.training.results import _read as read_results

SECONDS = {
    "start": 4.0,
    "compile": 12.0,
    "steps": 699.4,
    "data": 3.0,
    "evaluation": 20.0,
    "saving": 1.2,
    "lost": 11.4,
}


def test_the_summary_is_one_line():
    assert goodput.describe(History(Account(SECONDS), 1)) == (
        "93.1% of 12:31 in steps: start 4 s, compile 12 s, waiting for data 3 s, "
        "evaluation 20 s, saving 1 s, lost to restarts 11 s"
    )
    resumed = goodput.describe(History(Account(SECONDS), 3, 7384.0))
    assert resumed.endswith("lost to restarts 11 s; without 2:03:04 between 3 attempts")


def read(workdir):
    return json.loads((workdir / "goodput.json").read_text())


def record(workdir, step, checkpoint, seconds):
    """Records an attempt that spends seconds on steps up to a checkpoint, and as many after it."""
    now = [0.0]
    ledger = Ledger(clock=lambda: now[0])
    with goodput.recording(epath.Path(workdir), ledger, step):
        for _ in range(2):
            with ledger.book("steps"):
                now[0] += seconds
                ledger.count(16)
            if checkpoint not in ledger.history().checkpoints:
                ledger.checkpoint(checkpoint)


def test_the_next_attempt_takes_the_file_over(tmp_path, capsys):
    record(tmp_path, 0, 10, 5.0)
    first = read(tmp_path)
    assert (first["seconds"]["steps"], first["total_seconds"], first["images"]) == (10, 10, 32)
    assert (first["attempts"], first["goodput"]) == (1, 1.0)
    assert first["checkpoints"]["10"]["seconds"]["steps"] == 5
    record(tmp_path, 10, 20, 7.0)
    second = read(tmp_path)
    assert second["seconds"] == dict.fromkeys(SECONDS, 0) | {"steps": 19, "lost": 5}
    assert (second["total_seconds"], second["images"], second["attempts"]) == (24, 48, 2)
    assert set(second["checkpoints"]) == {"10", "20"}
    assert capsys.readouterr().out.count("goodput   ") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["goodput.json"]


def test_the_file_is_readable_while_the_attempt_runs(tmp_path):
    now = [0.0]
    ledger = Ledger(clock=lambda: now[0])
    with goodput.recording(epath.Path(tmp_path), ledger, 0):
        with ledger.book("steps"):
            now[0] += 8.0
        ledger.checkpoint(3)  # which does not wait for the next regular write
        end = time.monotonic() + goodput.EVERY_SECONDS - 1
        path = tmp_path / "goodput.json"
        while not path.exists() or "3" not in read(tmp_path)["checkpoints"]:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert read(tmp_path)["seconds"]["steps"] == 8


def damage(content):
    """Yields texts that are no account of a run."""
    yield from ("", "[]", "null", "{", "[" * 9999, '{"seconds": {}}')
    for key in content:
        if key not in ("goodput", "total_seconds"):
            yield json.dumps({name: value for name, value in content.items() if name != key})
    for value in (-1, "5", None, [1], float("nan"), float("inf"), 1e308, 10**400):
        yield json.dumps({**content, "seconds": {**content["seconds"], "steps": value}})
        yield json.dumps({**content, "written": value})
    yield json.dumps({**content, "checkpoints": {"ten": content["checkpoints"]["10"]}})
    yield json.dumps({**content, "checkpoints": [10]})


def test_a_damaged_file_is_a_warning_and_starts_anew(tmp_path, capsys):
    record(tmp_path, 0, 10, 5.0)
    for text in damage(read(tmp_path)):
        (tmp_path / "goodput.json").write_text(text)
        capsys.readouterr()
        record(tmp_path, 10, 20, 7.0)
        assert capsys.readouterr().err == (
            f"warning: {tmp_path}/goodput.json is corrupt; the goodput starts anew with this "
            "attempt\n"
        ), text
        assert (read(tmp_path)["total_seconds"], read(tmp_path)["attempts"]) == (14, 1)


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "goodput.json").mkdir()
    record(tmp_path, 0, 10, 5.0)
    out, err = capsys.readouterr()
    assert "goodput.json is corrupt" in err and "cannot be written" in err
    assert out.startswith("goodput   100.0% of 0:10 in steps: ")


def test_the_age_of_a_process_has_its_imports():
    code = (
        "import time; time.sleep(1.0); began = time.monotonic(); "
        "from vit_jax.training.goodput import age_of_process; "
        "print(age_of_process() - (time.monotonic() - began))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert 0.99 < float(out.stdout) < 2.0


def test_a_run_that_diverges_has_a_summary_too(tiny_config, tmp_path, capsys):
    config = tiny_config({"optim.learning_rate": "1e30", "total_steps": "30", "max_skipped": "3"})
    with pytest.raises(DivergedError):
        train_lib.train(resolved(config), epath.Path(tmp_path))
    assert "goodput   " in capsys.readouterr().out.splitlines()[-1]
    assert read(tmp_path)["seconds"]["steps"] > 0


def test_a_slow_loader_shows_as_waiting_for_data(tiny_config, tmp_path, monkeypatch):
    real = loader.train_batches

    def slow(*args, **kwargs):
        for batch in real(*args, **kwargs):
            time.sleep(0.5)
            yield batch

    monkeypatch.setattr(loader, "train_batches", slow)
    train_lib.train(resolved(tiny_config({"total_steps": "3"})), epath.Path(tmp_path))
    assert 0.5 < read(tmp_path)["seconds"]["data"] < read(tmp_path)["total_seconds"]


FLAGS = tiny_flags(
    "--config.total_steps=200000",
    "--config.optim.warmup_steps=4",
    "--config.checkpoint.every_steps=200",
    "--report=",  # whose time comes after the results
)


def launch(workdir, *flags):
    """Starts the run; returns the process, and the time at which it was started."""
    xla_flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags}
    command = [sys.executable, "-m", "vit_jax.train", *FLAGS, f"--workdir={workdir}", *flags]
    began = time.time()
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True), began


def wait_until(process, workdir, happened):
    """Waits until something is true for the content of the file, or the process ends."""
    while process.poll() is None:
        if (workdir / "goodput.json").exists() and happened(read(workdir)):
            return
        time.sleep(0.02)


def test_a_killed_run_loses_what_it_did_after_its_checkpoint(tmp_path):
    process, began = launch(tmp_path)
    wait_until(process, tmp_path, lambda c: c["checkpoints"] and c["images"] > 16 * 300)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = read(tmp_path)
    wall = killed["written"] - began
    assert killed["total_seconds"] == pytest.approx(wall, rel=0.01, abs=0.1)
    assert killed["seconds"]["lost"] == 0
    process, began = launch(tmp_path, "--config.total_steps=1500", "--allow_config_change=total")
    with process:
        line = next(line for line in process.stdout if line.startswith("goodput   "))
        wall += time.time() - began  # without the end of the interpreter
        assert not process.stdout.read()
    assert process.returncode == 0
    assert "between 2 attempts" in line
    found = read(tmp_path)
    seconds = found["seconds"]
    assert found["attempts"] == 2
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.01)
    repeated = killed["seconds"]["start"] + killed["seconds"]["compile"]
    assert repeated < seconds["lost"] < killed["total_seconds"]
    assert found["images"] == 16 * 1500  # those of lost steps count once
    results = read_results(epath.Path(tmp_path) / "results.json")
    assert results["images_per_second"] == pytest.approx(
        found["images"] / (seconds["steps"] + seconds["data"]), rel=0.01
    )
    programs = results["compile_seconds"]
    assert set(programs) == {"training step", "evaluation step"}
    assert sum(programs.values()) == pytest.approx(seconds["compile"], abs=0.02)
    assert results["goodput"]["seconds"] == pytest.approx(seconds, abs=0.2)
