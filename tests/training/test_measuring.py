"""What is measured while a run trains: idle devices, memory, and the throughput at the peak."""

import glob
import pathlib
import time

import jax
import psutil
import pytest
from conftest import resolved
from etils import epath

from vit_jax.cluster.device_specs import SPECS
from vit_jax.console.metrics_writer import read_metrics
from vit_jax.train import train
from vit_jax.training import flops
from vit_jax.training.measuring import MEASURED, Idle, memory_in_use, peak_images_per_second
from vit_jax.training.run import open_run


class Result:
    """The result of a step on a device: it ends, or fails, after some seconds."""

    def __init__(self, seconds, error=None):
        self.seconds = seconds
        self.error = error
        self.ended = None

    def block_until_ready(self):
        time.sleep(self.seconds)
        self.ended = time.monotonic()
        if self.error:
            raise self.error
        return self


@pytest.mark.parametrize("reading", [0.0, 0.9])
def test_a_thread_notes_when_a_step_ends(reading):
    measured = Idle(time.monotonic)
    result = Result(0.4)
    measured.follow({"loss": result})
    with measured.waiting():
        time.sleep(reading)
        arrived = time.monotonic()
    idle = measured.take()
    assert idle == pytest.approx(max(0.0, arrived - result.ended), abs=0.2)
    assert measured.take() == 0.0
    measured.close()


def test_the_first_batch_is_waited_for_from_the_beginning():
    now = iter([3.0, 7.0])
    measured = Idle(lambda: next(now))
    with measured.waiting():
        pass
    assert measured.take() == 4.0


def test_the_thread_keeps_the_error_of_a_step():
    measured = Idle(time.monotonic)
    measured.follow({"loss": Result(0.0, RuntimeError("a broken device"))})
    with measured.waiting():
        pass
    with pytest.raises(RuntimeError, match="a broken device"):
        measured.take()
    measured.close()


class Device:
    """A device with statistics of its memory."""

    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        (
            [{"bytes_in_use": 5, "peak_bytes_in_use": 7}, {"bytes_in_use": 6, "num_allocs": 1}],
            {"memory_bytes": 6, "peak_memory_bytes": 7},
        ),
        ([{"bytes_in_use": 5, "bytes_limit": 9}], {"memory_bytes": 5}),
        ([None, None], {}),  # the memory of the process is not that of a GPU
    ],
)
def test_memory_is_that_of_the_fullest_device(stats, expected, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(s) for s in stats])
    assert memory_in_use() == expected


def test_memory_of_a_cpu_is_that_of_the_process(monkeypatch):
    found = memory_in_use()
    assert found.keys() == {"memory_bytes"}
    assert 2**26 < found["memory_bytes"] < psutil.virtual_memory().total


@pytest.mark.parametrize("override", ["0", "2.5"])
def test_the_peak_is_that_of_all_devices_in_the_dtype(override, tiny_config, monkeypatch):
    config = tiny_config({"log.peak_tflops": override, "model.dtype": "bfloat16"})
    run = open_run(config)
    if override == "0":
        assert peak_images_per_second(run) is None  # a CPU
        from vit_jax.training import run as run_lib

        monkeypatch.setattr(run_lib, "find_spec", lambda kind, cores: SPECS["v5e"])
    tflops = 197 if override == "0" else 2.5
    of_image = flops.count(run).training
    assert peak_images_per_second(run) == pytest.approx(8 * tflops * 1e12 / of_image)
    assert f"8 x cpu  (data 8)  {tflops} TFLOP/s each" in "\n".join(run.describe())


def test_a_cpu_costs_no_counting(tiny_config, monkeypatch):
    monkeypatch.setattr(flops, "count", None)
    assert peak_images_per_second(open_run(tiny_config())) is None


def test_a_run_writes_what_it_measures(tiny_config, tmp_path):
    flags = {"log.every_seconds": "0", "log.peak_tflops": "0.001", "log.tensorboard": "true"}
    train(resolved(tiny_config(flags)), epath.Path(tmp_path))
    rows = [r for r in read_metrics(epath.Path(tmp_path) / "metrics.jsonl") if "loss" in r]
    assert [row.keys() & set(MEASURED) for row in rows[:1]] == [{"memory_bytes"}]
    run = open_run(tiny_config(flags))
    for row in rows[1:]:
        assert row.keys() >= set(MEASURED) - {"peak_memory_bytes"}
        assert row["images_per_second"] * row["step_seconds"] == pytest.approx(16)
        used = row["images_per_second"] * flops.count(run).training
        assert row["mfu"] == pytest.approx(used / (8 * 1e9))
        assert 0 <= row["waiting_for_data"] <= 1
    (events,) = glob.glob(str(tmp_path / "events.out.tfevents.*"))
    assert all(name.encode() in pathlib.Path(events).read_bytes() for name in ("mfu", "memory"))
