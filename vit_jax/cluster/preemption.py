"""Requests to stop, by a scheduler's SIGTERM or by Ctrl-C on any host."""

import functools
import signal
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class PreemptionGuard:
    """Turns SIGTERM and the first Ctrl-C into a request to stop; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self._signalled = False  # on this host
        self._agreed = False  # on any host, as of the last poll
        self._pending: jax.Array | None = None  # the result of the last poll
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionGuard":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether to stop. With several hosts it is the result of `poll`, equal on all hosts."""
        return self._signalled if jax.process_count() == 1 else self._agreed

    def poll(self) -> bool:
        """Ask all hosts, and return whether to stop; every host must call this equally often.

        It returns the result of the previous poll, so that no host waits for the others.
        """
        if jax.process_count() > 1:
            previous = self._pending
            self._pending = _on_any_host(self._signalled)
            self._agreed |= previous is not None and bool(previous)
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True


def _on_any_host(flag: bool) -> jax.Array:
    """Return, without waiting, whether the flag is set on any host."""
    mesh, anyone = _any_over_devices()
    with jax.set_mesh(mesh):
        sharding = jax.sharding.NamedSharding(mesh, jax.P("devices"))
        flags = np.full(jax.local_device_count(), flag)
        return anyone(jax.make_array_from_process_local_data(sharding, flags))


@functools.cache
def _any_over_devices() -> tuple[jax.sharding.Mesh, Any]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))
    whole = jax.sharding.NamedSharding(mesh, jax.P())
    return mesh, jax.jit(jnp.any, out_shardings=whole)
