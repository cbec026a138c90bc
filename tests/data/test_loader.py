"""The stream of batches is a pure function of (seed, step) for any number of readers."""

import dataclasses
import itertools
import pathlib
from multiprocessing import shared_memory

import numpy as np
import pytest

from vit_jax import config as config_lib
from vit_jax.data import loader, transforms
from vit_jax.data.sources import Source
from vit_jax.data.sources.registry import open_split
from vit_jax.errors import DataError

DATA = config_lib.Data(
    name="synthetic",
    train_split="train[:20]",
    test_split="test[:11]",
    image_size=(6, 6),
    channels=1,
    mean=(0.5,),
    std=(0.5,),
    crop="inception",
    crop_area=(0.5, 1.0),
    flip=True,
    augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.3,
    repeats=2,
    affine=config_lib.Affine(degrees=30.0, shift=0.2),
    threads=2,
)
PLAIN = config_lib.Data(
    **{f: getattr(DATA, f) for f in ("name", "train_split", "test_split", "channels", "threads")},
    image_size=(6, 6),
)
SOURCE = open_split(DATA, "train_split")


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


def test_a_stream_started_at_a_step_continues_the_whole_stream():
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


def test_repeated_images_are_consecutive_with_different_transforms():
    data = dataclasses.replace(DATA, repeats=4)
    rows = np.concatenate([batch["label"] for batch in take(10, data=data)]).reshape(-1, 4)
    assert (rows == rows[:, :1]).all()
    images = np.concatenate([batch["image"] for batch in take(10, data=data)])
    assert (images[::4] != images[1::4]).any(axis=(1, 2, 3)).mean() > 0.8
    once = dataclasses.replace(PLAIN, repeats=1)
    plain = np.concatenate([batch["image"] for batch in take(5, data=once)])[:20]
    again = np.concatenate(
        [batch["image"] for batch in take(10, data=dataclasses.replace(PLAIN, repeats=4))]
    )
    np.testing.assert_array_equal(again[::4], plain)  # the same order, as many times over


def test_threads_do_not_change_the_stream():
    assert_same(take(5, data=dataclasses.replace(DATA, threads=7)), take(5))


@pytest.mark.parametrize("workers", [2, 3])
def test_worker_processes_do_not_change_the_stream(workers):
    data = dataclasses.replace(DATA, workers=workers)
    whole = take(5)
    batches = take(5, data=data)
    assert_same(batches, whole)
    # Shared memory that a batch still holds at the end would be reported as leaked.
    assert all(type(rows) is np.ndarray for batch in batches for rows in batch.values())
    assert_same(take(2, data=data, step=3), whole[3:])
    assert_same(
        take(2, data=data, step=3, host=1, num_hosts=2),
        [{key: value[4:] for key, value in batch.items()} for batch in whole[3:]],
    )


def test_workers_leave_no_shared_memory_behind(monkeypatch):
    names = []
    init = shared_memory.SharedMemory.__init__

    def attach(self, *args, **kwargs):
        init(self, *args, **kwargs)
        names.append(self.name)

    monkeypatch.setattr(shared_memory.SharedMemory, "__init__", attach)
    batches = loader.eval_batches(SOURCE, dataclasses.replace(DATA, workers=2), 8)
    assert len(list(batches)) == 3
    batches.close()
    assert names and not [name for name in names if pathlib.Path("/dev/shm", name).exists()]  # noqa: S108


def test_an_epoch_has_every_image_once_and_the_next_has_another_order():
    rows = [row.tobytes() for batch in take(5, data=PLAIN) for row in batch["image"]]
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
    source = open_split(DATA, "test_split")
    batches = list(loader.eval_batches(source, DATA, batch_size))
    assert {len(batch["label"]) for batch in batches} == {batch_size}
    kept = [row for batch in batches for row in batch["image"][batch["mask"]]]
    np.testing.assert_array_equal(kept, [source[i]["image"] for i in range(11)])


def test_hosts_evaluate_disjoint_rows():
    source = open_split(DATA, "test_split")
    parts = [
        list(loader.eval_batches(source, DATA, 8, host=host, num_hosts=2)) for host in range(2)
    ]
    assert [len(part) for part in parts] == [2, 2]
    assert sum(batch["mask"].sum() for part in parts for batch in part) == 11


class Broken(Source):
    """The images of SOURCE, some of them broken, and a label of choice."""

    def __init__(self, broken, label=0, num=20):
        super().__init__("broken", ("a", "b"))
        self.broken = broken
        self.label = label
        self.num = num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"cannot read\n{index}")
        return {"image": np.full((6, 6, 1), index, np.uint8), "label": self.label}


def batches_of(source, num=5, **overrides):
    data = dataclasses.replace(PLAIN, max_unreadable=0.2, **overrides)
    stream = loader.train_batches(source, data, 4, seed=0)
    return [
        sorted(row[0, 0, 0] for row in batch["image"]) for batch in itertools.islice(stream, num)
    ]


@pytest.mark.parametrize("overrides", [{}, {"workers": 2}])
def test_the_next_image_replaces_an_unreadable_one(capsys, overrides):
    source = Broken({3, 7, 8, 19})
    assert "unreadable" not in next(loader.train_batches(source, DATA, 4, seed=0))
    rows = batches_of(source, **overrides)
    replaced = {3: 4, 7: 9, 8: 9, 19: 0}
    whole = [[replaced.get(i, i) for i in batch] for batch in batches_of(Broken(()))]
    assert rows == [sorted(batch) for batch in whole]
    assert source.unreadable == {i: f"cannot read {i}" for i in (3, 7, 8, 19)}


def test_an_unreadable_image_is_reported_once(capsys):
    source = Broken({3})
    batches_of(source, num=15)
    list(loader.eval_batches(source, DATA, 8))
    err = capsys.readouterr().err
    assert err == "warning: broken[3]: cannot be read: cannot read 3\n"


def test_an_unreadable_image_is_skipped_in_evaluation():
    source = Broken({3})
    batches = list(loader.eval_batches(source, DATA, 8))
    assert [len(batch["mask"]) for batch in batches] == [8, 8, 8]
    kept = [row[0, 0, 0] for batch in batches for row in batch["image"][batch["mask"]]]
    assert kept == [i for i in range(20) if i != 3]


def test_too_many_unreadable_images_end_the_run():
    with pytest.raises(DataError, match=r"^broken: 5 of the 20 images cannot be read, more than 4"):
        batches_of(Broken({1, 5, 9, 13, 17}))
    with pytest.raises(DataError, match="2 of the 20 images cannot be read, more than 1"):
        list(loader.eval_batches(Broken({1, 5}), DATA, 8))  # one per cent of few is one


def test_a_source_with_only_unreadable_images_fails_immediately():
    with pytest.raises(DataError, match=r"broken\[\d+\]: this image and the next 99 cannot"):
        batches_of(Broken(range(1000), num=1000))


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_an_invalid_label_ends_the_run_and_names_the_record(label):
    expected = rf"^broken\[\d+\]: expected a label from 0 to 1, got {label}"
    with pytest.raises(DataError, match=expected):
        batches_of(Broken((), label=label))


def test_an_error_in_a_transform_is_not_an_unreadable_image(monkeypatch):
    def fail(self, image, rng):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(transforms.CentreCrop, "__call__", fail)
    with pytest.raises(ZeroDivisionError):
        batches_of(Broken(()))


def test_batches_of_one_image():
    whole = [take(20, batch_size=1, data=data) for data in (DATA, PLAIN)]
    for rows, data in zip(whole, (DATA, PLAIN), strict=True):
        assert_same(rows[7:9], take(2, batch_size=1, data=data, step=7))
        (first,) = take(1, batch_size=4, data=data)
        np.testing.assert_array_equal(
            np.concatenate([r["image"] for r in rows[:4]]), first["image"]
        )
