"""The table of predictions has a row for each image, in the words of the classes."""

import numpy as np

from vit_jax.evaluation.analysis import analyse
from vit_jax.evaluation.prediction_table import columns, join
from vit_jax.evaluation.predictions import Predictions
from vit_jax.evaluation.summary import describe

LOGITS = np.float32([[0, 2, 1], [3, 0, 0], [np.nan, 0, 0], [0, 0, 4]])
PREDICTIONS = Predictions(
    name="test",
    title="made up",
    ids=("a.png", "b.png", "c.png", "d.png"),
    indices=np.array([0, 1, 3, 4]),
    labels=np.array([1, 2, 0, 2]),
    logits=LOGITS,
    features=LOGITS,
    class_names=("cat", "dog", "owl"),
    loss="softmax",
    skipped=1,
)


def test_rows_say_what_was_predicted():
    found = join([columns(PREDICTIONS), columns(PREDICTIONS._replace(name="val"))])
    assert found["set"].tolist() == 4 * ["test"] + 4 * ["val"]
    first = {name: column[:4] for name, column in found.items()}
    assert first["id"].tolist() == ["a.png", "b.png", "c.png", "d.png"]
    assert first["index"].tolist() == [0, 1, 3, 4]
    assert first["label_name"].tolist() == ["dog", "owl", "cat", "owl"]
    assert first["predicted"].tolist() == [1, 0, -1, 2]
    assert first["predicted_name"].tolist() == ["dog", "cat", "", "owl"]
    assert first["correct"].tolist() == [True, False, False, True]
    np.testing.assert_allclose(first["loss"][0], np.log(1 + np.exp(-1) + np.exp(-2)), rtol=1e-6)
    assert np.isnan(first["loss"][2])


def test_fewer_than_five_classes_are_filled():
    found = columns(PREDICTIONS)
    assert found["top5"].tolist()[0] == [1, 2, 0, -1, -1]
    shares = np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    np.testing.assert_allclose(found["top5_probability"][0], [*shares, np.nan, np.nan], rtol=1e-6)


def test_the_lines_of_an_analysis_name_confused_classes_and_broken_outputs():
    lines = list(describe(analyse(PREDICTIONS)))
    assert lines[1:] == [
        "          most confused: owl as cat (1 of 2)",
        "note      outputs are not finite for 1 of 4 images, which count as wrong",
    ]
    assert lines[0].startswith(f"{'':10}top-5 [30.1, 95.4]  loss [undefined]  balanced accuracy 50")
