"""`--profile` writes a trace of some steps of a run, in which each step has its number."""

import os
import signal
import warnings

import jax
import pytest
from conftest import resolved
from etils import epath

from vit_jax import train as train_lib
from vit_jax.data import loader
from vit_jax.errors import ConfigError, Interrupted
from vit_jax.training.profiler import NO_STEPS, Profiler, Window, parse_window


@pytest.mark.parametrize(
    ("text", "window"), [("", NO_STEPS), ("10:15", Window(10, 15)), ("7:7", Window(7, 7))]
)
def test_a_flag_names_the_first_and_the_last_step(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text", ["10", "10:", ":15", "15:10", "0:3", "-1:3", "1:2:3", "a:b", " 1:2", "1:2\n", "²:3"]
)
def test_another_flag_is_an_error(text):
    message = r"^--profile: expected FIRST:LAST, steps such as 10:15, got '"
    with pytest.raises(ConfigError, match=message) as error:
        parse_window(text)
    assert error.value.exit_code == 64


@pytest.mark.parametrize(
    ("start", "turns"), [(0, [9, 15]), (9, [9, 15]), (12, [12, 15]), (15, []), (40, [])]
)
def test_the_trace_begins_and_ends_around_its_steps(tmp_path, capsys, start, turns):
    profiler = Profiler(Window(10, 15), epath.Path(tmp_path), start, 50)
    assert [step for step in range(start, 51) if profiler.turns(step)] == turns
    note = f"note      --profile=10:15 traces nothing: this run makes steps {start + 1} to 50\n"
    assert capsys.readouterr().out == ("" if turns else note)


def test_a_run_that_ends_before_its_trace_says_so(tmp_path, capsys):
    profiler = Profiler(Window(10, 15), epath.Path(tmp_path), 0, 8)
    assert not any(profiler.turns(step) for step in range(9))
    assert "traces nothing: this run makes steps 1 to 8" in capsys.readouterr().out


def test_without_the_flag_nothing_is_traced(tmp_path, capsys):
    profiler = Profiler(NO_STEPS, epath.Path(tmp_path), 0, 8)
    assert not any(profiler.turns(step) for step in range(9))
    profiler.close()
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def traced(workdir):
    """Returns the numbers of the steps in the only trace of a run."""
    # jaxlib on Python 3.13 warns about its own types, and aborts if that is an error.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return read_steps(workdir)


def read_steps(workdir):
    return sorted(dict(e.stats)["step_num"] for e in read_events(workdir) if e.name == "train")


def read_events(workdir):
    (path,) = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    return [event for plane in data.planes for line in plane.lines for event in line.events]


def test_a_run_traces_its_steps(tiny_config, tmp_path, capsys):
    config = tiny_config({"total_steps": "8"})
    train_lib.train(resolved(config), epath.Path(tmp_path), window=Window(3, 5))
    assert traced(tmp_path) == [3, 4, 5]
    where = f"look at it with xprof --logdir={tmp_path}/profile"
    assert f"profile   steps 3 to 5: {where}\n" in capsys.readouterr().out


def interrupt_at(step, monkeypatch):
    """Sends SIGTERM to this process while the batch of a step is read."""
    real = loader.train_batches

    def interrupting(*args, **kwargs):
        for number, batch in enumerate(real(*args, **kwargs), 1):
            if number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(loader, "train_batches", interrupting)


def test_an_interrupted_run_keeps_its_trace(tiny_config, tmp_path, monkeypatch, capsys):
    interrupt_at(4, monkeypatch)
    with pytest.raises(Interrupted, match="at step 4, saved"):
        train_lib.train(
            resolved(tiny_config({"total_steps": "8"})), epath.Path(tmp_path), window=Window(3, 7)
        )
    assert traced(tmp_path) == [3, 4]
    assert "profile   steps 3 to 4: " in capsys.readouterr().out


def test_an_evaluation_and_a_save_before_the_first_step_are_not_traced(tiny_config, tmp_path):
    every = {"eval.every_steps": "2", "checkpoint.every_steps": "2"}
    config = tiny_config({"total_steps": "5", "data.val_split": "test", **every})
    train_lib.train(resolved(config), epath.Path(tmp_path), window=Window(3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        names = {event.name for event in read_events(tmp_path)}
    assert any("train_step" in name for name in names)
    assert not [name for name in names if "eval_step" in name or "evaluate_watched" in name]


def test_a_run_that_is_interrupted_before_the_first_step_traces_nothing(
    tiny_config, tmp_path, monkeypatch, capsys
):
    interrupt_at(2, monkeypatch)
    with pytest.raises(Interrupted, match="at step 2, saved"):
        train_lib.train(
            resolved(tiny_config({"total_steps": "8"})), epath.Path(tmp_path), window=Window(3, 7)
        )
    assert not (tmp_path / "profile").exists()
    assert "profile   " not in capsys.readouterr().out


def test_a_trace_that_cannot_be_written_does_not_end_the_run(tiny_config, tmp_path, capsys):
    (tmp_path / "profile").write_text("not a directory")
    config = tiny_config({"total_steps": "4"})
    results = train_lib.train(resolved(config), epath.Path(tmp_path), window=Window(2, 3))
    assert results["step"] == 4
    problem = "cannot be written (Not a directory); the run goes on without it"
    assert f"warning: {tmp_path}/profile {problem}\n" in capsys.readouterr().err
