"""Several hosts that run one command: how they meet, agree, and end together.

    joined: meet -> is the program the same? -> the command -> end, when all have ended

What hosts tell each other goes through JAX's coordination service, which host 0 runs: it needs no
device, and a host that waits for another can still be told that the other failed. In one process
all of this is a plain call. A host is a process here, as in JAX.
"""

import atexit
import contextlib
import hashlib
import json
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import flags
from jax._src import distributed, xla_bridge  # the coordination service has no public client

from vit_jax import __version__
from vit_jax.cluster import launchers
from vit_jax.errors import ConfigError, Interrupted, UserError

T = TypeVar("T")

JOIN_SECONDS = 60.0  # for all hosts to be there
BEAT_SECONDS = 1.0  # between two signs of life
SILENT_SECONDS = 20.0  # without one, until a host is taken for dead
JAX_SILENT_SECONDS = 55  # the same for JAX, which aborts after half of this or later
GRACE_SECONDS = 8.0  # after a host failed, until the others leave: they may be about to fail too


class HostError(Interrupted):
    """A host failed, or does not answer; with the exit code of its error, if it told one."""


@contextlib.contextmanager
def joined(values: flags.FlagValues) -> Iterator[None]:
    """Meets the other hosts, where there are any, and leaves together with them.

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
    met = distributed.global_state
    _group = (
        _Group(met.client, met.process_id, met.num_processes) if met.num_processes > 1 else None
    )
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
    """Does some work on every host, and goes on only where all of them did it alike.

    Args:
      work: What to do; it may fail on some of the hosts.
      facts: What must be the same on all hosts, as plain JSON, from the result of the work.

    Raises:
      HostError: The work failed on a host.
      ConfigError: The hosts disagree about a fact.
    """
    if _group is None:
        return work()
    try:
        result = work()
    except (UserError, OSError) as error:
        _group.exchange(error)
        raise
    known = json.dumps(dict(facts(result)))
    digests = _group.exchange(None, hashlib.sha256(known.encode()).hexdigest())
    if len(set(digests)) > 1:
        _compare([json.loads(text) for text in _group.exchange(None, known)])
    return result


def run_on_host0(work: Callable[[], T]) -> T:
    """Does some work on host 0 alone, and returns its result, which is plain JSON, on all.

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
    """Starts JAX's coordination service, or connects to it; False where there is no cluster."""
    # Its handler would take SIGTERM away from `interrupt`, which agrees on Ctrl-C as well.
    jax.config.update("jax_enable_preemption_service", False)
    where = coordinator or "the coordinator"
    problem = f"not all hosts were at {where} within {JOIN_SECONDS:.0f} s; start all, then again"
    timer = threading.Timer(JOIN_SECONDS, _leave, (f"stopped: {problem}", HostError.exit_code))
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


class _Group:
    """The hosts that met; a thread watches that all of them live."""

    def __init__(self, client: Any, index: int, count: int) -> None:
        self._client, self.index, self._count = client, index, count
        self._round = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="hosts", daemon=True)
        self._watcher.start()

    def exchange(self, error: Exception | None, text: str = "") -> list[str]:
        """Returns the texts of all hosts, by host.

        Raises:
          HostError: One of them has an error instead.
        """
        self._round += 1
        found = self._wait_for_all(f"round{self._round}", json.dumps([_describe(error), text]))
        if self._round > 1:  # which all have read, or they would not be in this one
            self._client.key_value_delete(f"vit_jax/round{self._round - 1}/{self.index}")
        reports = [json.loads(found[host]) for host in range(self._count)]
        problems = [problem for problem, _ in reports]
        if error is None or problems.count(problems[self.index]) < self._count:
            _raise_first(problems)
        return [text for _, text in reports]

    def end(self, error: BaseException | None) -> None:
        """Waits until all hosts have ended; where this one failed alone, until they know.

        Raises:
          HostError: Another host failed in the end.
        """
        told = isinstance(error, UserError | OSError | KeyboardInterrupt)
        if error is not None and not told:
            # Perhaps only what the death of another looks like: then the watch ends this one too.
            self._wait_for_all("fault", "", SILENT_SECONDS + 2 * BEAT_SECONDS)
        # A host that succeeded waits for the others; the watch sees that they live.
        patience = math.inf if error is None else GRACE_SECONDS + 3 * BEAT_SECONDS
        found = self._wait_for_all("end", json.dumps(_describe(error)), patience)
        self._over.set()
        self._watcher.join()
        if len(found) < self._count:  # they left at once; JAX would wait for them
            atexit.register(_exit, _describe(error)[0])
        if error is None:
            _raise_first([json.loads(found[host]) for host in range(self._count)])

    def _wait_for_all(self, topic: str, text: str, seconds: float = math.inf) -> dict[int, str]:
        """Tells the others, and returns what they told, by host."""
        self._tell(topic, text)
        pause, deadline = 0.005, time.monotonic() + seconds
        while len(found := self._read(topic)) < self._count and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
        return found

    def _tell(self, topic: str, text: str) -> None:
        key = f"vit_jax/{topic}/{self.index}"
        self._client.key_value_set(key, text, allow_overwrite=True)

    def _read(self, topic: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"vit_jax/{topic}/")
        return {int(key.rpartition("/")[2]): text for key, text in found}

    def _watch(self) -> None:
        try:
            self._watch_until_over()
        except jax.errors.JaxRuntimeError:
            if not self._over.is_set():
                self._end_here("stopped: host 0 does not answer; the same command goes on", 75)

    def _watch_until_over(self) -> None:
        beats = 0
        heard = {host: ("", time.monotonic()) for host in range(self._count)}
        failed: dict[int, float] = {}
        while not self._over.wait(BEAT_SECONDS):
            beats += 1
            self._tell("beat", str(beats))
            found, ended, now = self._read("beat"), self._read("end"), time.monotonic()
            for host, (beat, since) in heard.items():
                if found.get(host, "") != beat:
                    heard[host] = found[host], now
                elif now - since > SILENT_SECONDS and host not in ended:
                    self._end_here(
                        f"stopped: host {host} does not answer; the same command goes on", 75
                    )
            for host, text in ended.items():
                code, label, message = json.loads(text)
                grace = now - failed.setdefault(host, now) > GRACE_SECONDS
                if code and grace and self.index not in ended:
                    self._end_here(f"{label}: host {host}: {message}", code)

    def _end_here(self, line: str, code: int) -> None:
        if self.index == 0:  # without the service, the others could not learn why
            time.sleep(3 * BEAT_SECONDS)
        _leave(line, code)


_group: _Group | None = None


def _describe(error: BaseException | None) -> tuple[int, str, str]:
    """Returns exit code, label and message of an error, as they go to the other hosts."""
    if error is None:
        return 0, "", ""
    message = " ".join(str(error).split())[:1000]
    if isinstance(error, UserError):
        return error.exit_code, error.label, message
    if isinstance(error, OSError):
        return 74, "error", message
    return HostError.exit_code, HostError.label, f"{type(error).__name__} {message}".strip()


def _raise_first(problems: list[list[Any]]) -> None:
    for host, (code, label, message) in enumerate(problems):
        if code:
            error = HostError(f"host {host}: {message}")
            error.exit_code, error.label = code, label
            raise error


def _compare(facts: list[dict[str, Any]]) -> None:
    """Raises a `ConfigError` that names the first fact about which hosts disagree."""
    for key in facts[0] | {key: None for other in facts for key in other}:
        for host, other in enumerate(facts):
            if other.get(key) != facts[0].get(key):
                had, has = facts[0].get(key), other.get(key)
                raise ConfigError(key, f"the hosts disagree: {had!r} on host 0, {has!r} on {host}")


def _program() -> dict[str, str]:
    """Returns what tells a program from another."""
    package = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return {
        "version of vit_jax": __version__,
        "version of jax": jax.__version__,
        "source of vit_jax": digest.hexdigest()[:12],
    }


def _leave(line: str, code: int) -> None:
    """Ends the process, whatever it is doing."""
    print(line, file=sys.stderr, flush=True)
    _exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
