"""The table of accelerators: found by kind, and consistent in its units."""

import jax
import pytest

from vit_jax.cluster.device_specs import SPECS, find_spec


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("NVIDIA A100-SXM4-80GB", "a100_80"),
    ],
)
def test_a_device_is_found_by_its_kind(kind, name):
    assert find_spec(kind) is SPECS[name]


def test_half_a_chip_of_tpu_v4_is_a_device_of_its_own():
    whole, half = find_spec("TPU v4", 2), find_spec("TPU v4", 1)
    assert half.flops["bfloat16"] == whole.flops["bfloat16"] / 2
    assert half.memory == whole.memory / 2


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v5 li"])
def test_other_devices_have_no_figures(kind):
    assert find_spec(kind) is None


def test_the_devices_of_the_tests_have_no_figures():
    assert find_spec(jax.devices()[0].device_kind) is None


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_the_units_of_a_row_are_consistent(spec):
    assert spec.flops.keys() == {"bfloat16", "float32"}
    assert 1e12 < spec.flops["float32"] <= spec.flops["bfloat16"] < 1e16
    assert 0.9 * spec.memory < spec.usable < 1.08 * spec.memory  # a vendor's GB may be GiB
    # Operations per byte at which a device is as busy with them as with its memory.
    assert 15 < spec.flops["bfloat16"] / spec.bandwidth < 600


def test_a_kind_belongs_to_one_device():
    kinds = [(kind, spec.num_cores) for spec in SPECS.values() for kind in spec.kinds]
    assert len(set(kinds)) == len(kinds)
