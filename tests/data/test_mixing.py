"""Random erasing, mixup and cutmix: positions, areas, probabilities and label weights."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.cluster import sharding
from vit_jax.data.mixing import Mix, RandomErasing, batch_transform
from vit_jax.errors import ConfigError
from vit_jax.evaluation import losses

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(3, 0.1, size=(64, 32, 48, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 64)


def test_boxes_have_the_configured_areas_and_aspect_ratios():
    erasing = RandomErasing(1.0)
    keys = jax.random.split(jax.random.key(1), 500)
    top, left, tall, wide = np.asarray(
        jax.vmap(lambda key: erasing.sample_box(key, 224, 160))(keys)
    ).T
    assert (tall > 0).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= 224).all() and (left + wide <= 160).all()
    share = tall * wide / (224 * 160)
    ratio = tall / wide
    assert 0.018 < share.min() < 0.03 and 0.28 < share.max() < 0.345
    assert 0.27 < ratio.min() < 0.4 and 2.5 < ratio.max() < 3.7
    assert top.max() > 150 and left.max() > 100


@pytest.mark.parametrize("fill", ["pixel", "channel", "zero"])
def test_a_rectangle_is_replaced_by_noise(fill):
    erasing = RandomErasing(0.5, fill=fill)
    found = np.asarray(jax.jit(erasing)(IMAGES, KEYS))
    changed = (found != np.asarray(IMAGES)).any(axis=-1)
    erased = changed.any(axis=(1, 2))
    assert 20 < erased.sum() < 44
    for image, mask in zip(found[erased], changed[erased], strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.zeros_like(mask)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(mask, box)
        inside = image[mask]
        spread = np.ptp(inside, axis=0)
        assert {"pixel": (spread > 1).all(), "channel": not spread.any(), "zero": not inside.any()}[
            fill
        ]
        assert abs(inside).max() < 6


def test_an_image_too_small_for_any_box_is_unchanged():
    box = RandomErasing(1.0, area=(1.0, 1.0), ratio=(1.0, 1.0)).sample_box(jax.random.key(0), 8, 8)
    np.testing.assert_array_equal(box[2:], 0)


def test_erasing_a_row_does_not_depend_on_other_rows():
    erasing = RandomErasing(1.0)
    whole, part = erasing(IMAGES, KEYS), erasing(IMAGES[8:16], KEYS[8:16])
    np.testing.assert_array_equal(whole[8:16], part)


TARGETS = losses.targets(jnp.arange(64) % 10, 10, 0.1)


def reverse_mixed(mix, images, targets, key):
    """Mixes each row with that of the reversed batch."""
    return mix((images, targets), (images[::-1], targets[::-1]), key)


@pytest.mark.parametrize("seed", range(8))
def test_mixup_uses_the_same_weights_for_images_and_labels(seed):
    images, targets = reverse_mixed(Mix(0.8, 0.0), IMAGES, TARGETS, jax.random.key(seed))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    weight = (targets[0, 0] - TARGETS[63, 0]) / (TARGETS[0, 0] - TARGETS[63, 0])
    assert 0 <= weight <= 1
    expected = weight * IMAGES + (1 - weight) * IMAGES[::-1]
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_weights_labels_by_the_pasted_area(seed):
    images, targets = reverse_mixed(Mix(0.0, 1.0), IMAGES, TARGETS, jax.random.key(seed))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    pasted = np.asarray(images == IMAGES[::-1])
    assert (pasted | np.asarray(images == IMAGES)).all()
    weight = (targets[0, 0] - TARGETS[63, 0]) / (TARGETS[0, 0] - TARGETS[63, 0])
    np.testing.assert_allclose(1 - pasted[0].mean(), weight, atol=1e-5)
    np.testing.assert_array_equal(pasted[0].any(axis=-1), pasted[5].any(axis=-1))


def test_the_pasted_fraction_is_sampled_from_the_beta_distribution():
    mix = Mix(0.0, 1.0)
    boxes = [mix.sample_box(jax.random.key(i), 0.75, 200, 200) for i in range(50)]
    sides = np.asarray(boxes)[:, 2:]
    assert sides.max() == 100  # the root of a quarter, where nothing is cut off
    assert sides.min() >= 50


def kinds_of(mix, num=200):
    """Returns how often images are left, added and cut."""

    def kind(key):
        images, _ = reverse_mixed(mix, IMAGES[:2, :16, :16], TARGETS[:2], key)
        same = (images == IMAGES[:2, :16, :16]).mean()
        either = ((images == IMAGES[:2, :16, :16]) | (images == IMAGES[1::-1, :16, :16])).all()
        return jnp.where(same == 1, 0, jnp.where(either, 2, 1))

    kinds = jax.vmap(kind)(jax.random.split(jax.random.key(2), num))
    return np.bincount(np.asarray(kinds), minlength=3) / num


def test_probability_and_switch_select_the_method():
    left, added, cut = kinds_of(Mix(0.8, 1.0, probability=0.6, switch=0.25))
    assert left == pytest.approx(0.4, abs=0.12)
    assert added == pytest.approx(0.45, abs=0.12)
    assert cut == pytest.approx(0.15, abs=0.08)


ONE_HOT = functools.partial(losses.targets, num_classes=10, smoothing=0.1)


def test_a_batch_transform_normalizes_erases_and_mixes_in_that_order():
    data = dataclasses.replace(config_lib.Data(), erasing=1.0, erasing_fill="zero")
    targets = functools.partial(losses.targets, num_classes=4)
    transform = batch_transform(data, config_lib.Mix(mixup=1.0), targets)
    pixels = jnp.asarray(RNG.integers(0, 256, (4, 16, 16, 3)), jnp.uint8)
    images, mixed = transform(pixels, jnp.arange(4), jax.random.key(3))
    unmixed = dataclasses.replace(transform, mix=None)
    erased, _ = unmixed(pixels, jnp.arange(4), jax.random.key(3))
    assert (erased == 0).any()
    weight = mixed[0, 0]
    np.testing.assert_allclose(images, weight * erased + (1 - weight) * erased[::-1], atol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("mix", [config_lib.Mix(mixup=0.8), config_lib.Mix(cutmix=1.0)])
def test_devices_exchange_pixels_and_labels_only(mix, devices):
    """The result is that of mixing the erased images and the targets themselves."""
    data = dataclasses.replace(config_lib.Data(), erasing=0.5)
    transform = batch_transform(data, mix, ONE_HOT)
    pixels = jnp.asarray(RNG.integers(0, 256, (16, 8, 8, 3)), jnp.uint8)
    labels, key = jnp.arange(16) % 10, jax.random.key(1)
    erased, targets = dataclasses.replace(transform, mix=None)(pixels, labels, key)
    assert (targets == ONE_HOT(labels)).all()
    expected = reverse_mixed(transform.mix, erased, targets, jax.random.split(key)[1])
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    rows = sharding.batch_sharding(mesh)
    compiled = (
        jax.jit(transform, in_shardings=(rows, rows, None), out_shardings=rows)
        .lower(pixels, labels, key)
        .compile()
    )
    batch = jax.device_put((pixels, labels), rows)
    chex.assert_trees_all_close(compiled(*batch, key), expected, rtol=1e-6, atol=1e-6)
    collective = r"= \(?(\w+)\[.*(?:all-|permute|reduce-scatter)[\w-]*\("
    exchanged = set(re.findall(collective, compiled.as_text()))
    assert exchanged == ({"u8", "s32"} if devices > 1 else set())


def test_disabled_transforms_change_nothing():
    transform = batch_transform(config_lib.Data(), config_lib.Mix(), ONE_HOT)
    assert (transform.erasing, transform.mix) == (None, None)
    pixels = jnp.asarray(RNG.integers(0, 256, (4, 8, 8, 3)), jnp.uint8)
    images, targets = transform(pixels, jnp.arange(4), jax.random.key(0))
    np.testing.assert_allclose(images, np.asarray(pixels) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(targets, TARGETS[:4])
    with pytest.raises(ConfigError, match=r"config\.data\.erasing_fill: unknown 'pixels'"):
        fill = config_lib.Data(erasing_fill="pixels")
        batch_transform(fill, config_lib.Mix(), ONE_HOT)
