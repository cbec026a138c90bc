"""The sections of the config about images: which ones, and what happens to them."""

import dataclasses

from vit_jax.settings.fields import Section, field

# The splits of a run, and the field of the data section that names each.
SPLITS = {"train": "train_split", "val": "val_split", "test": "test_split"}


@dataclasses.dataclass(frozen=True)
class Affine(Section):
    """Random affine map of a training image."""

    degrees: float = field(0.0, "rotation, sampled uniformly from [-v, v] degrees", low=0, high=180)
    scale: float = field(
        0.0, "scaling by 1 + s, with s sampled uniformly from [-v, v]", low=0, high=0.99
    )
    shift: float = field(
        0.0, "shift, sampled uniformly from [-v, v] times the image size", low=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class Synthetic(Section):
    """Size of the made-up data set `synthetic`."""

    train_examples: int = field(1024, "images in the split train", low=0, high=10_000_000)
    test_examples: int = field(256, "images in the split test", low=0, high=10_000_000)
    num_classes: int = field(10, "number of classes", low=1, high=1_000_000)


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """Which images, and what happens to them."""

    name: str = field("digits", "digits, synthetic, or a data set of TFDS: NAME[/CONFIG][:VERSION]")
    data_dir: str = field("", "directory of prepared data sets; empty: the default of TFDS")
    image_key: str = field("image", "feature of a TFDS data set that holds the image")
    label_key: str = field("label", "feature of a TFDS data set that holds the label")
    root: str = field("", "a folder of images instead of name: SPLIT/CLASS/* or CLASS/*")
    val_share: float = field(
        0.1, "share of CLASS/* in the split val, by a hash of the file name", low=0, high=1
    )
    train_split: str = field("train", "split to train on, such as train[:90%]")
    val_split: str = field(
        "", "split to evaluate while training, which selects the best checkpoint; empty: none"
    )
    test_split: str = field("test", "split to evaluate once, at the end; empty: none")
    image_size: tuple[int, int] = field(
        (224, 224), "height and width of the model's images in pixels", low=1, inherit="free"
    )
    channels: int = field(
        3, "channels of an image: 1 to 4 for image files", low=1, inherit="adapted"
    )
    background: tuple[int, ...] = field(
        (255, 255, 255), "red, green and blue behind transparent pixels", low=0, high=255
    )
    max_pixels: int = field(
        64_000_000, "larger images are refused before decoding", low=1, high=178_956_970
    )
    max_unreadable: float = field(
        0.01, "share of unreadable images in a split that ends the run", low=0, high=1
    )
    interpolation: str = field(
        "bicubic", "filter of resized images: nearest, bilinear, bicubic, lanczos", inherit="free"
    )
    fit: str = field(
        "crop",
        "evaluation: crop (resize, then center crop), squash (resize both sides)",
        inherit="free",
    )
    crop_fraction: float = field(
        1.0,
        "share of the resized side that the center crop keeps",
        low=0.01,
        high=1,
        inherit="free",
    )
    crop: str = field("fit", "training: fit (as for evaluation), inception, simple, random")
    crop_area: tuple[float, float] = field(
        (0.08, 1.0), "range of the cropped share of the area, for inception", low=0.001, high=1
    )
    flip: bool = field(False, "random horizontal flip, p = 0.5")
    augment: str = field(
        "", "policy: randaug(2,15), rand-m9-mstd0.5-inc1, autoaugment, trivialaugment, 3-augment"
    )
    color_jitter: float = field(
        0.0, "brightness, contrast and color by factors sampled from [1 - v, 1 + v]", low=0, high=1
    )
    repeats: int = field(
        1, "repeated augmentation: copies of an image in a batch", low=1, high=1000
    )
    erasing: float = field(0.0, "probability of random erasing", low=0, high=1)
    erasing_fill: str = field(
        "pixel", "what erased rectangles become: pixel or channel (noise for each), zero (the mean)"
    )
    mean: tuple[float, ...] = field(
        (0.5, 0.5, 0.5),
        "mean of each channel, for pixels in 0..1",
        low=-10,
        high=10,
        inherit="free",
    )
    std: tuple[float, ...] = field(
        (0.5, 0.5, 0.5), "standard deviation of each channel", low=1e-6, high=10, inherit="free"
    )
    affine: Affine = dataclasses.field(default_factory=Affine)
    synthetic: Synthetic = dataclasses.field(default_factory=Synthetic)
    threads: int = field(
        16, "threads that read and transform images, per process", low=1, high=1024
    )
    workers: int = field(0, "worker processes; 0: read in the training process", low=0, high=1024)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (*self.image_size, self.channels)


@dataclasses.dataclass(frozen=True)
class Mix(Section):
    """Mixing of the images and labels of a batch."""

    mixup: float = field(
        0.0, "alpha of mixup, whose weight is from Beta(alpha, alpha)", low=0, high=1000
    )
    cutmix: float = field(
        0.0, "alpha of cutmix, likewise; an alpha of 0 turns it off", low=0, high=1000
    )
    probability: float = field(1.0, "probability that a batch is mixed", low=0, high=1)
    switch: float = field(
        0.5, "probability of cutmix instead of mixup, where both are on", low=0, high=1
    )
