"""Devices that need not be here: slices of TPUs and hosts of GPUs, by name, for their compilers.

JAX describes them from their topology alone, so that a program can be compiled, but not run.
"""

import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from vit_jax.errors import ConfigError, InputMissingError, suggest

FLAG = "--topology"
HERE = "here"  # the devices of this process
FORMS = "here, chips of a TPU such as v5e:4x4 or v4:2x2x2, or GPUs such as h100:8 or h100:2x8"


class Tpu(NamedTuple):
    """A generation of TPUs.

    Attributes:
      host: The chips of a host in a slice of several hosts; the shape of a slice is a multiple.
      single: The shapes of slices of one host, besides `host`.
      pod: The chips of a whole pod, the largest slice.
      options: Options of its topology: `megacore` makes the two cores of a chip one device.
    """

    host: tuple[int, ...]
    single: tuple[tuple[int, ...], ...]
    pod: int
    options: Mapping[str, Any]


# The hosts are those of Cloud TPU: https://cloud.google.com/tpu/docs (the page of each generation).
TPUS = {
    "v2": Tpu((2, 2), ((1, 1),), 256, {}),
    "v3": Tpu((2, 2), ((1, 1),), 1024, {}),
    "v4": Tpu((2, 2, 1), ((1, 1, 1),), 4096, {"chip_config_name": "megacore"}),
    "v5e": Tpu((2, 2), ((1, 1), (2, 4)), 256, {}),
    "v5p": Tpu((2, 2, 1), ((1, 1, 1),), 8960, {}),
    "v6e": Tpu((2, 2), ((1, 1), (2, 4)), 256, {}),
    "tpu7x": Tpu((2, 2, 1), ((1, 1, 1),), 9216, {}),
}

GPUS_OF_A_HOST = 8


class Gpu(NamedTuple):
    """A GPU.

    Attributes:
      memory: Its memory in bytes.
      target: What else XLA must know of it, in XLA's text format.
    """

    memory: int
    target: str


# For an H100 SXM as XLA's own `backends/gpu/target_config/specs/h100_sxm.txtpb` says,
# https://github.com/openxla/xla.
GPUS = {
    "h100": Gpu(
        84942979072,
        """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
""",
    )
}

# The share of the memory of a GPU that JAX takes; JAX also reads the deprecated name.
FRACTION = "XLA_CLIENT_MEM_FRACTION"
DEPRECATED_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
DEFAULT_FRACTION = 0.75
# The share that XLA plans with where JAX does not say what it takes, as without the GPU.
XLA_FRACTION = 0.8

# Modules of the compilers, of which one is needed, and the extra that installs one.
COMPILERS = {
    "tpu": (("libtpu",), "plan-tpu"),
    "cuda": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "plan-gpu"),
}


class Topology(NamedTuple):
    """Devices by name.

    Attributes:
      platform: `tpu` or `cuda`, or `here`.
      kind: The entry of `TPUS` or `GPUS`.
      shape: The chips of a TPU along each axis; or hosts, and GPUs of each host.
    """

    platform: str
    kind: str
    shape: tuple[int, ...]


def parse(name: str) -> Topology:
    """Parse the name of a topology.

    Raises:
      ConfigError: There are no such devices.
    """
    if name == HERE:
        return Topology(HERE, HERE, ())
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", name)
    kind = name.partition(":")[0]
    if kind not in {*TPUS, *GPUS}:
        hint = suggest(kind, [HERE, *TPUS, *GPUS])
        raise ConfigError(FLAG, f"unknown '{name}'; expected {FORMS}; {hint}")
    shape = tuple(map(int, match[2].split("x"))) if match else ()
    if kind in TPUS:
        return Topology("tpu", kind, _check_slice(name, shape))
    if len(shape) == 1:
        shape = (1, *shape)
    if len(shape) != 2 or not shape[1] <= GPUS_OF_A_HOST:
        problem = f"expected {kind}:N with N from 1 to {GPUS_OF_A_HOST}, or {kind}:HOSTSxN"
        raise ConfigError(FLAG, f"{problem}, got '{name}'")
    return Topology("cuda", kind, shape)


def _check_slice(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    kind = name.partition(":")[0]
    tpu = TPUS[kind]
    is_of_hosts = len(shape) == len(tpu.host) and not any(
        size % of_host for size, of_host in zip(shape, tpu.host, strict=True)
    )
    if shape not in tpu.single and not is_of_hosts:
        single = ", ".join(f"{kind}:{_join(one)}" for one in tpu.single)
        problem = f"expected {single} or multiples of {kind}:{_join(tpu.host)}"
        raise ConfigError(FLAG, f"{problem} along each axis, got '{name}'")
    if math.prod(shape) > tpu.pod:
        raise ConfigError(FLAG, f"expected at most the {tpu.pod:,} chips of a pod, got '{name}'")
    return shape


def check_compiler(topology: Topology) -> None:
    """Check that the compiler for a topology is installed.

    Raises:
      InputMissingError: It is not; the message names the extra.
    """
    if topology.platform == HERE:
        return
    modules, extra = COMPILERS[topology.platform]
    if not any(importlib.util.find_spec(module) for module in modules):
        problem = f"{FLAG}: the compiler for {topology.kind} is not installed"
        raise InputMissingError(f"{problem}; pip install 'vit_jax[{extra}]'")


def find_devices(topology: Topology) -> Sequence[jax.Device]:
    """Return the devices of a topology, for `jax.make_mesh` and shardings."""
    from jax.experimental import topologies

    if topology.platform == HERE:
        return jax.devices()
    if topology.platform == "cuda":
        found = topologies.get_topology_desc(
            topology_name=topology.kind,
            platform="cuda",
            target_config=_target(GPUS[topology.kind]),
            topology=_join((1, *topology.shape)),
        )
        return found.devices
    tpu = TPUS[topology.kind]
    options = dict(tpu.options)
    if topology.shape in tpu.single:
        options["chips_per_host_bounds"] = (*topology.shape, 1)[:3]
    name = f"{topology.kind}:{_join(topology.shape)}"
    return topologies.get_topology_desc(name, platform="tpu", **options).devices


def memory_fraction() -> float:
    """Return the share of the memory of a GPU that JAX takes, from the environment.

    Raises:
      ConfigError: The environment has no such share, or two of them, which JAX refuses.
    """
    names = [name for name in (FRACTION, DEPRECATED_FRACTION) if os.environ.get(name)]
    if len(names) > 1:
        problem = f"JAX does not take it beside {FRACTION}; unset it"
        raise ConfigError(DEPRECATED_FRACTION, problem)
    name = names[0] if names else FRACTION
    text = os.environ.get(name) or str(DEFAULT_FRACTION)
    try:
        fraction = float(text)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction <= 1:
        raise ConfigError(name, f"expected a number above 0, at most 1, got '{text}'")
    return fraction


def _target(gpu: Gpu) -> str:
    """Return what XLA must know of a GPU, so that it plans with the memory that JAX takes."""
    memory = round(gpu.memory * memory_fraction() / XLA_FRACTION)
    block = "gpu_device_info {"
    return gpu.target.replace(block, f"{block}\n  device_memory_size: {memory}")


def num_chips(topology: Topology) -> int:
    """Return the number of chips or GPUs of a topology that is not here."""
    return math.prod(topology.shape)


def _join(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
