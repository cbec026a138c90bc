"""Every readable image has one row, with the same bytes on any number of devices."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.data.sources.in_memory import InMemory
from vit_jax.errors import ConfigError, DataError
from vit_jax.evaluation import rows
from vit_jax.evaluation.rows import PerImage

DATA = config_lib.Data(
    image_size=(16, 16), channels=1, mean=(0.5,), std=(0.25,), threads=1, max_unreadable=1.0
)
PIXELS = np.random.default_rng(0).integers(256, size=(37, 16, 16), dtype=np.uint8)
BAD = (0, 9, 36)
GOOD = [i for i in range(37) if i not in BAD]
MODEL = models.create("vit_mu4", width=24, num_heads=3, mlp_dim=40, num_classes=0)
VARIABLES = nn.unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False))


def images():
    return [b"no image" if i in BAD else pixels for i, pixels in enumerate(PIXELS)]


def features(variables, images):
    output = models.forward(MODEL, variables, images)
    return {"features": output.features, "tokens": output.tokens.astype(jnp.bfloat16)}


def rows_on(count, **kwargs):
    mesh = sharding.make_mesh(devices=jax.devices()[:count])
    source = InMemory(images(), ("only",))
    return PerImage(features, DATA, mesh, **kwargs)(VARIABLES, source)


@pytest.fixture(scope="module")
def alone():
    return rows_on(1, rows_per_device=4)


def test_the_rows_are_those_of_a_plain_loop(alone):
    normalized = (jnp.asarray(PIXELS[GOOD, ..., None], jnp.float32) / 255 - 0.5) / 0.25
    expected = features(VARIABLES, normalized)
    assert alone.indices.tolist() == GOOD and alone.labels.tolist() == [0] * len(GOOD)
    assert {value.dtype for value in alone.values.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(alone.values["features"], expected["features"], atol=1e-5)
    np.testing.assert_allclose(alone.values["tokens"], expected["tokens"], atol=0.05)


@pytest.mark.parametrize("count", (2, 8))
def test_the_bytes_are_the_same_on_several_devices(alone, count):
    chex.assert_trees_all_equal(rows_on(count, rows_per_device=4)._asdict(), alone._asdict())


def test_each_unreadable_image_is_named_once_with_its_reason(capfd):
    skipped = rows_on(2, rows_per_device=4).skipped
    assert list(skipped) == list(BAD)
    assert all("image" in reason for reason in skipped.values())
    assert [line.count("cannot be read") for line in capfd.readouterr().err.splitlines()] == [1] * 3


def test_a_source_without_a_readable_image_is_an_error():
    per_image = PerImage(features, DATA, sharding.make_mesh())
    for nothing in ([], [b"no image"]):
        with pytest.raises(DataError, match="expected an image that can be read"):
            per_image(VARIABLES, InMemory(nothing, ("only",)))


@pytest.mark.parametrize("kernel", ("cudnn", "splash"))
def test_each_device_attends_by_the_kernel_of_the_model(kernel_on_cpu, alone, kernel):
    calls = kernel_on_cpu(kernel)
    found = rows_on(2, rows_per_device=4)
    assert calls and {shape[0] for shape, _ in calls} == {4}
    np.testing.assert_allclose(found.values["features"], alone.values["features"], atol=1e-5)


def test_a_device_with_too_little_memory_is_an_error_of_a_setting():
    def hungry(variables, images):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 GiB")

    per_image = PerImage(hungry, DATA, sharding.make_mesh())
    with pytest.raises(ConfigError, match=r"image_size: .* memory"):
        per_image(VARIABLES, InMemory([PIXELS[0]], ("only",)))


def test_progress_says_how_many_images_and_how_fast(monkeypatch, capsys):
    monkeypatch.setattr(rows, "EVERY_SECONDS", 0.0)
    rows_on(1, rows_per_device=16)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("embed ")]
    assert [line.split("  ")[0] for line in lines] == ["embed 1/3", "embed 2/3"]
    assert lines[0].endswith("  16 images")
    assert "ETA 0:0" in lines[-1] and "  32 images  " in lines[-1]
    assert int(lines[-1].rpartition("  ")[2].removesuffix(" images/s").replace(",", "")) > 0
