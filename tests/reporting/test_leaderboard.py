"""Runs are ranked among those on the same images; the page shows them, escaped."""

import re
from html.parser import HTMLParser

import pytest
from etils import epath
from run_folders import write_run
from scipy.stats import binomtest

from vit_jax.reporting.leaderboard import conclude, leaderboard
from vit_jax.reporting.ranking import rank
from vit_jax.reporting.run_columns import COLUMNS
from vit_jax.reporting.runs import read_run

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture
def ranked(tmp_path):
    """Returns a function from accuracies of runs to their ranking; more arguments for one run."""

    def make(*accuracies, **one):
        runs = []
        for i, test in enumerate(accuracies):
            folder = write_run(tmp_path / f"r{i}", test=test)
            runs.append(read_run(epath.Path(folder), f"r{i}"))
        if one:
            folder = write_run(tmp_path / "one", **one)
            runs.append(read_run(epath.Path(folder), "one"))
        return rank(runs)

    return make


def test_overlapping_intervals_are_not_distinguishable(ranked):
    """Of 360 images, 98.9 % is 97.2 to 99.6 %, 97.2 % is 95.0 to 98.5 %, 95 % is 92.2 to 96.8 %."""
    (ranking,), others = ranked(342 / 360, 356 / 360, 350 / 360)
    assert [(entry.run.name, entry.standing) for entry in ranking.entries] == [
        ("r1", "best"),
        ("r2", "not distinguishable from the best"),
        ("r0", "behind the best"),
    ]
    assert ranking.title == "digits, test, 360 images" and not others
    assert conclude(ranking) == (
        "r1 has the highest top-1 accuracy; 1 other run is not distinguishable from the best."
    )


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ([0.9], "r0 is the only run on these images."),
        ([0.9, 0.9], "2 runs share the highest top-1 accuracy."),
        ([0.9, 0.5], "r0 has the highest top-1 accuracy; the interval of no other run overlaps"),
        ([0.9, 0.89, 0.88], "2 other runs are not distinguishable"),
    ],
)
def test_the_conclusion(ranked, accuracies, sentence):
    (ranking,), _ = ranked(*accuracies)
    assert sentence in conclude(ranking)


@pytest.mark.parametrize(
    ("one", "title"),
    [
        ({"val": 0.99}, "digits, val (train[90%:]), 144 images"),
        ({"test": 0.99, "settings": {"data.name": "mnist"}}, "mnist, test, 360 images"),
        (
            {"test": 0.99, "settings": {"data.test_split": "test[:9]"}},
            "digits, test (test[:9]), 360",
        ),
    ],
)
def test_runs_on_other_images_are_not_compared(ranked, one, title):
    rankings, _ = ranked(0.9, 0.91, **one)
    assert [len(ranking.entries) for ranking in rankings] == [2, 1]
    assert rankings[1].title.startswith(title)
    assert rankings[1].entries[0].standing == "the only run on these images"
    assert rankings[0].entries[0].standing == "best"


class Elements(HTMLParser):
    """Collects the cells of table rows, and their keys."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.keys = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
            self.keys.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.keys[-1].append(dict(attrs).get("data-key"))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_table_has_all_runs_with_the_keys_that_sort_them(ranked):
    rankings, others = ranked(0.9, 0.95, results="{")
    page = leaderboard(rankings, others)
    found = Elements(page)
    assert found.rows[0] == [column.title for column in COLUMNS]
    assert [row[0] for row in found.rows[1:]] == ["r1", "r0", "one"]
    at = found.rows[0].index("test top-1")
    low, high = binomtest(342, 360).proportion_ci(method="wilson")
    assert found.rows[1][at] == f"95.00 %{100 * low:.2f} % to {100 * high:.2f} %"
    assert found.keys[1][at] == "0.95" and found.keys[3][at] is None
    assert "results.json: not valid JSON" in found.rows[3][-1]
    assert page.count('class="mark"') == 2
    assert "3 runs, 1 without a top-1 accuracy" in page


def test_text_of_strangers_is_escaped(ranked, tmp_path):
    settings = {"model.name": HOSTILE, "data.name": HOSTILE, "data.test_split": HOSTILE}
    rankings, others = ranked(test=0.9, settings=settings)
    broken = write_run(tmp_path / "broken", results=[HOSTILE])
    _, more = rank([read_run(epath.Path(broken), HOSTILE)])
    page = leaderboard(rankings, [*others, *more])
    assert "alert(1)" in page and "<script>alert" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
