"""Several processes train and evaluate like one process, compare settings, and end together."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest
from conftest import ROOT, read_rows, resolved, tiny_flags
from etils import epath
from PIL import Image

from vit_jax import config as config_lib
from vit_jax.cluster import hosts
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.train import train

RUN = {
    "model.depth": "1",
    "total_steps": "6",
    "data.val_split": "test[:9]",
    "eval.every_steps": "3",
    "model.dropout": "0.1",
    "model.block.drop_path": "0.1",
    "optim.warmup_steps": "2",
    "optim.ema_decay": "0.9",
}
ENDLESS = {**RUN, "total_steps": "100000", "eval.every_steps": "0"}
PATIENCE = (
    "import sys; from vit_jax import train; from vit_jax.cluster import hosts; "
    "from vit_jax.console import cli; hosts.{}; "
    "sys.exit(cli.run(train.main, train._flags(), ''))"
)


def flags_of(overrides):
    return tiny_flags(*(f"--config.{key}={value}" for key, value in overrides.items()))


def config_of(overrides):
    _, *flags = flags_of(overrides)
    values = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags)
    tree = config_lib.load_config_file(str(ROOT / "configs" / "digits.py"))
    return config_lib.resolve(tree, values).config


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def launched(command, *flags, devices=1, extra=((), ())):
    """Starts a command in one process per item of `extra`, the flags of that process."""
    count = len(extra)
    port = free_port()
    xla_flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags}
    processes = []
    try:
        for index, own in enumerate(extra):
            place = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
            args = [sys.executable, *command, *flags, *place, f"--process_id={index}", *own]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(args, env=env, stdout=pipe, stderr=pipe, text=True))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes):
    """Waits for all; returns exit codes, stdout and stderr, without the lines that Gloo prints."""
    ends = [(*process.communicate(timeout=150), process.returncode) for process in processes]
    outs = [without_gloo(out) for out, _, _ in ends]
    return [code for _, _, code in ends], outs, [err for _, err, _ in ends]


def without_gloo(out):
    """Gloo's threads print their number of peers in pieces, which may mix with other lines."""
    return re.sub(r"^(.*(\[Gloo\]|connected|peer ranks).*|\d*)\n", "", out, flags=re.M)


def test_lines_of_gloo_are_removed_even_if_they_mix_with_ours():
    start, end = "[Gloo] Rank 1 is connected to 3", " peer ranks. Expected number: "
    mixed = f"{start}{end}3\nb\n{start}{start}{end}{end}3\n3\n{start}{end}33\n\nstep 3\n"
    assert without_gloo(f"a 1\n{mixed}") == "a 1\nb\nstep 3\n"


def run_all(command, *flags, **kwargs):
    with launched(["-m", f"vit_jax.{command}"], *flags, **kwargs) as processes:
        return finish(processes)


def wait_for_steps(workdir, num_steps):
    end = time.monotonic() + 120
    while len(read_metrics(epath.Path(workdir) / "metrics.jsonl")) < num_steps:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run in one process, on eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    results = train(resolved(config_of(RUN)), epath.Path(workdir))
    return workdir, results, read_rows(workdir)


def check_alike(workdir, alone):
    _, results, expected = alone
    found = read_rows(workdir)
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-6)
    assert json.loads((workdir / "results.json").read_text())["eval"] == {
        name: pytest.approx(values, rel=1e-6) for name, values in results["eval"].items()
    }


def test_two_processes_train_like_one(tmp_path, alone):
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    codes, outs, errs = run_all("train", *flags_of(RUN), f"--workdir={tmp_path}", *mesh, devices=4)
    assert (codes, errs) == ([0, 0], ["", ""])
    assert "done " in outs[0]
    assert not outs[1]
    check_alike(tmp_path, alone)


@pytest.mark.slow
def test_a_tensor_axis_across_processes_reads_the_same_rows(tmp_path, alone):
    flags = [*flags_of(RUN), f"--workdir={tmp_path}", "--config.mesh.tensor=2"]
    codes, _, errs = run_all("train", *flags)
    assert (codes, errs) == ([0, 0], ["", ""])
    check_alike(tmp_path, alone)


def test_two_processes_evaluate_a_run_of_one(alone):
    workdir, results, _ = alone
    codes, outs, errs = run_all("evaluate", f"--workdir={workdir}", devices=2)
    assert (codes, errs) == ([0, 0], ["", ""])
    found = json.loads(outs[0].splitlines()[-1])["eval"]["test"]
    assert found == pytest.approx(results["eval"]["test"], rel=1e-6)
    assert found["count"] == 21
    assert not outs[1]


def test_two_processes_embed_the_bytes_of_one(alone, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(70):  # a device takes 32 of them at a time
        Image.new("L", (8, 8), 3 * i).save(images / f"{i}.png")
    (images / "66.png").write_bytes(b"no image")
    for name, count in (("one", 1), ("two", 2)):
        flags = [f"--workdir={alone[0]}", f"--output={tmp_path / name}.npz", "--pool=tokens"]
        codes, outs, errs = run_all("embed", *flags, str(images), devices=2, extra=((),) * count)
        assert codes == [0] * count
        assert "69 rows; 1 unreadable, left out\n" in outs[0] and not any(outs[1:])
        assert "".join(errs).count("66.png: cannot be read") == 1
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_signal_to_one_stops_all_at_one_step_and_one_process_resumes(tmp_path):
    with launched(
        ["-m", "vit_jax.train"], *flags_of(ENDLESS), f"--workdir={tmp_path}"
    ) as processes:
        wait_for_steps(tmp_path, 3)
        processes[1].send_signal(signal.SIGTERM)
        codes, outs, errs = finish(processes)
    assert codes == [75, 75]
    assert errs[0] == errs[1]
    step = int(re.fullmatch(r"stopped: at step (\d+), saved; .*\n", errs[0])[1])
    assert f"save      step {step}\n" in outs[0]
    config = config_of({**ENDLESS, "total_steps": str(step + 2)})
    assert train(resolved(config), epath.Path(tmp_path), ("total_steps",))["step"] == step + 2
    steps = [row["step"] for row in read_metrics(epath.Path(tmp_path) / "metrics.jsonl")]
    assert [n for n in steps if n <= step + 2][: step + 2] == list(range(1, step + 3))


@pytest.fixture
def folders(tmp_path):
    """Two image folders; the second one has one more image."""
    for folder, count in (("a", 20), ("b", 21)):
        for i in range(count):
            path = tmp_path / folder / "train" / f"class_{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(path)
    return tmp_path


@pytest.mark.parametrize(
    ("own", "code", "message"),
    [
        ("--config.seed=5", 64, "config.seed: the hosts disagree: 0 on host 0, 5 on host 1"),
        ("--config.data.root=b", 64, "config.data.train_split.name: the hosts disagree: "),
        ("--config.data.root=c", 66, "host 1: config.data.root: "),
    ],
)
def test_a_difference_between_hosts_ends_all(folders, monkeypatch, own, code, message):
    monkeypatch.chdir(folders)
    data = ["--config.data.root=a", "--config.model.num_classes=2", "--config.data.test_split="]
    flags = [*flags_of(RUN), "--config.data.val_split=", *data, "--workdir=run"]
    codes, _, errs = run_all("train", *flags, extra=((), (own,)))
    assert codes == [code, code]
    assert errs[0] == errs[1]
    assert errs[0].startswith(f"error: {message}")
    assert not (folders / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_dead_host_is_named(tmp_path):
    command = ["-c", PATIENCE.format("SILENT_SECONDS = 3.0")]
    with launched(command, *flags_of(ENDLESS), f"--workdir={tmp_path}") as processes:
        wait_for_steps(tmp_path, 3)
        processes[1].kill()
        codes, _, errs = finish(processes)
    assert codes == [75, -signal.SIGKILL]
    assert errs[0] == "stopped: host 1 does not answer; rerun the same command to continue\n"


def test_hosts_that_cannot_connect_time_out(tmp_path):
    command = ["-c", PATIENCE.format("JOIN_SECONDS = 2.0")]
    with launched(command, *flags_of(RUN), f"--workdir={tmp_path}") as processes:
        processes[0].kill()
        codes, _, errs = finish(processes)
    assert codes[1] == 75
    assert errs[1].startswith("stopped: timed out after 2 s waiting for all hosts at 127.0.0.1:")
    assert errs[1].count("\n") == 1


def test_a_single_process_makes_plain_calls():
    assert hosts.run_and_compare(lambda: {1: 2}, lambda result: 1 / 0) == {1: 2}
    assert hosts.run_on_host0(lambda: (1, 2)) == (1, 2)


def test_a_notebook_on_one_host_of_a_tpu_pod_uses_that_host_only(monkeypatch):
    from vit_jax import evaluate

    jax.devices()  # JAX has started, and cannot connect to other hosts any more
    monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    values = evaluate._flags()
    values.mark_as_parsed()
    with hosts.joined(values):
        assert hosts.run_and_compare(lambda: 3) == 3
