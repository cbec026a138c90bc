"""Eight virtual devices, data and caches of the test session alone, and the smallest of runs."""

import gc
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

# Before JAX reads it; the tests compile much and run little.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
        "--xla_cpu_parallel_codegen_split_count=1",  # the workers of pytest share the cores
    ]
)

import jax
import pytest
from etils import epath

ROOT = pathlib.Path(__file__).parents[1]

gc.set_threshold(50_000, 50, 50)  # tracing allocates much, and the caches of JAX keep it

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)  # many tests compile the same

TINY = {
    "batch_size": "16",
    "total_steps": "4",
    "model.name": "vit_mu4",
    "model.width": "16",
    "model.num_heads": "2",
    "model.mlp_dim": "32",
    "model.num_classes": "10",
    "data.name": "synthetic",
    "data.image_size": "8,8",
    "data.channels": "1",
    "data.mean": "0.5",
    "data.std": "0.25",
    "data.synthetic.train_examples": "64",
    "data.synthetic.test_examples": "21",
    "data.threads": "1",
    "optim.learning_rate": "0.01",
    "log.tensorboard": "false",
}


@pytest.fixture(scope="session", autouse=True)
def session_dirs(tmp_path_factory):
    """Keeps data sets and compiled programs of the tests out of the user's home."""
    base = tmp_path_factory.mktemp("session")
    names = {"TFDS_DATA_DIR": "tfds", "JAX_COMPILATION_CACHE_DIR": "compiled"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(base / folder) for name, folder in names.items()})
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    jax.config.update("jax_compilation_cache_dir", str(base / "compiled"))
    yield base
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def tiny_config():
    """Returns a function from overrides such as `{"optim.name": "sgd"}` to the smallest config.

    An override of None leaves the field to the named model.
    """
    from vit_jax import config

    def make(overrides: dict[str, str | None] | None = None) -> config.Config:
        tree = config.to_config_dict(config.Config())
        given = {**TINY, **(overrides or {})}
        given = {key: value for key, value in given.items() if value is not None}
        return config.resolve(tree, given).config

    return make


def resolved(config):
    """Returns a config as the training takes it, with no word on who set what."""
    from vit_jax.config import Resolved

    return Resolved(config, {})


def read_rows(workdir):
    """Returns the rows of metrics.jsonl without what depends on the machine and the time."""
    from vit_jax.console.metrics_writer import read_metrics
    from vit_jax.training.measuring import MEASURED

    rows = read_metrics(epath.Path(workdir) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


def restore_state(workdir, run):
    """Returns the training state in the newest checkpoint of a run."""
    from vit_jax.checkpoints.manager import Checkpoints
    from vit_jax.training.state import TrainState

    checkpoints = Checkpoints(epath.Path(workdir) / "checkpoints", 2)
    found = checkpoints.find(run.fingerprint)
    return TrainState.from_items(checkpoints.restore(found, run.shapes.to_items()))


# Kernels on the CPU: cuDNN's by XLA, splash attention interpreted.
ON_CPU = {"cudnn": {"implementation": "xla"}, "splash": {"interpret": True}}


@pytest.fixture
def kernel_on_cpu(monkeypatch):
    """Makes a kernel the one of CPUs, for any dtype; returns the shapes that it is called with."""

    from vit_jax.models.layers.attention import kernels

    def make(name):
        kernel = next(kernel for kernel in kernels.KERNELS if kernel.name == name)
        calls = []

        def attend(q, k, v, bias, num_tokens):
            calls.append((q.shape, num_tokens))
            return kernel.attend(q, k, v, bias, num_tokens, **ON_CPU[name])

        needs = kernel.needs if name == "splash" else ()
        needs = tuple(need for need in needs if need.text != "bfloat16")
        changed = kernel._replace(platform="cpu", attend=attend, needs=needs, pays=())
        monkeypatch.setattr(kernels, "KERNELS", (changed,))
        return calls

    return make


@pytest.fixture
def run_command(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Returns a function that runs `python -m vit_jax.COMMAND FLAGS` in an empty directory."""

    def run(command: str, *flags: str, env: dict[str, str] | None = None, **kwargs):
        return subprocess.run(
            [sys.executable, "-m", f"vit_jax.{command}", *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            **kwargs,
        )

    return run


def tiny_flags(*flags: str) -> list[str]:
    """Returns the flags of the smallest run of the digits config; later ones win."""
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    return [config, *(f"--config.{key}={value}" for key, value in TINY.items()), *flags]
