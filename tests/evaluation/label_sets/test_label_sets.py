"""Label sets choose columns of the logits and map labels; brute force over images agrees."""

import json
import sys

import numpy as np
import pytest

from vit_jax.errors import ConfigError, DataError, InputMissingError
from vit_jax.evaluation import label_sets
from vit_jax.evaluation.label_sets.published import imagenet_classes
from vit_jax.evaluation.predictions import Predictions

ANIMALS = ("cat", "dog", "wolf", "lion", "cow")
WORDNET = imagenet_classes()
HUMAN = tuple(f"thing {i}" for i in range(1000))  # class names of a model, such as `tench`


def predict(labels, class_names, ids=None):
    """Returns predictions with random logits for images of the given labels."""
    count = len(labels)
    generator = np.random.default_rng(0)
    return Predictions(
        name="test",
        title="photos",
        ids=tuple(ids or (f"photos[{i}]" for i in range(count))),
        indices=np.arange(count) * 2,
        labels=np.array(labels, np.int32),
        logits=generator.normal(size=(count, len(class_names))).astype(np.float32),
        features=generator.normal(size=(count, 3)).astype(np.float32),
        class_names=tuple(class_names),
        loss="softmax",
        skipped=0,
    )


def of_file(tmp_path, content, name="labels.txt"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return label_sets.find_label_set(str(path))


@pytest.fixture
def timm(tmp_path, monkeypatch):
    """A package that has two lists, and cannot be imported."""
    lists = tmp_path / "site" / "timm" / "data" / "_info"
    lists.mkdir(parents=True)
    (tmp_path / "site" / "timm" / "__init__.py").write_text("raise ImportError")
    (lists / "imagenet_a_synsets.txt").write_text(f"{WORDNET[6]}\n{WORDNET[11]}\n")
    (lists / "imagenet_real_labels.json").write_text("[[], [970, 795], [6], [11, 6]]")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "timm", raising=False)


def test_a_subset_keeps_its_columns_and_its_images(tmp_path):
    label_set = of_file(tmp_path, "wolf\n\ncat\n")
    match = label_sets.match(label_set, ANIMALS, ANIMALS)
    before = predict([0, 1, 2, 3, 4, 2, 0], ANIMALS)
    after = label_sets.apply(before, match)
    assert (after.class_names, after.also_correct) == (("wolf", "cat"), None)
    assert after.labels.tolist() == [1, 0, 0, 1]
    assert after.indices.tolist() == [0, 4, 10, 12]
    assert after.ids == tuple(before.ids[i] for i in (0, 2, 5, 6))
    np.testing.assert_array_equal(after.logits, before.logits[[0, 2, 5, 6]][:, [2, 0]])
    np.testing.assert_array_equal(after.features, before.features[[0, 2, 5, 6]])
    assert before.class_names == ANIMALS  # pure
    assert match.notes[-1].endswith("3 classes of the data set: dog, lion, cow")


def test_a_file_of_50_of_the_1000_classes(tmp_path):
    chosen = WORDNET[::20]
    match = label_sets.match(of_file(tmp_path, "\n".join(chosen)), chosen, HUMAN)
    assert [column for (column,) in match.columns] == list(range(0, 1000, 20))
    assert match.class_names == HUMAN[::20]
    assert match.labels.tolist() == list(range(50))
    assert "order of ImageNet's WordNet ids" in match.notes[1]


def test_a_class_that_stands_for_several_has_the_largest_of_their_logits(tmp_path):
    given = {"canine": ["dog", 2], "feline": ["cat", "lion"], "chair": []}
    match = label_sets.match(of_file(tmp_path, given, "a.json"), tuple(sorted(given)), ANIMALS)
    before = predict([0, 1, 2, 2, 0], ANIMALS)  # canine, chair, feline
    after = label_sets.apply(before, match)
    assert after.class_names == ("canine", "feline")
    assert after.labels.tolist() == [0, 1, 1, 0]
    for row, index in enumerate((0, 2, 3, 4)):
        dog, wolf, cat, lion = before.logits[index, [1, 2, 0, 3]]
        assert after.logits[row].tolist() == [max(dog, wolf), max(cat, lion)]
        largest = max(range(4), key=before.logits[index].__getitem__)  # cow is none of the classes
        assert after.predicted_outputs[row] == largest


def test_classes_of_the_data_set_by_name_need_no_list():
    label_set = label_sets.find_label_set("by_name")
    match = label_sets.match(label_set, ("lion", "cat"), ANIMALS)
    assert (match.class_names, match.columns) == (("lion", "cat"), ((3,), (0,)))
    assert match.labels.tolist() == [0, 1]


@pytest.mark.parametrize("of_model", [HUMAN, WORDNET], ids=["human names", "WordNet ids"])
@pytest.mark.parametrize(
    "of_data", [WORDNET, (WORDNET[11], WORDNET[6]), ("11", "3", "6"), (HUMAN[6],)], ids=len
)
def test_a_published_subset_takes_ids_numbers_and_the_names_of_the_model(timm, of_data, of_model):
    label_set = label_sets.find_label_set("imagenet_a")
    if of_data[0] in HUMAN and of_model is WORDNET:
        with pytest.raises(ConfigError, match=r"'thing 6' of the data set is no class of imagenet"):
            label_sets.match(label_set, of_data, of_model)
        return
    match = label_sets.match(label_set, of_data, of_model)
    assert match.columns == ((6,), (11,))
    expected = {WORDNET[6]: 0, "6": 0, HUMAN[6]: 0, WORDNET[11]: 1, "11": 1}
    assert match.labels.tolist() == [expected.get(name, -1) for name in of_data]


def test_a_model_of_more_classes_is_matched_by_wordnet_ids(timm):
    of_model = ("n99999999", *reversed(WORDNET), "n99999998")
    match = label_sets.match(label_sets.find_label_set("imagenet_a"), WORDNET, of_model)
    assert [of_model[column] for (column,) in match.columns] == [WORDNET[6], WORDNET[11]]


def test_real_labels_leave_out_images_without_a_correct_class(timm):
    match = label_sets.match(label_sets.find_label_set("imagenet2012_real"), WORDNET, HUMAN)
    numbers = (3, 1, 2, 4)
    ids = [f"/data/val/n0/ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]
    after = label_sets.apply(predict([6, 5, 970, 7], HUMAN, ids), match)
    assert after.ids == (ids[0], ids[2], ids[3])
    assert after.labels.tolist() == [6, 970, 6]  # the label, unless it is wrong
    assert [np.flatnonzero(row).tolist() for row in after.also_correct] == [
        [6],
        [795, 970],
        [6, 11],
    ]
    by_index = {0: ids[0], 2: ids[1], 4: ids[2], 6: ids[3]}
    again = label_sets.apply(predict([6, 5, 970, 7], HUMAN), match, by_index.__getitem__)
    assert again.labels.tolist() == [6, 970, 6]
    with pytest.raises(DataError, match=r"by number; expected .*val_00000001.JPEG, got 'photos\[0"):
        label_sets.apply(predict([6], HUMAN), match)
    with pytest.raises(DataError, match=r"got 'ILSVRC2012_val_00000005"):
        label_sets.apply(predict([6], HUMAN, ["ILSVRC2012_val_00000005.JPEG"]), match)


def test_a_file_has_the_correct_classes_of_each_image(tmp_path, timm):
    given = of_file(tmp_path, [[], [970, 795], [6], [11, 6]], "real.json")
    published = label_sets.find_label_set("imagenet2012_real")
    assert given.correct == published.correct
    assert dict(given.classes) == dict(published.classes)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("cat\ndog\ncat", "a.txt", "'cat' is there twice"),
        ("\n", "a.txt", "no class"),
        ('{"a": "cat", "a": "dog"}', "a.json", "duplicate key 'a'"),
        ({"a": {"b": 1}}, "a.json", "'a' has no classes of the model"),
        ({"a": [True]}, "a.json", "'a' has no classes of the model"),
        ([[1], [1000]], "a.json", "entry 2 is no list of classes from 0 to 999"),
        ("{", "a.json", "not valid JSON"),
        ({}, "a.json", "expected a class of the model on each line"),
    ],
)
def test_a_file_that_is_no_label_set_is_refused(tmp_path, content, name, message):
    with pytest.raises(ConfigError) as error:
        of_file(tmp_path, content, name)
    assert str(error.value).startswith(f"--label_set: {tmp_path / name}: ")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "of_data", "message"),
    [
        ("cat\nwlof", ANIMALS, "the model has no class 'wlof'; did you mean 'wolf'?"),
        ("cat\n0", ANIMALS, "'cat' and '0' stand for the same class of the model (0)"),
        ("cat\n5", ANIMALS, "the model has no class '5'; there are cat, dog, wolf, lion, cow"),
        ("cat", ("cat", "unicorn"), "'unicorn' of the data set is no class of a.txt or of the mo"),
        ("cat", ("cow", "lion"), "a.txt has no class of the data set, cow, lion"),
    ],
)
def test_a_label_set_that_does_not_fit_is_refused(tmp_path, content, of_data, message):
    with pytest.raises(ConfigError) as error:
        label_sets.match(of_file(tmp_path, content, "a.txt"), of_data, ANIMALS)
    assert str(error.value).startswith(f"--label_set: {message}")


def test_an_unknown_label_set_and_a_missing_list_are_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"unknown 'imagenet_aa'.*did you mean 'imagenet_a'\?"):
        label_sets.find_label_set("imagenet_aa")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputMissingError, match=r"imagenet_r needs imagenet_r_synsets.txt of the"):
        label_sets.find_label_set("imagenet_r")
    assert len(label_sets.find_label_set("imagenet_v2").classes) == 1000  # needs no list


def test_a_set_without_an_image_of_the_classes_is_refused(tmp_path):
    match = label_sets.match(of_file(tmp_path, "cow"), ANIMALS, ANIMALS)
    with pytest.raises(DataError, match=r"photos: no image has a class of labels.txt"):
        label_sets.apply(predict([0, 1], ANIMALS), match)
