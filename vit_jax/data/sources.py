"""Where images come from: random access to labelled images, by index.

Every entry of `SOURCES` is called with the data section and a split, and returns a `Source`.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from vit_jax import config as config_lib
from vit_jax.errors import ConfigError, DataError, WorkdirError, pick


class Record(TypedDict):
    """One labelled image."""

    image: bytes | np.ndarray  # an encoded file, or uint8 (h, w, c)
    label: int
    id: str  # names the record in an error


@runtime_checkable
class Source(Protocol):
    """Labelled images by index."""

    name: str  # with version and split
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Returns an image; the same one for the same index, always."""
        ...


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns what a resumed run must find again."""
    return {"name": source.name, "examples": len(source), "classes": list(source.class_names)}


class TfdsSource:
    """A split of a TFDS data set prepared as array_record; images stay encoded."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        decoders = {"image": tfds.decode.SkipDecoding()}
        empty = builder.info.splits[split].num_examples == 0  # which TFDS cannot open
        self._records = [] if empty else builder.as_data_source(split, decoders=decoders)
        self.name = f"{builder.info.full_name}:{split}"
        self.class_names = tuple(builder.info.features["label"].names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        label = int(record["label"])
        return {"image": record["image"], "label": label, "id": f"{self.name}[{index}]"}


class Synthetic:
    """Noise whose brightness tells the class: for tests, dry runs and measuring speed."""

    def __init__(self, data: config_lib.Data, split: str) -> None:
        sizes = {"train": data.synthetic.train_examples, "test": data.synthetic.test_examples}
        infos = {
            name: tfds.core.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
            for name, size in sizes.items()
        }
        spans = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        self._places = [
            (span.splitname, index)
            for span in spans
            for index in range(sizes[span.splitname])[span.from_ : span.to]
        ]
        self._shape = (*data.image_size, data.channels)
        self.name = f"synthetic:{split}"
        self.class_names = tuple(f"class_{i}" for i in range(data.synthetic.num_classes))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        split, place = self._places[index]
        rng = np.random.default_rng([split == "test", place])
        label = int(rng.integers(len(self.class_names)))
        brightness = 32 + 192 * (label + 0.5) / len(self.class_names)
        image = rng.integers(-32, 32, self._shape, np.int16) + np.int16(brightness)
        return {"image": image.astype(np.uint8), "label": label, "id": f"{self.name}[{index}]"}


def _digits(data: config_lib.Data, split: str) -> Source:
    from vit_jax.data import digits

    builder = digits.Digits(data_dir=data.data_dir or None, file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError as error:
        problem = f"cannot prepare the data set in {builder.data_dir}: {error}"
        raise WorkdirError(f"{problem}; set config.data.data_dir") from error
    return TfdsSource(builder, split)


SOURCES: dict[str, Callable[[config_lib.Data, str], Source]] = {
    "digits": _digits,
    "synthetic": Synthetic,
}


def load(data: config_lib.Data, field: str) -> Source:
    """Opens the split that a field of the data section names, such as `train_split`.

    Raises:
      ConfigError: No such data set, or no such split.
      DataError: The split is empty.
    """
    split = getattr(data, field)
    path = f"config.data.{field}"
    tfds.disable_progress_bar()
    logging.getLogger("tensorflow_datasets").setLevel(logging.ERROR)
    try:
        source = pick(SOURCES, data.name, "config.data.name")(data, split)
    except ValueError as error:
        raise ConfigError(path, str(error).split(" See format at")[0]) from error
    if not len(source):
        raise DataError(f"{path}: '{split}' of {data.name} holds no image")
    return source
