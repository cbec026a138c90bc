"""What each layout of folders is read as, and that what can be read in two ways is refused."""

import os

import pytest

from vit_jax import config as config_lib
from vit_jax.data.sources.class_names import order_is_clear
from vit_jax.data.sources.folder.split_names import mentions_split, split_of
from vit_jax.data.sources.registry import note_on_order, open_split
from vit_jax.errors import ConfigError, DataError, InputMissingError


def fill(root, *names):
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def some(folder, count=4, suffix="png"):
    """Returns names of images in a folder."""
    return [f"{folder}/{i}.{suffix}" for i in range(count)]


def both(train, val, classes=("apple", "banana")):
    """Returns two splits of some classes: 4 images of each, and 2."""
    return [
        name
        for fruit in classes
        for name in some(f"{train}/{fruit}", 4) + some(f"{val}/{fruit}", 2)
    ]


def load(root, split="train", class_names=(), **fields):
    data = config_lib.Data(root=str(root), **{"train_split": split, "val_split": "val", **fields})
    return open_split(data, "train_split", class_names)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Train", "Val"),
        ("TRAIN", "VALID"),
        ("training", "validate"),
        ("Training", "Validation"),
        ("train_set", "val_set"),
        ("trainset", "dev"),
        ("training_set", "dev_set"),
        ("train-images", "validation-images"),
        ("images_train", "images_val"),
        ("Train Data", "Eval Data"),
        ("train2017", "val2017"),
        ("00_train", "01_val"),
    ],
)
def test_the_names_that_people_give_splits_are_known(tmp_path, train, val):
    fill(tmp_path, *both(train, val), "README.md")
    source = load(tmp_path)
    assert (len(source), source.class_names) == (8, ("apple", "banana"))
    assert source.notes == (() if train == "train" else (f"{tmp_path}/{train} is read as train",))
    assert len(load(tmp_path, "val")) == 4


@pytest.mark.parametrize(
    "name", ["trains", "trail", "apple", "latest", "value", "set", "1", "über"]
)
def test_other_names_are_no_splits(name):
    assert not split_of(name) and not mentions_split(name)


def test_a_split_of_a_name_of_its_own_is_one_where_the_config_names_it(tmp_path):
    fill(tmp_path, *both("train", "holdout"))
    for split, size in (("train", 8), ("holdout", 4)):
        assert len(load(tmp_path, split, val_split="holdout")) == size
    fill(tmp_path, *some("val/apple"))
    assert not load(tmp_path).notes  # it may be one of `eval.sets`
    assert len(load(tmp_path, "holdout")) == 4


@pytest.mark.parametrize("name", ["Training", "train"])
def test_a_split_that_has_no_folder_is_not_made_up(tmp_path, name):
    fill(tmp_path, *both(name, "Testing"))
    expected = r"no split 'val' in .*Testing as test.*; 'train\[:10%\]' and 'train\[10%:\]' would"
    with pytest.raises(ConfigError, match=expected):
        load(tmp_path, "val")
    assert len(load(tmp_path)) == 8


@pytest.mark.parametrize("split", ["test", "vla"])
def test_divided_classes_have_two_splits(tmp_path, split):
    fill(tmp_path, *some("apple"), *some("banana"))
    with pytest.raises(ConfigError, match=f"no split '{split}' in .* divided into train and val"):
        load(tmp_path, split)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # Images right in the folders of splits.
        ([*some("train"), *some("test")], "train has 4 images and no class folders"),
        (some("train"), "train has 4 images and no class folders"),
        ([*some("Train"), *some("Val"), *some("more")], "Train has 4 images and no class folders"),
        (["train/", "val/"], "train has 0 images and no class folders"),
        # The root is too high.
        (
            both("fruit/train", "fruit/val"),
            "one class only: .*fruit has train/ and val/ in it; pass",
        ),
        (
            [*both("x/train", "x/val"), *both("y/train", "y/val")],
            "x has train/ and val/ in it, below",
        ),
        # Splits below classes.
        (both("apple/train", "banana/test"), "apple has train/ in it, below a class"),
        # Names with a split in them.
        (both("seg_train/x", "seg_test/x"), "seg_test, seg_train look like splits, not classes"),
        # Two folders for a split.
        ([*both("Train", "val"), *some("training/apple")], "Train and .*training both mean train"),
        # A split or a class?
        (
            [*some("car"), *both("train/old", "train/new")],
            "train has folders like a split, but .*car",
        ),
        # No folders of classes.
        (some("."), "has no folders; expected one per class; it has 4 images"),
        (["a.zip", "labels.csv"], "has no folders; expected one per class; it has 1 .zip"),
        (
            [*both("fruit/train", "fruit/val"), "docs/a.txt"],
            "fruit has train/ and val/ in it, below",
        ),
        (
            [*some("images/cat"), *some("images/dog"), "labels/a.xml"],
            "labels: the class has no image; .*images has cat/ and dog/: give --config.data.root=",
        ),
        (["dataset_info.json", "a.array_record"], "it has 1 .array_record; for a data set of TFDS"),
        (["mnist/3.0.1/dataset_info.json"], "for a data set of TFDS, pass --config.data.name"),
        (["3.0.1/dataset_info.json"], "for a data set of TFDS, pass --config.data.name"),
        # Two forms of one name.
        (
            [*some("caf\u00e9"), *some("cafe\u0301")],
            "class 'café' exists twice, in two Unicode forms",
        ),
        # Nothing but files of other kinds.
        ([*some("a"), *some("b", suffix="heic")], "b: the class has no image; .*skipped: 4 .heic"),
        ([*some("a"), "b/"], "b: the class has no image; expected .jpg"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, names, message):
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_root_of_one_class_says_where_the_classes_are(tmp_path):
    fill(tmp_path, *both("data/photos/Train", "data/photos/Val"))
    (note,) = load(tmp_path, val_share=0.0).notes
    below = f"{tmp_path}/data/photos"
    assert (
        note
        == f"one class only: data; {below} has Train/ and Val/: give --config.data.root={below}"
    )
    fill(tmp_path / "twice", *both("train/train", "val/val"))
    (note,) = load(tmp_path / "twice").notes
    below = f"{tmp_path}/twice/train/train"
    assert note.endswith(f"{below} has apple/ and banana/: give --config.data.root={below}")


def test_classes_may_be_named_like_splits(tmp_path):
    fill(tmp_path, *some("bus"), *some("car"), *some("train/steam"), *some("train/diesel"))
    source = load(tmp_path, val_share=0.0)
    assert (len(source), source.class_names) == (16, ("bus", "car", "train"))
    assert source.notes == (f"{tmp_path}/train is taken for a class, like bus, car beside it",)
    fill(tmp_path / "flat", *some("bus"), *some("car"), *some("train"))
    assert load(tmp_path / "flat", val_share=0.0).class_names == ("bus", "car", "train")


def test_the_exact_name_of_a_split_wins(tmp_path):
    fill(tmp_path, *both("train", "val"), *some("validation/apple", 1))
    val = load(tmp_path, "val")
    assert len(val) == 4
    away = f"{tmp_path}/validation"
    assert val.notes == (f"not read: {away}; {tmp_path}/val is the split val",)
    assert len(load(tmp_path, "validation")) == 1  # by its own name


def test_a_flat_split_is_refused_only_where_it_is_asked_for(tmp_path):
    fill(tmp_path, *both("train", "val"), *some("test"))
    assert len(load(tmp_path)) == 8
    with pytest.raises(DataError, match="test has 4 images and no class folders"):
        load(tmp_path, "test")


def test_what_lies_beside_splits_and_classes_is_said(tmp_path):
    fill(tmp_path, *both("train", "val"), *some("unlabelled"), "notes/a.txt", "train/stray.png")
    assert load(tmp_path).notes == (
        f"not read, beside the splits: {tmp_path}/unlabelled",
        f"1 images right in {tmp_path}/train are in no class",
    )
    (note,) = load(tmp_path / "val", val_share=0.0).notes
    assert note.startswith(f"not read, beside {tmp_path}/val: {tmp_path}/train; --config.data.root")


def test_folders_that_seem_to_hold_the_classes_are_said(tmp_path):
    fill(tmp_path, *both("2019", "2020"))
    (note,) = load(tmp_path, val_share=0.0).notes
    assert note == "2019, 2020 are the classes, although all have the same folders: apple, banana"


def test_system_folders_are_no_classes(tmp_path):
    system = ["__MACOSX/apple/._0.png", "$RECYCLE.BIN/1.png", "lost+found/", "@eaDir/a/1.png"]
    system += ["System Volume Information/x", ".Trash-1000/1.png", "apple/@eaDir/0.png/1.jpg"]
    fill(tmp_path, *some("apple"), *some("banana"), *system)
    source = load(tmp_path, val_share=0.0)
    assert (len(source), source.class_names) == (8, ("apple", "banana"))
    assert "2 folders @eaDir" in source.notes[0] and "1 folder __MACOSX" in source.notes[0]


def test_a_class_without_an_image_may_be_empty_in_other_splits(tmp_path):
    fill(tmp_path, *both("train", "val"), *some("train/cherry"), "val/cherry/", "val/date/")
    val = load(tmp_path, "val", ("apple", "banana", "cherry"))
    assert len(val) == 4
    assert val.notes == ("'val' has no image of 1 of the 3 classes: cherry",)
    fill(tmp_path, "val/cherry/1.heic")
    with pytest.raises(DataError, match="val/cherry: the class has no image"):
        load(tmp_path, "val", val.class_names)


def test_a_class_without_a_training_image_is_named(tmp_path):
    fill(tmp_path, *some("apple", 30), *some("banana", 30), "rare/IMG_0002.png")
    assert load(tmp_path).notes == ("'train' has no image of 1 of the 3 classes: rare",)


def test_a_cut_that_leaves_nothing_says_how_it_is_made(tmp_path):
    fill(tmp_path, *(f"apple/z{i}.png" for i in range(5)), *(f"banana/_0{i}.png" for i in range(5)))
    shares = [k / 100 for k in range(1, 100)]
    sizes = {}
    for share in shares:
        try:
            sizes[share] = len(load(tmp_path, "val", val_share=share))
        except DataError as error:
            sizes[share] = 0
            message = str(error)
    first = min(share for share in shares if sizes[share])
    assert f"--config.data.val_share={max(s for s in shares if not sizes[s]):g}" in message
    assert f"with {first:g} to " in message


def test_names_in_two_unicode_forms_are_one_class(tmp_path):
    fill(tmp_path, *both("train", "x", ("caf\u00e9", "the\u0301")))
    fill(tmp_path, *both("x", "val", ("cafe\u0301", "th\u00e9")))
    train = load(tmp_path)
    val = load(tmp_path, "val", train.class_names)
    assert len(val) == 4 and val.class_names == train.class_names
    names = {os.path.basename(os.path.dirname(val.describe(i))): val[i]["label"] for i in range(4)}
    labels = {name: label for label, name in enumerate(train.class_names)}
    assert names["cafe\u0301"] == labels["caf\u00e9"]


@pytest.mark.parametrize("other", ["Apple", "apple ", " apple"])
def test_names_that_look_alike_are_classes_and_said(tmp_path, other):
    fill(tmp_path, *some("apple"), *some(other), *some("banana"))
    (note,) = load(tmp_path, val_share=0.0).notes
    assert f"'{other}'" in note and "are 2 classes" in note
    with pytest.raises(DataError, match=r"not a class; .*did you mean 'apple'"):
        load(tmp_path, class_names=("apple", "banana"))


def test_a_class_that_the_model_has_twice_is_refused(tmp_path):
    fill(tmp_path, *some("crane"), *some("apple"))
    with pytest.raises(DataError, match="crane: 2 classes have this name"):
        load(tmp_path, class_names=("crane", "apple", "crane"))


def test_names_need_not_be_text(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    fill(tmp_path, *some(name), *some("apple"))
    assert load(tmp_path, val_share=0.0).class_names == ("apple", name)


def test_a_class_that_is_a_link_to_the_root_or_to_another_is_refused(tmp_path):
    for target in (".", "apple"):
        root = tmp_path / f"to{target}"
        fill(root, *some("apple"), *some("banana"))
        (root / "all").symlink_to(target)
        with pytest.raises(DataError, match=r"all: the class has no image; .*read already"):
            load(root)


def test_a_root_is_a_folder_that_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "photos.tar.gz").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"photos\.tar\.gz is a file, expected a folder.*unpack it"):
        load(tmp_path / "photos.tar.gz")
    with pytest.raises(DataError, match=r"pipe is a file, expected a folder of images$"):
        load(tmp_path / "pipe")
    for missing in (tmp_path / "photos.tar.gz" / "x", "~nobody.has.this.name/photos"):
        with pytest.raises(InputMissingError, match="no such folder"):
            load(missing)
    fill(tmp_path, *some("home/photos/apple"), *some("home/photos/banana"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(load("~/photos", val_share=0.0)) == 8
    monkeypatch.chdir(tmp_path / "home")
    assert len(load("photos/", val_share=0.0)) == 8


@pytest.mark.parametrize(
    ("names", "clear"),
    [
        ([str(i) for i in range(10)], True),
        ([f"{i:02}" for i in range(12)], True),
        (["apple", "banana"], True),
        (["n01440764", "n01443537"], True),
        (["0", "1", "10", "2"], False),
        (["class 1", "class 10", "class 9"], False),
        (["0", "1", "2", "10"], True),  # no folders, which are sorted as texts
    ],
)
def test_an_order_is_clear_where_texts_and_numbers_agree(names, clear):
    assert order_is_clear(names) == clear


def test_weights_without_names_take_the_order_of_folders_only_where_it_is_clear(tmp_path):
    fill(tmp_path, *both("few/train", "few/val"))
    fill(tmp_path, *both("many/train", "many/val", tuple(map(str, range(11)))))
    assert note_on_order(load(tmp_path / "few")).endswith("outputs are taken for apple, banana")
    with pytest.raises(
        DataError, match=r"the folders are 0, 1, 10, 2, 3, \.\.\. as texts.*--labels"
    ):
        note_on_order(load(tmp_path / "many"))
