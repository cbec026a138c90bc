"""The report of a plan: what the step of a run needs on some devices."""

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from vit_jax.training.flops import Flops

_GIB = 2**30
_WIDTH = 200  # of what the compiler said
# The kinds of XLA's dtypes, such as `s32`, as NumPy calls them.
_KINDS = {"bf": "bfloat", "f": "float", "s": "int", "u": "uint"}


@dataclasses.dataclass(frozen=True)
class Limit:
    """The memory that a program can use on each device.

    Attributes:
      bytes: Bytes; None if they are not known.
      text: Where they are from.
    """

    bytes: int | None
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What the step of a run needs.

    Attributes:
      topology: Name of the topology.
      device_kind: What JAX calls the devices.
      num_devices: Number of devices of all hosts.
      num_hosts: Number of hosts.
      step: `train` or `eval`.
      batch_size: Images per step, on all devices.
      parameters: Number of parameters.
      flops: Floating point operations for one image.
      state_bytes: Bytes of the training state on each device; in an evaluation, of its variables.
      peak_bytes: Bytes that the program needs on each device, its arguments included.
      limit_bytes: Bytes that a program can use on each device; None if they are not known.
      limit: Where the limit is from, as text.
      refused: What the compiler said if it refused the program for its memory.
      bytes_accessed: Bytes that a step reads from and writes to the memory of each device, an
        estimate.
      collectives: Bytes that devices exchange, by kind and dtype; see `traffic.Traffic`.
      instructions: Number of instructions of a step that move data.
      compute_seconds: The time of a step at the peak FLOPs of the devices; None if not known.
      memory_seconds: The time of a step at the memory bandwidth of the devices; None if not known.
      attention: The kernel of the attention, and why.
      data: What the classes and the numbers of images are, and where they are from.
      compile_seconds: Seconds until the program was compiled, with the start of a process.
      notes: Notes for the user.
    """

    topology: str
    device_kind: str
    num_devices: int
    num_hosts: int
    step: str
    batch_size: int
    parameters: int
    flops: Flops
    state_bytes: int
    peak_bytes: int
    limit_bytes: int | None
    limit: str
    bytes_accessed: int
    collectives: Mapping[str, Mapping[str, int]]
    instructions: int
    compute_seconds: float | None
    memory_seconds: float | None
    attention: str
    compile_seconds: float
    data: str = ""
    refused: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory of a device; an unknown memory holds all."""
        return not self.refused and (
            self.limit_bytes is None or self.peak_bytes <= self.limit_bytes
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {**document, "fits": self.fits}

    def describe(self) -> list[str]:
        """Return the report as lines, one per topic."""
        lines = {
            "devices": self._describe_devices(),
            "step": f"{self.step}  {self.batch_size:,} images  compiled in "
            f"{self.compile_seconds:.1f} s",
            "data": self.data,
            "model": f"{self.parameters:,} parameters  {self._describe_flops()}",
            "attention": self.attention,
            "state": f"{gib(self.state_bytes)} on each device",
            "peak": self._describe_peak(),
            "refused": textwrap.shorten(self.refused, _WIDTH),
            "traffic": f"{gib(self.bytes_accessed)} of memory on each device, an estimate  "
            f"{self.instructions:,} instructions",
            "sent": self._describe_collectives(),
            "floor": self._describe_floor(),
        }
        notes = [f"note      {note}" for note in self.notes]
        return [*(f"{name:<10}{text}" for name, text in lines.items() if text), *notes]

    def _describe_devices(self) -> str:
        hosts = f"{self.num_hosts} hosts" if self.num_hosts > 1 else "1 host"
        return f"{self.topology}  {self.num_devices} x {self.device_kind}  {hosts}"

    def _describe_flops(self) -> str:
        forward, training, recomputed = (
            count / 1e9
            for count in (self.flops.forward, self.flops.training, self.flops.recomputed)
        )
        again = f" + {_short(recomputed)} recomputed" if recomputed else ""
        return f"GFLOPs an image: {_short(forward)} forward, {_short(training)}{again} training"

    def _describe_peak(self) -> str:
        answer = "fits" if self.fits else "does not fit"
        if self.limit_bytes is None:
            return f"{gib(self.peak_bytes)} on each device  ({self.limit})"
        return f"{gib(self.peak_bytes)} of {gib(self.limit_bytes)}: {answer}  ({self.limit})"

    def _describe_collectives(self) -> str:
        parts = [
            f"{kind} {', '.join(f'{_size(n)} {_dtype(dtype)}' for dtype, n in sent.items())}"
            for kind, sent in self.collectives.items()
        ]
        return "; ".join(parts) or "nothing"

    def _describe_floor(self) -> str:
        if self.compute_seconds is None or self.memory_seconds is None:
            return ""
        compute, memory = 1e3 * self.compute_seconds, 1e3 * self.memory_seconds
        bound = "compute-bound  at most" if compute >= memory else "memory-bound  about"
        speed = self.batch_size / max(self.compute_seconds, self.memory_seconds)
        return (
            f"{_short(compute)} ms by FLOPs, {_short(memory)} ms by bandwidth: {bound} "
            f"{speed:,.0f} images/s"
        )


def gib(count: int) -> str:
    """Return a number of bytes as text: in GiB, or if it is small, in KiB or MiB."""
    return f"{count / _GIB:,.2f} GiB" if count >= _GIB / 10 else _size(count)


def _short(value: float) -> str:
    """Return a number with one decimal, or with three digits if it is small."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _size(count: int) -> str:
    """Return a number of bytes as text, in KiB or MiB."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _dtype(name: str) -> str:
    """Return NumPy's name of a dtype of XLA."""
    kind = name.rstrip("0123456789")
    return f"{_KINDS[kind]}{name.removeprefix(kind)}" if kind in _KINDS else name
