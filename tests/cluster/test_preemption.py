"""A signal becomes a request to stop, on all hosts; a second Ctrl-C ends at once."""

import os
import signal

import jax
import pytest

from vit_jax.cluster.preemption import PreemptionGuard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request(number):
    before = signal.getsignal(number)
    with PreemptionGuard() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.poll()
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not():
    with PreemptionGuard() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_with_several_hosts_a_request_counts_at_the_next_poll(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with PreemptionGuard() as stop:
        assert not stop.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.requested  # the others do not know
        assert [stop.poll(), stop.poll()] == [False, True]
        assert stop.requested
