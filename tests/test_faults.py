"""A run that is killed, at any moment, ends bit-identical to the run that never was."""

import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, read_rows, restore_state, tiny_flags
from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import seals
from vit_jax.training import state
from vit_jax.training.run import open_run

NUM_STEPS = 40
FLAGS = tiny_flags(
    f"--config.total_steps={NUM_STEPS}",
    "--config.data.val_split=test[:9]",
    "--config.optim.warmup_steps=4",
    "--config.eval.every_steps=20",
    "--config.checkpoint.every_steps=4",
    "--config.optim.ema_decay=0.9",
    "--config.model.dropout=0.1",
    "--config.data.affine.degrees=20.0",
    "--config.log.every_seconds=0",
    "--report=",
)


def launch(workdir, *flags):
    """Starts the run in a process of its own, with one device."""
    xla_flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    return subprocess.Popen(
        [sys.executable, "-m", "vit_jax.train", *FLAGS, f"--workdir={workdir}", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Waits for the end; returns the exit code and what was printed."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def digest(workdir):
    """Returns the SHA-256 over every leaf of the newest checkpoint, and each step's metrics."""
    config = config_lib.read_config(epath.Path(workdir))
    run = open_run(config, jax.devices()[:1])
    with jax.set_mesh(run.mesh):
        final = restore_state(workdir, run)
    assert isinstance(final, state.TrainState)
    assert int(final.step) == NUM_STEPS
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(final):
        total.update(jax.tree_util.keystr(path).encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest(), read_rows(workdir)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, _, err = finish(launch(workdir))
    assert code == 0, err
    return digest(workdir)


def wait_until(process, happened, seconds=120):
    """Polls until something happened, or the process ended by itself."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if happened():
            return
        time.sleep(0.002)


def saving(workdir):
    """Returns whether a save is under way: written, renamed or not yet sealed."""
    checkpoints = pathlib.Path(workdir) / "checkpoints"
    if not checkpoints.exists():
        return False
    for path in checkpoints.iterdir():
        unfinished = "orbax-checkpoint-tmp" in path.name
        if unfinished or (path.name.isdecimal() and not (path / "seal.json").exists()):
            return True
    return False


def campaign(workdir, num_kills):
    """Kills the run again and again: half at random moments, half while a save is under way."""
    rng = random.Random(0)
    metrics = pathlib.Path(workdir) / "metrics.jsonl"
    killed = 0
    while killed < num_kills:
        process = launch(workdir)
        begun = metrics.stat().st_size if metrics.exists() else 0
        wait_until(process, lambda size=begun: metrics.exists() and metrics.stat().st_size != size)
        # On a slow machine the first kills would come before the first seal.
        wait_until(process, lambda: seals.sealed_steps(epath.Path(workdir) / "checkpoints"))
        if killed % 2:
            wait_until(process, lambda: saving(workdir))
            time.sleep(rng.random() * 0.03)
        else:
            time.sleep(rng.random() * 1.0)
        process.kill()
        code, out, err = finish(process)
        if code == 0:  # it came to its end first: start over
            assert digest(workdir)
            for path in sorted(pathlib.Path(workdir).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            continue
        assert code == -signal.SIGKILL, out + err
        killed += killed % 2 == 0 or saving(workdir)  # it counts if it left an unfinished save


def check_campaign(workdir, num_kills, uninterrupted):
    campaign(workdir, num_kills)
    code, out, err = finish(launch(workdir))
    assert code == 0, out + err
    assert "resume" in out
    assert digest(workdir) == uninterrupted


def test_two_kills_change_nothing(tmp_path, uninterrupted):
    check_campaign(tmp_path, 2, uninterrupted)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, uninterrupted):
    check_campaign(tmp_path, 20, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_75_and_the_same_command_goes_on(tmp_path, number, uninterrupted):
    process = launch(tmp_path, "--config.checkpoint.every_steps=0")
    metrics = tmp_path / "metrics.jsonl"
    wait_until(process, lambda: metrics.exists() and metrics.read_text().count("\n") > 5)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 75, out + err
    assert err.startswith("stopped: at step ")
    step = int(err.split()[3].rstrip(","))
    assert f"save      step {step}" in out
    code, out, err = finish(launch(tmp_path))
    assert code == 0, err
    assert f"resume    from the checkpoint of step {step}" in out
    assert digest(tmp_path) == uninterrupted


def test_a_second_run_in_the_same_workdir_is_refused(tmp_path):
    first = launch(tmp_path, "--config.total_steps=100000")
    wait_until(first, lambda: (tmp_path / "metrics.jsonl").exists())
    code, _, err = finish(launch(tmp_path, "--config.total_steps=100000"))
    first.kill()
    finish(first)
    assert code == 73
    assert f"process {first.pid} on " in err
    assert err.count("\n") == 1


def test_a_command_line_run_says_what_it_does(tmp_path):
    code, out, err = finish(launch(tmp_path, "--config.total_steps=8"))
    assert (code, err) == (0, "")
    # A slow machine also has lines about waits.
    lines = [line for line in out.splitlines() if not line.startswith(("wait ", " "))]
    starts = ["vit_jax", "devices", "data", "model", "attention", "plan", "workdir", "cache"]
    assert [line.split()[0] for line in lines[:9]] == [*starts, "start"]
    assert f"workdir   {tmp_path} (config.json, metrics.jsonl, checkpoints/)" in lines
    first, *others = [line for line in lines if line.startswith("step ")]
    assert first.startswith("step 1/8  ETA --  loss ")
    for part in ("loss ", "lr ", "images/s", "ETA 0:"):
        assert all(part in line for line in others)
    assert lines[-2].startswith("done ")
    assert lines[-1].startswith("goodput   ")
    written = {path.name for path in tmp_path.iterdir()}
    files = {"config.json", "metrics.jsonl", "results.json", "goodput.json", "checkpoints"}
    assert files <= written
    assert json.loads((tmp_path / "config.json").read_text())["total_steps"] == 8
