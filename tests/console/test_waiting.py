"""A wait is announced, and says how long it took and whether the compilation cache had it."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from vit_jax.console import waiting as waiting_lib
from vit_jax.console.waiting import cache_directory, compiled_first, waiting

HIT = "/jax/compilation_cache/cache_hits"
MISS = "/jax/compilation_cache/cache_misses"


class Clock:
    """Every call is 1.5 seconds after the one before."""

    now = 0.0

    def __call__(self):
        self.now += 1.5
        return self.now


@pytest.fixture
def patience(monkeypatch):
    """Returns a function that lets the patience end at once, or never."""

    def set_patience(is_over):
        class Timer:
            def __init__(self, seconds, function):
                assert seconds == waiting_lib.PATIENCE
                self.start = function if is_over else lambda: None

            def cancel(self):
                pass

            join = cancel

        monkeypatch.setattr(waiting_lib.threading, "Timer", Timer)

    return set_patience


def test_a_short_wait_is_silent(patience, capsys):
    patience(is_over=False)
    with waiting("reading the images"):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("events", "cache"),
    [
        ([], ""),
        ([HIT], "; the program was in the compilation cache"),
        ([HIT, MISS], "; the program is now in the compilation cache"),
        (["/jax/another"], ""),
    ],
)
def test_a_long_wait_is_announced_and_timed(patience, capsys, events, cache):
    patience(is_over=True)
    with waiting("compiling the training step", clock=Clock()):
        assert capsys.readouterr().out == "wait      compiling the training step ...\n"
        for event in events:
            jax.monitoring.record_event(event)
    assert capsys.readouterr().out == f"          took 1.5 s{cache}\n"


def test_what_fails_is_not_timed(patience, capsys):
    patience(is_over=True)
    with pytest.raises(OSError, match="gone"), waiting("reading the images"):
        raise OSError("gone")
    assert capsys.readouterr().out == "wait      reading the images ...\n"


def test_a_wait_can_keep_out_of_the_output(patience, capsys):
    patience(is_over=True)
    with waiting("restoring the checkpoint", aside=True, clock=Clock()):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "wait      restoring the checkpoint ...\n          took 1.5 s\n"


def test_a_program_is_compiled_once_before_its_first_call(patience, capsys):
    patience(is_over=True)
    log = []

    @contextlib.contextmanager
    def booking(program):
        log.append(f"{program} begins")
        yield
        log.append(f"{program} ends")

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            log.append("compiled")

    double = compiled_first(jax.jit(lambda x: 2 * x), "doubling", booking=booking)
    numbers = [jnp.int32(i) for i in range(3)]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        results = [double(number) for number in numbers]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert [int(result) for result in results] == [0, 2, 4]
    assert log == ["doubling begins", "compiled", "doubling ends"]
    assert capsys.readouterr().out.count("wait      compiling the doubling ...\n") == 1


def test_the_cache_is_named_only_if_it_is_used():
    assert cache_directory() == jax.config.jax_compilation_cache_dir
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert cache_directory() == ""
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
