"""The mesh, and how the parameters of every model are sharded over it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.cluster import sharding
from vit_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((-1, 2, 2), (2, 2, 2)), ((2, -1, 1), (2, 4, 1)), ((1, 1, 8),) * 2],
)
def test_one_size_may_be_the_remaining_devices(sizes, shape):
    mesh = sharding.make_mesh(sizes)
    assert tuple(mesh.shape.values()) == shape
    assert tuple(mesh.shape) == sharding.AXES


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, 16, 1), (2, 2, 1)])
def test_sizes_that_do_not_fit_the_devices_are_an_error(sizes):
    with pytest.raises(ConfigError, match=r"^config.mesh: .* does not fit 8 devices"):
        sharding.make_mesh(sizes)


@pytest.mark.parametrize(
    ("batch_size", "accum_steps", "hint"),
    [(12, 1, "try 8 or 16"), (5, 1, "try 8$"), (8, 2, "x 2 micro-batches, got 8; try 16")],
)
def test_a_batch_that_cannot_be_sharded_names_the_nearest_sizes(batch_size, accum_steps, hint):
    mesh = sharding.make_mesh()
    with pytest.raises(ConfigError, match=hint):
        sharding.check_batch_size(batch_size, "config.batch_size", mesh, accum_steps)


def test_a_batch_is_put_row_by_row():
    mesh = sharding.make_mesh((2, 2, 2))
    batch = sharding.to_global({"label": np.arange(8)}, mesh)["label"]
    assert batch.sharding.spec == jax.P(("data", "fsdp"))
    np.testing.assert_array_equal(batch, np.arange(8))
    shards = {shard.data.tolist()[0] for shard in batch.addressable_shards}
    assert shards == {0, 2, 4, 6}


@pytest.mark.parametrize("name", models.list_models())
def test_every_model_can_be_sharded_over_all_axes(name):
    fields = {"block.layer_scale": 0.1, "attention.qk_norm": True, "pool": "map"}
    if models.family(name).name == "swin":
        fields |= {"depths": (1,) * len(models.spec(name).depths)}
    else:
        fields |= {"depth": 1, "num_registers": 2}
        fields |= {"pool": "cls"} if models.spec(name).distilled else {}
    model = models.create(name, **fields)
    size = 2 * model.stride[0]
    images = jnp.zeros((1, size, size, 3))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"])
    mesh = sharding.make_mesh((4, 2, 1))
    layouts = jax.tree.leaves(sharding.param_shardings(boxed, mesh))
    leaves = jax.tree.leaves(nn.unbox(boxed))
    split = sum(
        leaf.size
        for leaf, layout in zip(leaves, layouts, strict=True)
        if "fsdp" in jax.tree.leaves(tuple(layout.spec))
    )
    assert split > 0.97 * sum(leaf.size for leaf in leaves) or name == "vit_mu16"


def test_an_indivisible_dimension_names_the_parameter():
    model = models.create("vit_ti16", depth=1)
    images = jnp.zeros((1, 32, 32, 3))
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False)["params"])
    mesh = sharding.make_mesh((4, 1, 2))
    message = r"config.mesh.tensor: expected a divisor of 3, a dimension of blocks_0/attn/"
    with pytest.raises(ConfigError, match=message):
        sharding.param_shardings(boxed, mesh)


def processes_of(sizes, num_processes):
    """Returns the process of each device, with the devices ordered by host."""
    count = int(np.prod(sizes))
    return (np.arange(count) // (count // num_processes)).reshape(sizes)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (processes_of((8, 1, 1), 2), {0: (0, 2), 1: (1, 2)}),
        (processes_of((2, 2, 2), 2), {0: (0, 2), 1: (1, 2)}),
        (processes_of((1, 1, 2), 2), {0: (0, 1), 1: (0, 1)}),  # the tensor axis spans both
        (processes_of((2, 1, 4), 4), {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        (processes_of((8, 1, 1), 2)[::-1], {0: (1, 2), 1: (0, 2)}),
        (np.array([0, 1, 0, 1]).reshape(4, 1, 1), {}),  # they take turns
        (np.array([0, 0, 0, 1]).reshape(4, 1, 1), {}),
        (np.array([1, 0, 0, 1]).reshape(4, 1, 1), {}),
        (processes_of((2, 1, 3), 3), {}),  # the second host holds rows of both
    ],
)
def test_a_host_holds_one_block_of_the_rows_or_none_does(processes, expected):
    assert sharding.shards_by_process(processes) == expected


def test_a_mesh_that_interleaves_hosts_is_ordered_by_host(monkeypatch):
    monkeypatch.setattr(sharding, "_process_of", lambda device: device.id % 2)
    mesh = sharding.make_mesh((-1, 2, 1))
    assert [device.id for device in mesh.devices.flat] == [0, 2, 4, 6, 1, 3, 5, 7]
    assert sharding.batch_shard(mesh) == (0, 2)


def test_a_tensor_axis_that_does_not_fit_the_hosts_is_an_error(monkeypatch):
    monkeypatch.setattr(sharding, "_process_of", lambda device: device.id // 3)
    message = "config.mesh.tensor: expected a divisor or a multiple of the 3 devices of a host"
    with pytest.raises(ConfigError, match=message):
        sharding.make_mesh((-1, 1, 2), jax.devices()[:6])


def test_one_host_holds_all_rows():
    assert sharding.batch_shard(sharding.make_mesh((2, 2, 2))) == (0, 1)
