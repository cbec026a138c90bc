"""Several hosts that run one command: how they meet, agree, and end together.

    joined: meet -> is the program the same? -> the command -> end, when all have ended

In one process all of this is a plain call. A host is a process here, as in JAX.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import flags
from jax._src import distributed, xla_bridge  # the coordination service has no public client

from vit_jax import __version__
from vit_jax.cluster import launchers
from vit_jax.cluster.group import Group, HostError, Patience, leave
from vit_jax.errors import ConfigError, UserError

T = TypeVar("T")

JOIN_SECONDS = 60.0  # for all hosts to meet
BEAT_SECONDS = 1.0  # between two signs of life
SILENT_SECONDS = 20.0  # without one, until a host counts as dead
JAX_SILENT_SECONDS = 55  # the same for JAX, which aborts after half of this or later
GRACE_SECONDS = 8.0  # after a host failed, until the others leave: they may be about to fail too

_group: Group | None = None  # the hosts that met; None on one host


@contextlib.contextmanager
def joined(values: flags.FlagValues) -> Iterator[None]:
    """Meet the other hosts, where there are any, and leave together with them.

    Args:
      values: The flags of the command; without those of `launchers` it runs on one host.

    Raises:
      ConfigError: The flags are incomplete, or the hosts run different programs.
      HostError: Another host failed.
    """
    global _group
    place = launchers.find_place(values, os.environ) if "coordinator" in values else None
    optional = launchers.may_be_on_tpu_pod(os.environ) and not values.distributed
    if optional and xla_bridge.backends_are_initialized():  # in a notebook: too late to meet
        place = None
    if place is None or not _initialize(*place, optional=optional):
        yield
        return
    _group = _make_group()
    try:
        jax.devices()  # all hosts at once: each waits for the others here
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
    """Run some work on every host, and return only where all of them succeeded and agree.

    Args:
      work: What to run; it may fail on some of the hosts.
      facts: From the result of the work to what must be the same on all hosts, as plain JSON.

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
    """Run some work on host 0 alone, and return its result, which is plain JSON, on all.

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


def _initialize(
    coordinator: str | None, count: int | None, index: int | None, *, optional: bool
) -> bool:
    """Start or join JAX's coordination service; return False where there is no cluster."""
    # Its handler would take SIGTERM away from `preemption`, which agrees on Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator"
    waited = f"timed out after {JOIN_SECONDS:.0f} s waiting for all hosts at {where}"
    line = f"{HostError.label}: {waited}; start every process and retry"
    timer = threading.Timer(JOIN_SECONDS, leave, (line, HostError.exit_code))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=int(JOIN_SECONDS) + 60,  # where JAX would abort
            heartbeat_timeout_seconds=JAX_SILENT_SECONDS,
            shutdown_timeout_seconds=JAX_SILENT_SECONDS,
        )
    except (ValueError, OSError) as error:
        if optional and (coordinator, count, index) == (None, None, None):
            return False
        hint = "give --coordinator=HOST:PORT, --num_processes and --process_id"
        raise ConfigError("--distributed", f"JAX found no cluster ({error}); {hint}") from error
    except RuntimeError as error:
        raise HostError(f"cannot meet the other hosts at {where}: {error}") from error
    finally:
        timer.cancel()
    return True


def _make_group() -> Group | None:
    """Return the hosts that JAX's coordination service knows; None where this one is alone."""
    met = distributed.global_state
    if met.num_processes <= 1:
        return None
    patience = Patience(beat=BEAT_SECONDS, silence=SILENT_SECONDS, grace=GRACE_SECONDS)
    return Group(met.client, met.process_id, met.num_processes, patience)


def _compare(facts: list[dict[str, Any]]) -> None:
    """Raise a `ConfigError` that names the first fact about which hosts disagree."""
    for key in facts[0] | {key: None for other in facts for key in other}:
        expected = facts[0].get(key)
        for host, other in enumerate(facts):
            actual = other.get(key)
            if actual != expected:
                problem = f"the hosts disagree: {expected!r} on host 0, {actual!r} on {host}"
                raise ConfigError(key, problem)


def _program() -> dict[str, str]:
    """Return what identifies the program: versions, and a digest of the package's source."""
    package = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return {
        "version of vit_jax": __version__,
        "version of jax": jax.__version__,
        "source of vit_jax": digest.hexdigest()[:12],
    }
