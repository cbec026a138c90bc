"""What a run and its devices are, before anything is compiled."""

import dataclasses
from typing import Any

import jax

from vit_jax.cluster.device_specs import DeviceSpec, find_spec
from vit_jax.planning import lowering
from vit_jax.planning.report import Limit, gib
from vit_jax.planning.topologies import FRACTION, HERE, Topology, memory_fraction
from vit_jax.training import flops
from vit_jax.training.memory import bytes_per_device, memory_of
from vit_jax.training.run import Run


def collect(run: Run, topology: Topology, step: str) -> dict[str, Any]:
    """Return the facts of a report that do not depend on the compiled program, as plain JSON."""
    devices = run.mesh.devices.flatten()
    device = devices[0]
    spec = find_spec(device.device_kind, getattr(device, "num_cores", None))
    limit = _limit(device, spec, topology)
    size = lowering.batch_size(run, step)
    counted = flops.count(run)
    return {
        "device_kind": device.device_kind,
        "num_devices": len(devices),
        "num_hosts": len({device.process_index for device in devices}),
        "batch_size": size,
        "parameters": run.num_parameters,
        "flops": dataclasses.asdict(counted),
        "state_bytes": bytes_per_device(lowering.state(run, step)),
        "limit_bytes": limit.bytes,
        "limit": limit.text,
        "attention": run.describe_attention(),
        "compute_seconds": _compute_seconds(run, counted, step, size / len(devices)),
        "bandwidth": spec.bandwidth if spec else None,
    }


def _compute_seconds(run: Run, counted: flops.Flops, step: str, images: float) -> float | None:
    """Return the time of a step of so many images at the peak FLOPs of a device, if known."""
    trained = counted.training + counted.recomputed
    needed = trained if step == "train" else counted.forward
    return images * needed / run.peak_flops if run.peak_flops else None


def _limit(device: jax.Device, spec: DeviceSpec | None, topology: Topology) -> Limit:
    """Return the memory of a device that a program can use."""
    if topology.platform == HERE:
        is_cpu = device.platform == "cpu"
        text = "the memory of this machine" if is_cpu else "what JAX takes of the device's memory"
        return Limit(memory_of(device), text)
    if spec is None:
        return Limit(None, f"the memory of {device.device_kind} is not known")
    if topology.platform == "tpu":
        return Limit(spec.usable, "what programs can use of the HBM")
    fraction = memory_fraction()
    text = f"{fraction:.0%} of {gib(spec.usable)}; {FRACTION}={fraction:g}"
    return Limit(int(spec.usable * fraction), text)
