"""The hosts of a run: they exchange messages, detect hosts that died, and end together.

Messages go through JAX's coordination service, which runs on host 0. It needs no device, so a host
that waits for another one can still learn that the other one failed.
"""

import atexit
import dataclasses
import json
import math
import os
import sys
import threading
import time
from typing import Any

import jax

from vit_jax.errors import CheckpointError, Interrupted, UserError

# Seconds after which host 0 prints which hosts it waits for.
ANNOUNCE_SECONDS = 2.0


class HostError(Interrupted):
    """A host failed or does not answer. The exit code is that of its error, if it reported one."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a host waits for the others, in seconds."""

    beat: float  # between two heartbeats
    silence: float  # without a heartbeat, until a host is considered dead
    grace: float  # from the failure of a host until the others exit; they may fail by themselves


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the work of a host ended, as the other hosts see it; exit code 0 is success."""

    exit_code: int = 0
    label: str = ""
    message: str = ""

    @classmethod
    def of(cls, error: BaseException | None) -> "Outcome":
        """Return the outcome of work that raised an error, or that succeeded (None)."""
        if error is None:
            return cls()
        message = " ".join(str(error).split())[:1000]
        if isinstance(error, UserError):
            return cls(error.exit_code, error.label, message)
        if isinstance(error, OSError):
            return cls(CheckpointError.exit_code, CheckpointError.label, message)
        message = f"{type(error).__name__} {message}".strip()
        return cls(HostError.exit_code, HostError.label, message)

    def to_json(self) -> list[Any]:
        """Return the outcome as a list of JSON values; `Outcome(*values)` reads it."""
        return [self.exit_code, self.label, self.message]


class Group:
    """The hosts that run one command; a thread watches their heartbeats.

    Args:
      client: The client of JAX's coordination service.
      index: The index of this host, from 0.
      count: The number of hosts.
      patience: How long to wait for the other hosts.
    """

    def __init__(self, client: Any, index: int, count: int, patience: Patience) -> None:
        self.index = index
        self._client = client
        self._count = count
        self._patience = patience
        self._round = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="hosts", daemon=True)
        self._watcher.start()

    def exchange(self, error: Exception | None, text: str = "") -> list[str]:
        """Send a text to all hosts, and return the texts of all hosts by index.

        Args:
          error: The error that this host's work raised, if any.
          text: The text of this host.

        Raises:
          HostError: Another host has an error instead of a text.
        """
        self._round += 1
        message = json.dumps([Outcome.of(error).to_json(), text])
        messages = self._wait_for_all(f"round{self._round}", message)
        if self._round > 1:  # all hosts have read the previous round, since they are in this one
            self._client.key_value_delete(f"vit_jax/round{self._round - 1}/{self.index}")
        reports = [json.loads(messages[host]) for host in range(self._count)]
        outcomes = [Outcome(*values) for values, _ in reports]
        if error is None or outcomes.count(outcomes[self.index]) < self._count:
            _raise_first(outcomes)
        return [text for _, text in reports]

    def end(self, error: BaseException | None) -> None:
        """Wait until all hosts have ended; if this one failed, until the others know.

        Raises:
          HostError: Another host failed at the end.
        """
        is_reported = isinstance(error, UserError | OSError | KeyboardInterrupt)
        if error is not None and not is_reported:
            # The error may be a consequence of another host's death; then the watcher ends this
            # process with a line that names that host.
            seconds = self._patience.silence + 2 * self._patience.beat
            self._wait_for_all("fault", "", seconds)
        # A host that succeeded waits without a limit; the watcher notices if a host dies.
        seconds = math.inf if error is None else self._patience.grace + 3 * self._patience.beat
        outcome = Outcome.of(error)
        messages = self._wait_for_all("end", json.dumps(outcome.to_json()), seconds)
        self._over.set()
        self._watcher.join()
        if len(messages) < self._count:  # a host exited without a message; JAX would wait for it
            atexit.register(_exit, outcome.exit_code)
            # Python first waits for threads, of which one may wait for a step that never ends.
            last = threading.Timer(self._patience.grace, _exit, (outcome.exit_code,))
            last.daemon = True
            last.start()
        if error is None:
            _raise_first([Outcome(*json.loads(messages[host])) for host in range(self._count)])

    def _wait_for_all(self, topic: str, text: str, seconds: float = math.inf) -> dict[int, str]:
        """Send a text, and return the texts of all hosts by index.

        Args:
          topic: What the text is about; every host must use the same topics in the same order.
          text: The text of this host.
          seconds: How long to wait; after that, the texts of some hosts may be missing.
        """
        self._send(topic, text)
        began = time.monotonic()
        announces = self.index == 0 and seconds == math.inf
        announced = False
        pause = 0.005
        while len(messages := self._read(topic)) < self._count:
            waited = time.monotonic() - began
            if waited >= seconds:
                break
            if announces and not announced and waited >= ANNOUNCE_SECONDS:
                announced = True
                missing = [host for host in range(self._count) if host not in messages]
                print(f"wait      for host {', '.join(map(str, missing))} ...", flush=True)
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
        if announced:
            print(f"          took {time.monotonic() - began:.1f} s", flush=True)
        return messages

    def _send(self, topic: str, text: str) -> None:
        key = f"vit_jax/{topic}/{self.index}"
        self._client.key_value_set(key, text, allow_overwrite=True)

    def _read(self, topic: str) -> dict[int, str]:
        entries = self._client.key_value_dir_get(f"vit_jax/{topic}/")
        return {int(key.rpartition("/")[2]): text for key, text in entries}

    def _watch(self) -> None:
        try:
            self._watch_until_over()
        except jax.errors.JaxRuntimeError:
            if not self._over.is_set():
                self._leave_silent(0)

    def _watch_until_over(self) -> None:
        beats = 0
        last_beats = dict.fromkeys(range(self._count), "")
        heard_at = dict.fromkeys(range(self._count), time.monotonic())
        failed_at: dict[int, float] = {}
        while not self._over.wait(self._patience.beat):
            beats += 1
            self._send("beat", str(beats))
            beats_now = self._read("beat")
            ends = self._read("end")
            now = time.monotonic()
            for host in range(self._count):
                beat = beats_now.get(host, "")
                if beat != last_beats[host]:
                    last_beats[host] = beat
                    heard_at[host] = now
                elif now - heard_at[host] > self._patience.silence and host not in ends:
                    self._leave_silent(host)
            for host, text in ends.items():
                outcome = Outcome(*json.loads(text))
                is_over = now - failed_at.setdefault(host, now) > self._patience.grace
                if outcome.exit_code and is_over and self.index not in ends:
                    line = f"{outcome.label}: host {host}: {outcome.message}"
                    self._leave(line, outcome.exit_code)

    def _leave_silent(self, host: int) -> None:
        """End the process because a host sends no heartbeats."""
        problem = f"host {host} does not answer; rerun the same command to continue"
        self._leave(f"{HostError.label}: {problem}", HostError.exit_code)

    def _leave(self, line: str, code: int) -> None:
        if self.index == 0:  # it runs the service from which the others learn the reason
            time.sleep(3 * self._patience.beat)
        leave(line, code)


def leave(line: str, code: int) -> None:
    """Print a line on stderr and end the process at once, from any thread."""
    print(line, file=sys.stderr, flush=True)
    _exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _raise_first(outcomes: list[Outcome]) -> None:
    """Raise a `HostError` with label and exit code of the first host that failed, if any."""
    for host, outcome in enumerate(outcomes):
        if outcome.exit_code:
            error = HostError(f"host {host}: {outcome.message}")
            error.exit_code = outcome.exit_code
            error.label = outcome.label
            raise error
