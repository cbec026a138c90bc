"""The stream of batches is a pure function of (seed, step), however it is read."""

import dataclasses
import itertools

import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.data import loader, sources

DATA = config_lib.Data(
    name="synthetic",
    train_split="train[:20]",
    test_split="test[:11]",
    image_size=(6, 6),
    channels=1,
    affine=config_lib.Affine(degrees=30.0, shift=0.2),
    threads=2,
)
SOURCE = sources.load(DATA, "train_split")


def take(num, *, data=DATA, batch_size=8, **kwargs):
    batches = loader.train_batches(SOURCE, data, batch_size, **{"seed": 0, **kwargs})
    return list(itertools.islice(batches, num))


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_batches_are_uint8_images_and_int32_labels():
    (batch,) = take(1)
    assert batch["image"].shape == (8, 6, 6, 1)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (8,)
    assert batch["label"].dtype == np.int32


def test_a_stream_started_at_a_step_is_the_rest_of_the_whole_stream():
    whole = take(9)
    for step in (1, 4, 8):
        assert_same(take(9 - step, step=step), whole[step:])


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_read_contiguous_rows_of_the_same_batches(num_hosts):
    whole = take(6)
    rows = 8 // num_hosts
    for host in range(num_hosts):
        part = [
            {key: value[host * rows : (host + 1) * rows] for key, value in batch.items()}
            for batch in whole
        ]
        assert_same(take(6, host=host, num_hosts=num_hosts), part)


def test_threads_do_not_change_the_stream():
    assert_same(take(5, data=dataclasses.replace(DATA, threads=7)), take(5))


def test_worker_processes_do_not_change_the_stream():
    assert_same(take(5, data=dataclasses.replace(DATA, workers=2)), take(5))


def test_an_epoch_holds_every_image_once_and_the_next_is_in_another_order():
    plain = dataclasses.replace(DATA, affine=config_lib.Affine())
    rows = [row.tobytes() for batch in take(5, data=plain) for row in batch["image"]]
    first, second = rows[:20], rows[20:]
    assert (
        sorted(first) == sorted(second) == sorted(SOURCE[i]["image"].tobytes() for i in range(20))
    )
    assert first != second


def test_random_transforms_change_with_the_epoch_and_the_seed():
    def images(**kwargs):
        return {row.tobytes() for batch in take(5, **kwargs) for row in batch["image"]}

    assert len(images()) == 40
    assert not images() & images(seed=1)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_evaluation_counts_every_image_once_in_order(batch_size):
    source = sources.load(DATA, "test_split")
    batches = list(loader.eval_batches(source, DATA, batch_size))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    kept = [row for batch in batches for row in batch["image"][batch["mask"]]]
    np.testing.assert_array_equal(kept, [source[i]["image"] for i in range(11)])


def test_hosts_share_an_evaluation():
    source = sources.load(DATA, "test_split")
    parts = [
        list(loader.eval_batches(source, DATA, 8, host=host, num_hosts=2)) for host in range(2)
    ]
    assert [len(part) for part in parts] == [2, 2]
    assert sum(batch["mask"].sum() for part in parts for batch in part) == 11


def test_an_error_in_a_record_reaches_the_reader():
    class Bad:
        name = "bad"
        class_names = ("a", "b")

        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"image": SOURCE[0]["image"], "label": 2, "id": f"bad[{index}]"}

    from vit_jax.errors import DataError

    with pytest.raises(DataError, match=r"bad\[\d\]: expected a label from 0 to 1, got 2"):
        next(loader.train_batches(Bad(), DATA, 4, seed=0))
