"""Schedules against their formulas; durations in steps, epochs and images."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError
from vit_jax.training import schedules
from vit_jax.training.schedules import Plan


def config(**fields):
    return dataclasses.replace(config_lib.Optim(learning_rate=0.4), **fields)


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("constant", lambda t: 0.4),
        ("cosine", lambda t: 0.1 + 0.3 * (1 + math.cos(math.pi * t / 90)) / 2),
        ("linear", lambda t: 0.4 + (0.1 - 0.4) * t / 90),
        ("rsqrt", lambda t: 0.4 / math.sqrt(1 + t / 50)),
    ],
)
def test_schedule_warms_up_then_decays(name, after):
    cfg = config(schedule=name, end_learning_rate=0.1, timescale=50)
    schedule = schedules.make_schedule(cfg, Plan(100, 10))
    for step in (0, 3, 9):
        np.testing.assert_allclose(schedule(jnp.int32(step)), 0.4 * step / 10, rtol=1e-5, atol=1e-6)
    for step in (10, 40, 99):
        np.testing.assert_allclose(schedule(jnp.int32(step)), after(step - 10), rtol=1e-5)


def test_every_schedule_is_tested():
    assert set(schedules.SCHEDULES) == {"constant", "cosine", "linear", "rsqrt"}


def test_no_warmup_starts_at_the_peak():
    schedule = schedules.make_schedule(config(schedule="constant"), Plan(10))
    assert float(schedule(jnp.int32(0))) == pytest.approx(0.4)


def test_the_warmup_starts_at_the_configured_rate():
    schedule = schedules.make_schedule(config(warmup_learning_rate=0.2), Plan(100, 10))
    found = [float(schedule(jnp.int32(step))) for step in (0, 5, 10)]
    np.testing.assert_allclose(found, [0.2, 0.3, 0.4], rtol=1e-6)


def test_the_cooldown_ends_at_zero():
    schedule = schedules.make_schedule(config(schedule="constant"), Plan(100, 10, cooldown=20))
    found = [float(schedule(jnp.int32(step))) for step in (10, 80, 90, 95, 100)]
    np.testing.assert_allclose(found, [0.4, 0.4, 0.2, 0.1, 0.0], rtol=1e-6, atol=1e-9)


def run(optim=None, **fields):
    section = dataclasses.replace(config_lib.Optim(), **(optim or {}))
    return dataclasses.replace(config_lib.Config(), batch_size=50, optim=section, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"total_steps": 70}, Plan(70)),
        ({"total_epochs": 3.5}, Plan(70)),
        ({"total_images": 3500}, Plan(70)),
        ({"total_steps": 70, "optim": {"warmup_epochs": 0.5}}, Plan(70, 10)),
        ({"total_steps": 70, "optim": {"warmup_images": 501}}, Plan(70, 10)),
        (
            {"total_steps": 70, "optim": {"warmup_steps": 9, "cooldown_epochs": 1.0}},
            Plan(70, 9, 20),
        ),
    ],
)
def test_durations_come_in_three_units(fields, expected):
    assert schedules.plan(run(**fields), 1000) == expected


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {},
            "config.total_steps: the run has no duration; set one of total_steps, total_epo",
        ),
        (
            {"total_steps": 5, "total_images": 9},
            "config.total_steps: expected one unit, got total_steps and total_images",
        ),
        (
            {"total_steps": 9, "optim": {"warmup_steps": 9}},
            "config.optim.warmup_steps: expected fewer than the run's 9 steps, got 9; train",
        ),
        (
            {"total_steps": 9, "optim": {"warmup_steps": 4, "cooldown_steps": 5}},
            "config.optim.cooldown_steps: expected fewer than the run's 9 steps, got 9, including",
        ),
    ],
)
def test_invalid_durations_are_errors(fields, problem):
    with pytest.raises(ConfigError) as error:
        schedules.plan(run(**fields), 1000)
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize("epochs", [0.29, 1.1, 2.01, 2.55, 8.7, 299.99])
def test_rounding_of_epochs_loses_no_step(epochs):
    cfg = config_lib.Config(batch_size=8, total_epochs=epochs)
    assert schedules.plan(cfg, 8000).total == round(epochs * 1000)
