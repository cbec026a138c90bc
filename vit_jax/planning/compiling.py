"""Compile the step of a run in a process of its own, and report what it needs."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from vit_jax import config as config_lib
from vit_jax import errors
from vit_jax.config import stored
from vit_jax.console.text import to_json
from vit_jax.console.waiting import waiting
from vit_jax.planning import child, hlo, lowering, topologies, traffic
from vit_jax.planning.report import Report
from vit_jax.planning.topologies import Topology
from vit_jax.training.flops import Flops

CHILD = child.__name__
POLL_SECONDS = 0.2
LOG = "log"
NOTE_WIDTH = 200

# What keeps JAX off the devices of this machine, while it compiles for others.
WITHOUT_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Kernels cannot be timed without the GPU. Untimed, XLA may find no tiles for a product in Triton.
NO_AUTOTUNING = "--xla_gpu_autotune_level=0"
NO_TRITON = "--xla_gpu_enable_triton_gemm=false"

_NO_TILES = re.compile("tile sizes|[Tt]riton")

# The files of a dump whose last lines say that the compiler has accepted the memory, by platform.
PROGRAMS = {
    "tpu": "*.after_optimizations_after_buffer_assignment.txt",
    "cuda": "*gpu_after_optimizations.txt",
    topologies.HERE: "*after_optimizations.txt",
}
MEMORY = "*after_optimizations-memory-usage-report.txt"
_TOTAL = re.compile(r"^Memory Space: default.*\nTotal bytes: (\d+) .*\n", re.MULTILINE)
REFUSED = "RESOURCE_EXHAUSTED"


class Dump(NamedTuple):
    """What XLA dumped: the program, and the bytes that it needs on each device."""

    program: str
    peak_bytes: int


def compile_step(
    config: config_lib.Config,
    topology: str = topologies.HERE,
    step: str = "train",
    *,
    num_images: int = 0,
    imports: str = "",
    aside: bool = False,
) -> Report:
    """Compile the step of a run for some devices, and report what it needs.

    Args:
      config: The config of the run.
      topology: The name of the devices; see `topologies.FORMS`.
      step: `train` or `eval`.
      num_images: Number of training images; 0 for that of a well-known data set.
      imports: Modules with the user's parts, separated by commas.
      aside: Whether to print progress on stderr if stdout is not a terminal.

    Raises:
      UserError: The run cannot be opened, or its step cannot be compiled; see `errors`.
      InputMissingError: The compiler for these devices is not installed.
    """
    found = topologies.parse(topology)
    topologies.check_compiler(found)
    errors.pick(lowering.STEPS, step, "--step")
    request = {"topology": topology, "step": step, "num_images": num_images, "imports": imports}
    text = f"compiling the {step} step of {config.model['name']} for {topology}"
    with waiting(f"{text}, batch size {config.batch_size:,}", aside=aside):
        try:
            return _compile(config, found, request, "")
        except errors.CompileError as error:
            if found.platform != "cuda" or not _NO_TILES.search(str(error)):
                raise
            first = error
    note = textwrap.shorten(f"compiled with {NO_TRITON}, as without it: {first}", NOTE_WIDTH)
    with waiting(f"{text}, without Triton", aside=aside):
        return _compile(config, found, request, NO_TRITON, note)


def _compile(
    config: config_lib.Config,
    topology: Topology,
    request: Mapping[str, Any],
    more_flags: str,
    *notes: str,
) -> Report:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vit_jax_plan_") as name:
        folder = pathlib.Path(name)
        stored.write(epath.Path(folder), config, {})
        environ = _environment(topology, request["step"], folder, more_flags)
        line = to_json({**request, "folder": name})
        with _running(line, environ, folder / LOG) as process:
            dump = _wait_for_dump(process, folder, topology.platform)
            seconds = time.monotonic() - began
        _raise_error(folder)
        refused = ""
        if dump is None:
            dump, refused = _read_refusal(request, folder, process.returncode)
        return _report(request, folder, dump, refused, seconds, notes)


def _environment(
    topology: Topology, step: str, folder: pathlib.Path, more_flags: str
) -> dict[str, str]:
    """Return the environment of the child: the user's own, with XLA's flags appended."""
    flags = [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_dump_to={folder}",
        "--xla_dump_hlo_as_text",
        f"--xla_dump_hlo_module_re=jit_{step}_step",
    ]
    is_here = topology.platform == topologies.HERE
    if topology.platform == "cuda":
        flags += [NO_AUTOTUNING, more_flags]
    own = {} if is_here else WITHOUT_DEVICES
    return {**os.environ, **own, "XLA_FLAGS": " ".join(filter(None, flags))}


@contextlib.contextmanager
def _running(
    request: str, environ: Mapping[str, str], log: pathlib.Path
) -> Iterator[subprocess.Popen[str]]:
    """Start the child with a request, and end it with its own children."""
    command = [sys.executable, "-m", CHILD]
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, with a module of ours
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            text=True,
            start_new_session=True,  # so that Ctrl-C reaches only this process
        )
    assert process.stdin is not None  # noqa: S101 - it is a pipe; for the type checker
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request + "\n")
            process.stdin.flush()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _wait_for_dump(
    process: subprocess.Popen[str], folder: pathlib.Path, platform: str
) -> Dump | None:
    """Return what a process dumps; None if it ends without it."""
    while process.poll() is None:
        if dump := _read_dump(folder, platform):
            return dump
        time.sleep(POLL_SECONDS)
    return _read_dump(folder, platform)


def _read_dump(folder: pathlib.Path, platform: str) -> Dump | None:
    """Return what is dumped; None if it is not complete yet."""
    memory = sorted(folder.glob(MEMORY))
    programs = sorted(folder.glob(PROGRAMS[platform]))
    total = _TOTAL.search(memory[-1].read_text(errors="replace")) if memory else None
    if not (total and programs):
        return None
    text = programs[-1].read_text(errors="replace")
    return Dump(text, int(total[1])) if hlo.is_complete(text) else None


def _read_refusal(request: Mapping[str, Any], folder: pathlib.Path, code: int) -> tuple[Dump, str]:
    """Return the dump of a program that the compiler refused for its memory, and what it said.

    Raises:
      CompileError: The process has ended with this exit code for another reason.
    """
    problem = _last_error(folder / LOG)
    if code == -signal.SIGKILL:
        problem = "the process that compiled was killed; is the memory of this machine too small?"
    dump = _read_dump(folder, topologies.HERE) if REFUSED in problem else None
    if dump is None:
        raise errors.CompileError(f"{topologies.FLAG}={request['topology']}: {problem}")
    return dump, problem


def _report(
    request: Mapping[str, Any],
    folder: pathlib.Path,
    dump: Dump,
    refused: str,
    seconds: float,
    notes: tuple[str, ...],
) -> Report:
    """Return the report of a step that is compiled, or refused."""
    found = json.loads((folder / child.FACTS).read_text())
    moved = traffic.measure(hlo.parse(dump.program))
    if moved.unknown_loops:
        notes = (*notes, f"{moved.unknown_loops} loops of unknown length are counted once")
    bandwidth = found.pop("bandwidth")
    return Report(
        topology=request["topology"],
        step=request["step"],
        peak_bytes=dump.peak_bytes,
        bytes_accessed=moved.bytes_accessed,
        collectives=moved.collectives,
        instructions=moved.instructions,
        memory_seconds=moved.bytes_accessed / bandwidth if bandwidth else None,
        compile_seconds=round(seconds, 1),
        refused=refused,
        notes=notes,
        **{**found, "flops": Flops(**found["flops"])},
    )


def _raise_error(folder: pathlib.Path) -> None:
    """Raise the error of the child that the user can fix, if there is one."""
    path = folder / child.ERROR
    if not path.exists():
        return
    error = json.loads(path.read_text())
    if error["path"]:
        raise errors.ConfigError(error["path"], error["problem"])
    kind = getattr(errors, error["kind"], errors.UserError)
    raise kind(error["problem"])


def _last_error(log: pathlib.Path) -> str:
    """Return the line of the last error in the log of the child, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (named or lines or ["the process that compiled died without a word"])[-1]
