"""Policies: the operations that they sample, their strengths, and their names."""

import collections
import dataclasses

import numpy as np
import pytest
from test_operations import IMAGE

from vit_jax.data import policies
from vit_jax.data.operations import OPERATIONS
from vit_jax.data.policies import (
    AutoAugment,
    ColorJitter,
    RandAugment,
    ThreeAugment,
    TimmRandAugment,
    TrivialAugment,
    parse_policy,
)
from vit_jax.data.policy_ops import (
    AUTOAUGMENT_OPS,
    ENHANCEMENTS,
    RANDAUGMENT_OPS,
    SUBPOLICIES,
    TIMM_INCREASING_OPS,
    TIMM_OPS,
    TRIVIALAUGMENT_OPS,
)
from vit_jax.errors import ConfigError

ALL = [
    RandAugment(2, 15.0),
    TimmRandAugment(9.0, 0.5, True),
    AutoAugment(),
    TrivialAugment(),
    ThreeAugment(),
    ColorJitter(0.3),
]


@pytest.fixture
def applied(monkeypatch):
    """Returns the list of (operation, strength) that policies apply from now on."""
    calls = []

    def note(name, operation):
        def apply(bands, strength, options):
            calls.append((name, strength))
            return operation(bands, strength, options)

        return apply

    for name, operation in list(OPERATIONS.items()):
        monkeypatch.setitem(OPERATIONS, name, note(name, operation))
    return calls


def draw(policy, times):
    for seed in range(times):
        policy(IMAGE, np.random.default_rng(seed))


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_policies_keep_the_shape_and_depend_only_on_the_generator(policy, channels):
    image = np.concatenate([IMAGE, IMAGE], axis=-1)[..., :channels]
    for seed in range(10):
        first, second = (policy(image, np.random.default_rng(seed)) for _ in range(2))
        assert (first.shape, first.dtype) == (image.shape, np.uint8)
        np.testing.assert_array_equal(first, second)
    assert dataclasses.is_dataclass(policy) and hash(policy)


def test_randaugment_always_applies_all_of_its_layers(applied):
    draw(RandAugment(2, 10.0), 400)
    counts = collections.Counter(name for name, _ in applied)
    assert set(counts) == {op.operation for op in RANDAUGMENT_OPS.values()}
    # 800 draws of 16, of which cutout is no operation of the table.
    assert 700 < len(applied) < 780
    assert min(counts.values()) > 25
    strengths = dict(applied)
    assert abs(strengths["rotate"]) == 30 and strengths["posterize"] == 4
    assert strengths["color"] == pytest.approx(1.9)
    assert abs(strengths["translate_x"]) == 100


def test_timm_randaugment_applies_half_of_the_layers_at_random_magnitudes(applied):
    draw(TimmRandAugment(9.0, 0.5, increasing=True), 400)
    counts = collections.Counter(name for name, _ in applied)
    assert set(counts) == {op.operation for op in TIMM_INCREASING_OPS.values()}
    assert 340 < len(applied) < 460
    degrees = [abs(strength) for name, strength in applied if name == "rotate"]
    assert len(set(degrees)) == len(degrees) > 10
    assert max(degrees) <= 30 and np.mean(degrees) == pytest.approx(27, abs=1)
    signs = [strength > 1 for name, strength in applied if name == "color"]
    assert any(signs) and not all(signs)


@pytest.mark.parametrize(("ops", "increasing"), [(TIMM_OPS, False), (TIMM_INCREASING_OPS, True)])
def test_with_increasing_magnitude_zero_is_the_identity(ops, increasing):
    still = {name for name in ops if name not in ("AutoContrast", "Equalize", "Invert")}
    policy = TimmRandAugment(0.0, increasing=increasing, probability=1.0, num_layers=1)
    same = collections.defaultdict(list)
    for seed in range(300):
        name = policies._sample_name(tuple(ops), np.random.default_rng(seed))
        same[name].append(np.array_equal(policy(IMAGE, np.random.default_rng(seed)), IMAGE))
    for name in still:
        weak = increasing or name not in ("Posterize", "Solarize", *ENHANCEMENTS)
        # With 4 bits kept at magnitude 0, Posterize is never the identity.
        assert all(same[name]) == (weak and name != "Posterize"), name


def test_an_infinite_std_samples_the_magnitude_uniformly(applied):
    draw(TimmRandAugment(8.0, float("inf"), num_layers=1, probability=1.0), 400)
    degrees = [abs(strength) for name, strength in applied if name == "rotate"]
    assert min(degrees) < 6 and 18 < max(degrees) <= 24


def test_autoaugment_samples_pairs(applied):
    draw(AutoAugment(), 300)
    operations = {AUTOAUGMENT_OPS[name].operation for pair in SUBPOLICIES for name, *_ in pair}
    assert {name for name, _ in applied} == operations
    assert {s for name, s in applied if name == "posterize"} <= {6.0, 7.0}
    assert len(SUBPOLICIES) == 25


def test_trivialaugment_samples_one_operation_at_any_strength(applied):
    draw(TrivialAugment(), 400)
    assert len(applied) == 400
    assert {name for name, _ in applied} == {op.operation for op in TRIVIALAUGMENT_OPS.values()}
    assert len(TRIVIALAUGMENT_OPS) == 14
    bounds = {"rotate": 135, "translate_x": 32, "shear_y": 0.99}
    for name, most in bounds.items():
        found = [abs(strength) for sampled_name, strength in applied if sampled_name == name]
        assert 0.7 * most < max(found) <= most
    assert {s for name, s in applied if name == "posterize"} <= set(range(2, 9))


def test_three_augment_samples_one_of_three_operations(applied):
    draw(ThreeAugment(), 300)
    counts = collections.Counter(name for name, _ in applied)
    assert set(counts) == {"desaturate", "solarize", "blur"} and min(counts.values()) > 75
    assert {s for name, s in applied if name == "solarize"} == {128.0}
    radii = [s for name, s in applied if name == "blur"]
    assert 0.1 <= min(radii) < 0.3 and 1.8 < max(radii) <= 2.0


def test_color_jitter_applies_three_factors_in_random_order(applied):
    draw(ColorJitter(0.3), 100)
    assert len({tuple(name for name, _ in applied[i : i + 3]) for i in range(0, 300, 3)}) == 6
    factors = [strength for _, strength in applied]
    assert 0.7 <= min(factors) < 0.72 and 1.28 < max(factors) <= 1.3
    np.testing.assert_array_equal(ColorJitter(0.0)(IMAGE, np.random.default_rng(0)), IMAGE)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("randaug(2,15)", RandAugment(2, 15.0)),
        ("rand-m9-mstd0.5-inc1", TimmRandAugment(9.0, 0.5, True, fill=(1, 2, 3))),
        (
            "rand-m7-n4-p0.3-mmax15-mstdinf",
            TimmRandAugment(7.0, float("inf"), False, 4, 0.3, 15.0, (1, 2, 3)),
        ),
        ("rand-m9-mstd101", TimmRandAugment(9.0, float("inf"), fill=(1, 2, 3))),  # as in timm
        ("rand-m9-mstd100", TimmRandAugment(9.0, 100.0, fill=(1, 2, 3))),
        ("autoaugment", AutoAugment((1, 2, 3))),
        ("trivialaugment", TrivialAugment((1, 2, 3))),
        ("3-augment", ThreeAugment((1, 2, 3))),
    ],
)
def test_names_of_papers_and_libraries_are_parsed(text, policy):
    assert parse_policy(text, (1, 2, 3)) == policy


@pytest.mark.parametrize(
    "text", ["randaug", "randaug(2)", "rand-q9", "rand-m9-inc0.5", "rand-n2.5", "x-m9", "auto"]
)
def test_unknown_names_are_rejected(text):
    with pytest.raises(ConfigError, match=r"^config\.data\.augment: unknown '.*'; ") as error:
        parse_policy(text)
    assert "\n" not in str(error.value)
