"""Data sets without their images: classes and sizes of well-known ones, for a plan.

A compiled step depends on the number of classes, and a schedule on the number of images.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from vit_jax import config as config_lib
from vit_jax.data.sources import Record, Source
from vit_jax.data.sources.folder.source import names_of_splits
from vit_jax.data.sources.registry import SOURCES, locate, open_set, open_split
from vit_jax.data.sources.splits import select
from vit_jax.errors import ConfigError


class Declared(Source):
    """A split of a data set whose images are not read: it has a length and class names.

    Args:
      name: Name of the data set and split.
      num_images: Number of images.
      num_classes: Number of classes.
    """

    def __init__(self, name: str, num_images: int, num_classes: int) -> None:
        super().__init__(name, tuple(f"class_{i}" for i in range(num_classes)))
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> Record:
        raise TypeError(f"{self.name} has no images: it is declared for a plan")


class Known(NamedTuple):
    """A well-known data set: the number of classes, the images of each split, and the source."""

    num_classes: int
    splits: Mapping[str, int]
    source: str


def _train_test(num_classes: int, train: int, test: int, source: str) -> Known:
    return Known(num_classes, {"train": train, "test": test}, source)


def _train_val(num_classes: int, train: int, validation: int, source: str) -> Known:
    return Known(num_classes, {"train": train, "validation": validation}, source)


# By the name in TensorFlow Datasets, with its splits: https://www.tensorflow.org/datasets/catalog
KNOWN = {
    "imagenet2012": _train_val(1000, 1_281_167, 50_000, "Russakovsky et al. 2015"),
    "imagenet2012_real": Known(1000, {"validation": 50_000}, "Beyer et al. 2020"),
    "imagenet_v2": Known(1000, {"test": 10_000}, "Recht et al. 2019"),
    # The release of autumn 2011. TFDS has no such set; big_vision calls its only split `full`.
    "imagenet21k": Known(
        21_841, {"train": 14_197_122, "full": 14_197_122}, "Deng et al. 2009; Ridnik et al. 2021"
    ),
    "imagenette": _train_val(10, 9_469, 3_925, "Howard 2019"),
    "places365_small": Known(
        365,
        {"train": 1_803_460, "validation": 36_500, "test": 328_500},
        "Zhou et al. 2017",
    ),
    "i_naturalist2018": _train_val(8_142, 437_513, 24_426, "Van Horn et al. 2018"),
    "i_naturalist2021": Known(10_000, {"train": 2_686_843, "val": 100_000}, "Van Horn et al. 2021"),
    "cifar10": _train_test(10, 50_000, 10_000, "Krizhevsky 2009"),
    "cifar100": _train_test(100, 50_000, 10_000, "Krizhevsky 2009"),
    "mnist": _train_test(10, 60_000, 10_000, "LeCun et al. 1998"),
    "fashion_mnist": _train_test(10, 60_000, 10_000, "Xiao et al. 2017"),
    "kmnist": _train_test(10, 60_000, 10_000, "Clanuwat et al. 2018"),
    "svhn_cropped": Known(
        10, {"train": 73_257, "test": 26_032, "extra": 531_131}, "Netzer et al. 2011"
    ),
    "stl10": _train_test(10, 5_000, 8_000, "Coates et al. 2011"),
    "oxford_iiit_pet": _train_test(37, 3_680, 3_669, "Parkhi et al. 2012"),
    "oxford_flowers102": Known(
        102,
        {"train": 1_020, "validation": 1_020, "test": 6_149},
        "Nilsback and Zisserman 2008",
    ),
    "tf_flowers": Known(5, {"train": 3_670}, "the TensorFlow team 2019"),
    "cats_vs_dogs": Known(2, {"train": 23_262}, "Elson et al. 2007"),
    "stanford_dogs": _train_test(120, 12_000, 8_580, "Khosla et al. 2011"),
    "cars196": _train_test(196, 8_144, 8_041, "Krause et al. 2013"),
    "caltech_birds2011": _train_test(200, 5_994, 5_794, "Wah et al. 2011"),
    "food101": _train_val(101, 75_750, 25_250, "Bossard et al. 2014"),
    "dtd": Known(47, {"train": 1_880, "validation": 1_880, "test": 1_880}, "Cimpoi et al. 2014"),
    "sun397": Known(
        397, {"train": 76_128, "validation": 10_875, "test": 21_750}, "Xiao et al. 2010"
    ),
    "eurosat": Known(10, {"train": 27_000}, "Helber et al. 2019"),
    "resisc45": Known(45, {"train": 31_500}, "Cheng et al. 2017"),
    "patch_camelyon": Known(
        2,
        {"train": 262_144, "validation": 32_768, "test": 32_768},
        "Veeling et al. 2018",
    ),
}


class Data(NamedTuple):
    """The sources of a run by split or set, and a line that says where their sizes are from."""

    sources: dict[str, Source]
    text: str


def declare(config: config_lib.Config, num_images: int = 0) -> Data:
    """Return the sources of a run without opening its data set.

    Sources that are part of the program, such as `digits`, are opened as in training.

    Args:
      config: The config of the run.
      num_images: Number of training images; 0 for that of a well-known data set.

    Raises:
      ConfigError: The classes or the number of images are not known, a split is unknown, or the
        number of images is given for a data set that has its own.
    """
    data = config.data
    fields = {name: field for name, field in config_lib.SPLITS.items() if getattr(data, field)}
    if data.name in SOURCES and not data.root:
        if num_images:
            raise ConfigError("--num_images", f"'{data.name}' has its own number of images")
        opened = {name: open_split(data, field) for name, field in fields.items()}
        sets = {name: open_set(config, name) for name, _ in config.eval.sets}
        return Data({**opened, **sets}, f"{data.name}: {_counts(opened['train'])}, its own")
    sources = {
        name: _declare(config, data, getattr(data, field), f"config.data.{field}", num_images)
        for name, field in fields.items()
    }
    for i, (name, where) in enumerate(config.eval.sets):
        path = f"config.eval.sets[{i}]"
        of_set, split = locate(data, where, path)
        sources[name] = _declare(config, of_set, split, path, num_images)
    return Data(sources, _describe(config, sources["train"], num_images))


def _declare(
    config: config_lib.Config, data: config_lib.Data, split: str, path: str, num_images: int
) -> Source:
    """Return a split of a data set; `path` is the path of the field that names the split."""
    known = _find(data)
    num_classes = config.model["num_classes"] or (known.num_classes if known else 0)
    name = data.root or data.name
    if not num_classes or not (known or num_images):
        missing = [] if num_classes else ["--config.model.num_classes=CLASSES"]
        missing += [] if known or num_images else ["--num_images=TRAINING_IMAGES"]
        problem = f"a plan does not read '{name}', and its size is not known"
        where = "config.data.root" if data.root else "config.data.name"
        raise ConfigError(where, f"{problem}; pass {' '.join(missing)}")
    sizes = dict(known.splits) if known else {}
    if num_images and (not known or path == f"config.data.{config_lib.SPLITS['train']}"):
        sizes |= dict.fromkeys(names_of_splits([split]), num_images)
    try:
        count = len(select(split, sizes))
    except ValueError as error:
        raise ConfigError(path, str(error).split(" See format at")[0]) from error
    return Declared(f"{name}:{split}", count, num_classes)


def _find(data: config_lib.Data) -> Known | None:
    """Return the well-known data set that a config names as NAME[/CONFIG][:VERSION]."""
    return None if data.root else KNOWN.get(re.split("[/:]", data.name)[0])


def _describe(config: config_lib.Config, train: Source, num_images: int) -> str:
    """Return what the classes and the training images are, and where they are from."""
    known = _find(config.data)
    of_set = f"{config.data.name} ({known.source})" if known else ""
    classes = "config.model.num_classes" if config.model["num_classes"] else of_set
    images = "--num_images" if num_images else of_set
    origin = classes if classes == images else f"classes: {classes}; images: {images}"
    return f"{_counts(train)}, not read; {origin}"


def _counts(train: Source) -> str:
    return f"{len(train):,} training images, {len(train.class_names):,} classes"
