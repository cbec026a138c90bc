"""The names of devices that are not here: valid forms, typos, and the extras of compilers."""

import importlib.util
import re

import pytest
from jaxlib import xla_client

from vit_jax.errors import ConfigError, InputMissingError
from vit_jax.planning import topologies
from vit_jax.planning.topologies import Topology, parse


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("here", Topology("here", "here", ())),
        ("v5e:4x4", Topology("tpu", "v5e", (4, 4))),
        ("v5e:1x1", Topology("tpu", "v5e", (1, 1))),
        ("v6e:2x4", Topology("tpu", "v6e", (2, 4))),
        ("v4:2x2x2", Topology("tpu", "v4", (2, 2, 2))),
        ("h100:8", Topology("cuda", "h100", (1, 8))),
        ("h100:2x8", Topology("cuda", "h100", (2, 8))),
    ],
)
def test_names(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("v5:4x4", r"unknown 'v5:4x4'; expected here, chips of .*; did you mean 'v5(e|p)'\?"),
        ("", "unknown ''"),
        ("h10", "unknown 'h10'.*did you mean 'h100'"),
        ("v5e", "expected v5e:1x1, v5e:2x4 or multiples of v5e:2x2 along each axis, got 'v5e'"),
        ("v5e:3x4", "got 'v5e:3x4'"),
        ("v5e:1x2", "got 'v5e:1x2'"),
        ("v4:2x2", "expected v4:1x1x1 or multiples of v4:2x2x1 along each axis"),
        ("v5e:0x2", "got 'v5e:0x2'"),
        ("v5e:32x32", "expected at most the 256 chips of a pod, got 'v5e:32x32'"),
        ("h100:9", "expected h100:N with N from 1 to 8, or h100:HOSTSxN, got 'h100:9'"),
        ("h100", "expected h100:N"),
        ("h100:1x2x8", "expected h100:N"),
    ],
)
def test_a_typo_is_one_line_with_the_valid_forms(name, problem):
    with pytest.raises(ConfigError, match=f"^--topology: .*{problem}"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "modules", "extra"),
    [
        ("v5e:2x2", {"libtpu"}, "plan-tpu"),
        ("h100:1", {"jax_cuda12_plugin", "jax_cuda13_plugin"}, "plan-gpu"),
    ],
)
def test_a_missing_compiler_names_its_extra(name, modules, extra, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module in modules else find(module)
    )
    topologies.check_compiler(parse("here"))
    problem = rf"--topology: .* {name.split(':')[0]} is not installed; pip install .*\[{extra}\]"
    with pytest.raises(InputMissingError, match=problem):
        topologies.check_compiler(parse(name))


@pytest.fixture(autouse=True)
def no_fraction(monkeypatch):
    """Keeps the user's share of the memory out of the tests."""
    for name in (topologies.FRACTION, topologies.DEPRECATED_FRACTION):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", [topologies.FRACTION, topologies.DEPRECATED_FRACTION])
def test_xla_plans_with_the_memory_that_jax_takes_of_a_gpu(name, monkeypatch):
    taken = {}
    for text in ("", "0.9"):
        monkeypatch.setenv(name, text)
        memory = re.search(
            r"device_memory_size: (\d+)", topologies._target(topologies.GPUS["h100"])
        )
        taken[text] = round(int(memory[1]) * topologies.XLA_FRACTION)
    assert taken == {"": round(0.75 * 84942979072), "0.9": round(0.9 * 84942979072)}


def test_jax_reads_the_share_of_the_memory_from_these_variables(monkeypatch):
    for name in (topologies.FRACTION, topologies.DEPRECATED_FRACTION):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0.9")
            assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.9


@pytest.mark.parametrize("text", ["a lot", "0", "nan", "92"])
def test_a_fraction_that_is_none(monkeypatch, text):
    monkeypatch.setenv(topologies.FRACTION, text)
    with pytest.raises(ConfigError, match=f"{topologies.FRACTION}: .* at most 1, got '{text}'"):
        topologies.memory_fraction()


def test_two_names_of_the_fraction_are_an_error_as_in_jax(monkeypatch):
    for name in (topologies.FRACTION, topologies.DEPRECATED_FRACTION):
        monkeypatch.setenv(name, "0.9")
    with pytest.raises(ValueError, match=topologies.FRACTION):
        xla_client.generate_pjrt_gpu_plugin_options()
    problem = f"^{topologies.DEPRECATED_FRACTION}: .* beside {topologies.FRACTION}; unset it"
    with pytest.raises(ConfigError, match=problem):
        topologies.memory_fraction()
