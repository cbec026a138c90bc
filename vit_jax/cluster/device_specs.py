"""The figures of accelerators: peak FLOPs, memory and bandwidth, by the kind of a JAX device.

A figure is that of one JAX device. TPU v3 and TPU7x have two devices per chip, TPU v4 and v5p one.

Sources: the pages "System architecture" of Cloud TPU and the datasheets of NVIDIA, dense, with the
boost clock. Peaks are those of a matrix product at JAX's default precision: float32 takes one pass
of bfloat16 on a TPU, and TF32 on an NVIDIA GPU since Ampere. Older GPUs have no bfloat16 units.
`usable` of a TPU is the limit that its compiler states (libtpu 0.0.42); that of a GPU is what CUDA
reports as its memory, which depends a little on the driver.
"""

import dataclasses
import types
from collections.abc import Mapping

_GIB = 2**30
_GB = 10**9
_TERA = 1e12


@dataclasses.dataclass(frozen=True)
class DeviceSpec:
    """The figures of a device.

    Attributes:
      name: Short name, such as `v5e`.
      flops: Peak floating point operations per second by dtype, `bfloat16` and `float32`.
      memory: Bytes of device memory (HBM).
      usable: Bytes of it that a program can use.
      bandwidth: Bytes per second between the device and its memory.
      kinds: What `jax.Device.device_kind` says.
      num_cores: What `device.num_cores` says, where the kind does not tell.
    """

    name: str
    flops: Mapping[str, float]
    memory: int
    usable: int
    bandwidth: float
    kinds: tuple[str, ...]
    num_cores: int | None = None


def _spec(
    name: str,
    bfloat16: int | float,
    float32: int | float,
    memory: int,
    usable: int | float,
    bandwidth: int,
    *kinds: str,
    num_cores: int | None = None,
) -> DeviceSpec:
    """Return a spec from TFLOP/s, bytes, GiB of usable memory, and GB/s."""
    flops = {"bfloat16": bfloat16 * _TERA, "float32": float32 * _TERA}
    frozen = types.MappingProxyType(flops)
    return DeviceSpec(
        name, frozen, memory, int(usable * _GIB), float(bandwidth * _GB), kinds, num_cores
    )


_ALL = (
    # Cloud TPU.
    _spec("v2", 22.5, 22.5, 8 * _GIB, 7.48, 350, "TPU v2"),
    _spec("v3", 61.5, 61.5, 16 * _GIB, 15.48, 450, "TPU v3"),
    _spec("v4", 275, 275, 32 * _GIB, 30.75, 1_228, "TPU v4", num_cores=2),
    # A chip as two devices, as in a topology that is described without the chips.
    _spec("v4_core", 137.5, 137.5, 16 * _GIB, 15.25, 614, "TPU v4", num_cores=1),
    _spec("v5e", 197, 197, 16 * _GIB, 15.75, 819, "TPU v5 lite", "TPU v5e"),
    _spec("v5p", 459, 459, 96 * _GIB, 95.74, 2_765, "TPU v5", "TPU v5p"),
    _spec("v6e", 918, 918, 32 * _GIB, 31.25, 1_638, "TPU v6 lite", "TPU v6e"),
    _spec("tpu7x", 1_153.5, 1_153.5, 96 * _GIB, 94.75, 3_690, "TPU7x"),
    # NVIDIA: tensor cores, without sparsity.
    _spec("v100", 15.7, 15.7, 16 * _GB, 15.77, 900, "Tesla V100-SXM2-16GB"),
    _spec("v100_32", 15.7, 15.7, 32 * _GB, 31.73, 900, "Tesla V100-SXM2-32GB"),
    _spec("t4", 8.1, 8.1, 16 * _GB, 14.56, 320, "Tesla T4"),
    _spec("a100", 312, 156, 40 * _GB, 39.39, 1_555, "NVIDIA A100-SXM4-40GB"),
    _spec("a100_80", 312, 156, 80 * _GB, 79.1, 2_039, "NVIDIA A100-SXM4-80GB"),
    _spec("a100_80_pcie", 312, 156, 80 * _GB, 79.1, 1_935, "NVIDIA A100 80GB PCIe"),
    _spec("l4", 121, 60, 24 * _GB, 22.0, 300, "NVIDIA L4"),
    _spec("l40s", 362, 183, 48 * _GB, 44.3, 864, "NVIDIA L40S"),
    _spec("h100", 989.4, 494.7, 80 * _GB, 79.1, 3_350, "NVIDIA H100 80GB HBM3"),
    _spec("h100_pcie", 756, 378, 80 * _GB, 79.1, 2_000, "NVIDIA H100 PCIe"),
    _spec("h100_nvl", 835.5, 417.5, 94 * _GB, 93.0, 3_900, "NVIDIA H100 NVL"),
    _spec("h200", 989.4, 494.7, 141 * _GB, 139.8, 4_800, "NVIDIA H200"),
)

SPECS: Mapping[str, DeviceSpec] = types.MappingProxyType({spec.name: spec for spec in _ALL})


def find_spec(device_kind: str, num_cores: int | None = None) -> DeviceSpec | None:
    """Return the spec of a device; None for a CPU or an unknown device.

    Args:
      device_kind: `device.device_kind` of a JAX device, such as `TPU v5 lite`.
      num_cores: `device.num_cores`, which tells whether a TPU v4 is a whole chip; a whole one if
        it is not given.
    """
    for spec in SPECS.values():
        is_core_count = None in (num_cores, spec.num_cores) or num_cores == spec.num_cores
        if device_kind in spec.kinds and is_core_count:
            return spec
    return None
