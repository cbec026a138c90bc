"""Waits: a line that says what a command waits for, and a line that says how long it took."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import jax

from vit_jax.console.progress import say, say_aside

P = ParamSpec("P")
T = TypeVar("T")

# Measures the compilation of a program, given its name.
Booking = Callable[[str], contextlib.AbstractContextManager[Any]]

# Shorter waits are not announced.
PATIENCE = 2.0

# What JAX reports about its persistent compilation cache, by event. A miss is reported when the
# compiled program is written to the cache, which JAX does for programs that took long to compile.
_HIT = "/jax/compilation_cache/cache_hits"
_MISS = "/jax/compilation_cache/cache_misses"


@contextlib.contextmanager
def waiting(
    what: str, *, aside: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Announce what the command waits for, if it takes more than two seconds.

        wait      compiling the training step ...
                  took 36.2 s; the program is now in the compilation cache

    Args:
      what: What happens in the block, such as `compiling the training step`.
      aside: Whether to print on stderr if stdout is not a terminal.
      clock: Returns the time in seconds.
    """
    put = say_aside if aside else say
    announced = threading.Event()

    def announce() -> None:
        announced.set()
        put(f"wait      {what} ...")

    timer = threading.Timer(PATIENCE, announce)
    timer.daemon = True
    began = clock()
    with _cache_events() as events:
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
    if announced.is_set():
        put(f"          took {clock() - began:.1f} s{_describe_cache(events)}")


def compiled_first(
    function: Callable[P, T],
    program: str,
    *,
    aside: bool = False,
    booking: Booking = contextlib.nullcontext,
) -> Callable[P, T]:
    """Return a jitted function that announces its compilation, which precedes its first call.

    Args:
      function: The jitted function.
      program: What is compiled, such as `training step`.
      aside: Whether to print on stderr if stdout is not a terminal.
      booking: Maps the name of the program to a context manager around its compilation alone.
    """
    lower = cast(jax.stages.Wrapped, function).lower
    is_compiled = False

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal is_compiled
        if not is_compiled:
            with booking(program), waiting(f"compiling the {program}", aside=aside):
                lower(*args, **kwargs).compile()  # JAX keeps the program for the call below
            is_compiled = True
        return function(*args, **kwargs)

    return call


def cache_directory() -> str:
    """Return where JAX caches compiled programs; empty if it does not."""
    is_used = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined, unused-ignore]
    directory = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined, unused-ignore]
    return (directory or "") if is_used else ""


@contextlib.contextmanager
def _cache_events() -> Iterator[list[str]]:
    """Collect the events of JAX's persistent compilation cache."""
    events: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event in (_HIT, _MISS):
            events.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _describe_cache(events: list[str]) -> str:
    if _MISS in events:
        return "; the program is now in the compilation cache"
    return "; the program was in the compilation cache" if _HIT in events else ""
