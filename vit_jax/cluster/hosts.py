"""Hosts that run one command together: they connect, compare settings, and end together.

    joined: connect -> compare the programs -> run the command -> wait until all hosts have ended

With a single process, these are plain function calls. A host means a process here, as in JAX.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import flags
from jax._src import distributed, xla_bridge  # the coordination service has no public client

from vit_jax import __version__
from vit_jax.cluster import launchers
from vit_jax.cluster.group import ANNOUNCE_SECONDS, Group, HostError, Patience, leave
from vit_jax.errors import ConfigError, UserError

T = TypeVar("T")

JOIN_SECONDS = 60.0  # in which all hosts must connect
BEAT_SECONDS = 1.0  # between two heartbeats
SILENT_SECONDS = 20.0  # without a heartbeat, until a host is considered dead
JAX_SILENT_SECONDS = 55  # the same for JAX, which aborts after half of this time or later
GRACE_SECONDS = 8.0  # from the failure of a host until the others exit; they may fail by themselves

_group: Group | None = None  # the connected hosts; None with a single host


@contextlib.contextmanager
def joined(values: flags.FlagValues) -> Iterator[None]:
    """Connect to the other hosts, if there are any, and end together with them.

    Args:
      values: The flags of the command; without the flags of `launchers` it runs on one host.

    Raises:
      ConfigError: The flags are incomplete, or the hosts run different programs.
      HostError: Another host failed.
    """
    global _group
    processes = launchers.find_processes(values, os.environ) if "coordinator" in values else None
    optional = launchers.may_be_on_tpu_pod(os.environ) and not values.distributed
    if optional and xla_bridge.backends_are_initialized():  # in a notebook: too late to connect
        processes = None
    if processes is None or not _initialize(*processes, optional=optional):
        yield
        return
    _group = _make_group()
    try:
        jax.devices()  # waits for all hosts, so all of them must call it now
        run_and_compare(lambda: None, lambda _: _program())
        yield
    except BaseException as error:
        if _group:
            _group.end(error)
        raise
    else:
        if _group:
            _group.end(None)
    finally:
        _group = None


def run_and_compare(
    work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] = lambda _: {}
) -> T:
    """Run some work on every host, and return its result if all hosts succeeded and agree.

    Args:
      work: The work; it may fail on some hosts.
      facts: Maps the result to a JSON object that must be the same on all hosts.

    Raises:
      HostError: The work failed on another host.
      ConfigError: The hosts disagree about a fact.
    """
    if _group is None:
        return work()
    try:
        result = work()
    except (UserError, OSError) as error:
        _group.exchange(error)
        raise
    text = json.dumps(dict(facts(result)))
    digests = _group.exchange(None, hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) > 1:
        _compare([json.loads(other) for other in _group.exchange(None, text)])
    return result


def run_on_host0(work: Callable[[], T]) -> T:
    """Run some work on host 0 only, and return its result, a JSON value, on all hosts.

    Raises:
      HostError: The work failed.
    """
    if _group is None:
        return work()
    text = ""
    if _group.index == 0:
        try:
            text = json.dumps(work())
        except (UserError, OSError) as error:
            _group.exchange(error)
            raise
    return json.loads(_group.exchange(None, text)[0])


def gather(text: str) -> list[str]:
    """Return the texts that all hosts call this with, by index.

    Raises:
      HostError: Another host failed.
    """
    return _group.exchange(None, text) if _group else [text]


def _initialize(
    coordinator: str | None, count: int | None, index: int | None, *, optional: bool
) -> bool:
    """Start JAX's coordination service or connect to it; return False if there is no cluster."""
    # JAX's own handler of SIGTERM would replace that of `preemption`, which also handles Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator"
    waited = f"timed out after {JOIN_SECONDS:.0f} s waiting for all hosts at {where}"
    line = f"{HostError.label}: {waited}; start every process and retry"
    notice = f"wait      for all hosts to connect to {where} ..."
    timers = [
        threading.Timer(ANNOUNCE_SECONDS, functools.partial(print, notice, flush=True)),
        threading.Timer(JOIN_SECONDS, leave, (line, HostError.exit_code)),
    ]
    began = time.monotonic()
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=int(JOIN_SECONDS) + 60,  # after which JAX would abort
            heartbeat_timeout_seconds=JAX_SILENT_SECONDS,
            shutdown_timeout_seconds=JAX_SILENT_SECONDS,
        )
    except (ValueError, OSError) as error:
        if optional and (coordinator, count, index) == (None, None, None):
            return False
        problem = f"JAX found no cluster ({error}); pass HOST:PORT of process 0"
        raise ConfigError("--coordinator", problem) from error
    except RuntimeError as error:
        raise HostError(f"cannot connect to the other hosts at {where}: {error}") from error
    finally:
        for timer in timers:
            timer.cancel()
    if (seconds := time.monotonic() - began) >= ANNOUNCE_SECONDS:
        print(f"          took {seconds:.1f} s", flush=True)
    return True


def _make_group() -> Group | None:
    """Return the hosts that JAX's coordination service knows; None if there is only this one."""
    state = distributed.global_state
    if state.num_processes <= 1:
        return None
    patience = Patience(beat=BEAT_SECONDS, silence=SILENT_SECONDS, grace=GRACE_SECONDS)
    return Group(state.client, state.process_id, state.num_processes, patience)


def _compare(facts: list[dict[str, Any]]) -> None:
    """Raise a `ConfigError` that names the first fact about which hosts disagree."""
    for key in facts[0] | {key: None for other in facts for key in other}:
        expected = facts[0].get(key)
        for host, other in enumerate(facts):
            actual = other.get(key)
            if actual != expected:
                problem = f"the hosts disagree: {expected!r} on host 0, {actual!r} on host {host}"
                raise ConfigError(key, problem)


def _program() -> dict[str, str]:
    """Return what identifies the program: versions, and a digest of the package's source code."""
    package = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return {
        "version of vit_jax": __version__,
        "version of jax": jax.__version__,
        "source of vit_jax": digest.hexdigest()[:12],
    }
