"""The config sections about images: the data set, preprocessing, augmentation and mixing."""

import dataclasses

from vit_jax.settings.fields import Section, field

# The splits of a run, and the field of the data section for each.
SPLITS = {"train": "train_split", "val": "val_split", "test": "test_split"}


@dataclasses.dataclass(frozen=True)
class Affine(Section):
    """Random affine transform of a training image."""

    degrees: float = field(
        0.0, "rotation in degrees, sampled uniformly from [-v, v]", low=0, high=180
    )
    scale: float = field(
        0.0, "scale factor 1 + s, with s sampled uniformly from [-v, v]", low=0, high=0.99
    )
    shift: float = field(
        0.0, "shift as a fraction of the image size, sampled uniformly from [-v, v]", low=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class Synthetic(Section):
    """Size of the generated data set `synthetic`."""

    train_examples: int = field(1024, "number of images in the split train", low=0, high=10_000_000)
    test_examples: int = field(256, "number of images in the split test", low=0, high=10_000_000)
    num_classes: int = field(10, "number of classes", low=1, high=1_000_000)


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """The data set, its splits, preprocessing and augmentation."""

    name: str = field(
        "digits", "data set: digits, synthetic, or one of TFDS as NAME[/CONFIG][:VERSION]"
    )
    data_dir: str = field("", "directory of prepared data sets; empty: the default of TFDS")
    image_key: str = field("image", "name of the image feature of a TFDS data set")
    label_key: str = field("label", "name of the label feature of a TFDS data set")
    root: str = field("", "image folder, which replaces name: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*")
    val_share: float = field(
        0.1,
        "fraction of ROOT/CLASS/* in the split val, chosen by a hash of the file name",
        low=0,
        high=1,
    )
    train_split: str = field("train", "split to train on, such as train[:90%]")
    val_split: str = field(
        "", "split to evaluate during training; selects the best checkpoint; empty: none"
    )
    test_split: str = field("test", "split to evaluate once, after training; empty: none")
    image_size: tuple[int, int] = field(
        (224, 224),
        "height and width in pixels of the images that the model gets",
        low=1,
        inherit="free",
    )
    channels: int = field(
        3, "number of image channels; 1 to 4 for image files", low=1, inherit="adapted"
    )
    background: tuple[int, ...] = field(
        (255, 255, 255),
        "colour behind transparent pixels: red, green, blue from 0 to 255",
        low=0,
        high=255,
    )
    max_pixels: int = field(
        64_000_000,
        "number of pixels above which an image is refused before decoding",
        low=1,
        high=178_956_970,
    )
    max_unreadable: float = field(
        0.01, "fraction of unreadable images in a split above which the run ends", low=0, high=1
    )
    interpolation: str = field(
        "bicubic", "filter for resizing: nearest, bilinear, bicubic, lanczos", inherit="free"
    )
    fit: str = field(
        "crop",
        "evaluation: crop (resize, then centre crop), squash (resize, ignoring the aspect ratio)",
        inherit="free",
    )
    crop_fraction: float = field(
        1.0,
        "side of the centre crop, as a fraction of the side of the resized image",
        low=0.01,
        high=1,
        inherit="free",
    )
    crop: str = field(
        "fit", "training crop: fit (as in evaluation), inception, simple (DeiT III), random"
    )
    crop_area: tuple[float, float] = field(
        (0.08, 1.0),
        "range of the area of the inception crop, as a fraction of the image",
        low=0.001,
        high=1,
    )
    flip: bool = field(False, "random horizontal flip with probability 0.5")
    augment: str = field(
        "",
        "augmentation policy: randaug(2,15), rand-m9-mstd0.5-inc1, autoaugment, trivialaugment, "
        "3-augment; empty: none",
    )
    color_jitter: float = field(
        0.0,
        "factors of brightness, contrast and colour, sampled uniformly from [1 - v, 1 + v]",
        low=0,
        high=1,
    )
    repeats: int = field(
        1, "repeated augmentation: number of copies of each image in a batch", low=1, high=1000
    )
    erasing: float = field(0.0, "probability of random erasing", low=0, high=1)
    erasing_fill: str = field(
        "pixel",
        "fill of random erasing: pixel or channel (noise per pixel, per channel), zero (the mean)",
    )
    mean: tuple[float, ...] = field(
        (0.5, 0.5, 0.5),
        "mean per channel of pixels in [0, 1]",
        low=-10,
        high=10,
        inherit="free",
    )
    std: tuple[float, ...] = field(
        (0.5, 0.5, 0.5),
        "standard deviation per channel of pixels in [0, 1]",
        low=1e-6,
        high=10,
        inherit="free",
    )
    affine: Affine = dataclasses.field(default_factory=Affine)
    synthetic: Synthetic = dataclasses.field(default_factory=Synthetic)
    threads: int = field(
        16, "number of threads per process that read and transform images", low=1, high=1024
    )
    workers: int = field(
        0,
        "number of worker processes that read images; 0: the training process reads them",
        low=0,
        high=1024,
    )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return (*self.image_size, self.channels)


@dataclasses.dataclass(frozen=True)
class Mix(Section):
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019) of the images of a batch."""

    mixup: float = field(
        0.0,
        "alpha of mixup: the mixing weight is sampled from Beta(alpha, alpha); 0: off",
        low=0,
        high=1000,
    )
    cutmix: float = field(
        0.0,
        "alpha of cutmix: the relative area of the box is sampled from Beta(alpha, alpha); 0: off",
        low=0,
        high=1000,
    )
    probability: float = field(1.0, "probability that a batch is mixed", low=0, high=1)
    switch: float = field(
        0.5, "probability of cutmix rather than mixup, if both are on", low=0, high=1
    )
