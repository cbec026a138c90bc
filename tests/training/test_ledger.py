"""Every second of a run is on one part, also over restarts; a fake clock makes it exact."""

import pytest

from vit_jax.training.ledger import PARTS, Account, History, Ledger


class Clock:
    """Time that passes only when a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend(ledger, clock, part, seconds):
    with ledger.book(part):
        clock.now += seconds


def spent(history):
    """Returns the parts that took time, and checks that they are all of it."""
    assert history.account.total == sum(history.account.seconds.values())
    return {part: seconds for part, seconds in history.account.seconds.items() if seconds}


def test_time_is_on_start_until_it_is_booked_elsewhere(clock):
    clock.now = 100.0
    ledger = Ledger(age=2.0, clock=clock)
    clock.now += 3.0
    with ledger.book("steps"):
        clock.now += 10.0
        with ledger.compiling("training step"):
            clock.now += 20.0
        clock.now += 1.0
        with ledger.book("evaluation"):
            clock.now += 4.0
            with ledger.compiling("evaluation step"):
                clock.now += 6.0
            clock.now += 5.0
        assert spent(ledger.history()) == {
            "start": 5, "steps": 11, "compile": 26, "evaluation": 9
        }  # fmt: skip
        clock.now += 1.0
    assert ledger.history().account.seconds["steps"] == 12
    assert ledger.history().account.total == clock.now - 98
    assert ledger.compile_seconds == {"training step": 20, "evaluation step": 6}


def test_a_block_that_fails_is_booked_too(clock):
    ledger = Ledger(clock=clock)
    with pytest.raises(OSError), ledger.book("saving"):
        clock.now += 7.0
        raise OSError
    clock.now += 1.0
    assert spent(ledger.history()) == {"start": 1, "saving": 7}


def test_time_can_be_moved_to_the_part_that_it_turns_out_to_be(clock):
    ledger = Ledger(clock=clock)
    with ledger.book("steps"):
        clock.now += 10.0
        ledger.move("steps", "data", 4.0)
        clock.now += 1.0
    assert spent(ledger.history()) == {"steps": 7, "data": 4}
    assert ledger.history().account.total == 11


def test_goodput_and_speed_leave_out_what_is_no_step():
    seconds = {"start": 10.0, "compile": 20.0, "steps": 60.0, "data": 5.0, "evaluation": 5.0}
    account = Account(seconds, images=1300)
    assert account.total == 100
    assert account.goodput == 0.6
    assert account.train_seconds == 65
    assert account.images_per_second == 20
    assert (Account().goodput, Account().images_per_second) == (0, 0)


def first_attempt(clock):
    """Returns the ledger of an attempt that saved steps 10 and 20, and was killed at 25."""
    ledger = Ledger(clock=clock)
    clock.now += 4.0
    spend(ledger, clock, "compile", 6.0)
    for step in (10, 20):
        spend(ledger, clock, "steps", 100.0)
        spend(ledger, clock, "data", 10.0)
        ledger.count(80)
        spend(ledger, clock, "evaluation", 20.0)
        spend(ledger, clock, "saving", 1.0)
        ledger.checkpoint(step)
    spend(ledger, clock, "steps", 50.0)
    ledger.count(40)
    return ledger


@pytest.mark.parametrize(
    ("step", "kept", "images"),
    [
        (20, {"steps": 200, "data": 20, "evaluation": 40, "saving": 2}, 160),
        (15, {"steps": 100, "data": 10, "evaluation": 20, "saving": 1}, 80),  # of step 10
        (10, {"steps": 100, "data": 10, "evaluation": 20, "saving": 1}, 80),
        (0, {}, 0),
    ],
)
def test_what_a_killed_attempt_did_after_the_checkpoint_is_lost(clock, step, kept, images):
    before = first_attempt(clock).history()
    assert before.account.total == 322
    ledger = Ledger(age=3.0, clock=clock)
    ledger.resume(before, step, between=1000.0)
    clock.now += 1.0
    history = ledger.history()
    lost = 322 - sum(kept.values())
    assert spent(history) == {"start": 4, "lost": lost} | kept
    assert history.account.total == 322 + 4
    assert history.account.images == images
    assert (history.attempts, history.between) == (2, 1000)
    assert all(key <= step for key in history.checkpoints)


def test_only_the_last_of_many_attempts_has_a_start_and_a_compilation(clock):
    history = first_attempt(clock).history()
    for _ in range(3):  # each is killed while it compiles
        ledger = Ledger(clock=clock)
        clock.now += 4.0
        ledger.resume(history, 20, between=10.0)
        spend(ledger, clock, "compile", 5.0)
        history = ledger.history()
        kept = {"steps": 200, "data": 20, "evaluation": 40, "saving": 2}
        assert spent(history) == {"start": 4, "compile": 5} | kept | {
            "lost": history.account.total - 271
        }
    assert history.account.total == 322 + 27
    assert (history.attempts, history.between) == (4, 30)
    spend(ledger, clock, "steps", 100.0)
    ledger.checkpoint(30)
    last = Ledger(clock=clock)
    last.resume(ledger.history(), 30, between=0.0)
    assert spent(last.history())["steps"] == 300


def test_an_attempt_without_a_history_is_the_first(clock):
    ledger = Ledger(clock=clock)
    ledger.resume(History(), 7, between=50.0)
    clock.now += 2.0
    assert spent(ledger.history()) == {"start": 2}
    assert (ledger.history().attempts, ledger.history().between) == (1, 0)


def test_the_newest_checkpoints_are_remembered(clock):
    ledger = Ledger(clock=clock)
    for step in range(1, 101):
        spend(ledger, clock, "steps", 1.0)
        ledger.checkpoint(step)
    checkpoints = ledger.history().checkpoints
    assert len(checkpoints) == 32
    assert {step: value.seconds["steps"] for step, value in checkpoints.items()} == {
        step: step for step in range(69, 101)
    }


def test_every_part_has_a_name():
    assert set(Ledger().history().account.seconds) == set(PARTS)
