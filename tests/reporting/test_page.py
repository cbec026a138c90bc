"""The page of a report: everything that its document holds, and nothing that it could run."""

import re
from html.parser import HTMLParser

import pytest
from made_up import against, analysis, content, write_folder

from vit_jax.reporting.page import render
from vit_jax.reporting.run_folder import read_run_folder
from vit_jax.reporting.sections.classes import MAX_CLASSES, classes_to_show

HOSTILE = '"><script>alert(1)</script>'


class Outline(HTMLParser):
    """Collects ids, headings, pictures and scripts, and checks that elements are closed."""

    VOID = ("br", "img", "link", "meta")

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.headings, self.images, self.scripts = [], [], [], [], 0
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.images += [attributes] if tag == "img" else []
        self.scripts += tag == "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_headings_are_in_order_and_ids_are_unique(tmp_path):
    sets = {"val": analysis(label="val"), "test": analysis()}
    outline = Outline(render(content(tmp_path, sets)))
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    pairs = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in pairs)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.images and all(image["alt"] for image in outline.images)


def test_figures_have_their_intervals(tmp_path):
    page = render(content(tmp_path))
    assert "<dt>Top-1 accuracy</dt><dd>90.00 %</dd><dd>80.00 % to 95.00 %</dd>" in page
    assert "<dt>Expected calibration error</dt><dd>2.00 %</dd></div>" in page


def test_names_from_files_are_text(tmp_path):
    names = (HOSTILE, "plain")
    made = analysis(names=names)
    made["mistakes"][0]["id"] = HOSTILE
    made["title"] = made["fingerprint"]["name"] = HOSTILE
    compared = {**against(), "set": HOSTILE, "mcnemar": {"p": 0.5, "method": HOSTILE}}
    shown = content(tmp_path / "run", {HOSTILE: made}, against=[compared])
    folder = shown.folder._replace(
        name=HOSTILE,
        settings={HOSTILE: HOSTILE},
        origins={HOSTILE: HOSTILE},
        curves={f"{HOSTILE}/top1": shown.folder.curves["loss"], **shown.folder.curves},
    )
    results = {HOSTILE: {HOSTILE: 1.0}}
    machine = {HOSTILE: HOSTILE}
    shown = shown._replace(folder=folder, other=folder, machine=machine, results=results)
    page = render(shown._replace(changed={HOSTILE: HOSTILE}))
    assert Outline(page).scripts == 1
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") > 20


def test_many_classes_are_shown_by_the_worst(tmp_path):
    made = analysis(1000)
    page = render(content(tmp_path, {"test": made}))
    assert "The 40 of 1,000 classes with the most mistakes." in page
    (matrix,) = re.findall(r'<table class="matrix">.*?</table>', page)
    assert matrix.count('scope="row"') == matrix.count('scope="col"') == MAX_CLASSES
    ranked = sorted(entry["recall"] for entry in made["classes"])
    for title, recall in (("worst", ranked[0]), ("best", ranked[-1])):
        (chart,) = re.findall(f'aria-label="Recall of the 20 {title} classes".*?</svg>', page)
        found = re.findall(r'class="mark" role="img"[^>]*aria-label="[^,]*, ([\d.]+) %', chart)
        assert len(found) == 20 and float(found[0]) == pytest.approx(100 * recall, abs=0.005)


def test_the_classes_to_show_are_those_in_most_mistakes():
    counts = {(i, i): 100 for i in range(50)} | {(i, i + 1): 1 for i in range(0, 48, 2)}
    counts |= {(49, 3): 5}
    shown = classes_to_show(counts, 50)
    assert len(shown) == MAX_CLASSES and {3, 49} <= set(shown) and 48 not in shown


def test_two_runs_are_side_by_side(tmp_path):
    other = read_run_folder(write_folder(tmp_path / "other", rate=0.2))
    page = render(content(tmp_path / "run", other=other, against=[against()]))
    assert "+5.00 points (95 % interval -10.00 to +20.00, paired bootstrap)" in page
    assert "p = 0.6875" in page
    row = '<th scope="row">optim.learning_rate</th><td>0.1</td><td>0.2</td>'
    assert row in page
    assert page.count('<th scope="row">seed</th>') == 1  # among all settings, not those that differ
    assert "Images on which only one is right: 2 of 6" in page


def test_raw_weights_are_in_the_table_and_shown_in_full_only_without_an_average(tmp_path):
    sets = {"test": analysis(weights="ema"), "test_raw": analysis(weights="raw")}
    page = render(content(tmp_path, sets))
    assert '<th scope="col" class="number">test_raw</th>' in page
    assert "Set test</h2>" in page and "Set test_raw</h2>" not in page
    alone = render(content(tmp_path, {"test_raw": sets["test_raw"]}))
    assert "Set test_raw</h2>" in alone


def test_settings_have_their_origin(tmp_path):
    page = render(content(tmp_path))
    assert '<th scope="row">optim.learning_rate</th><td>0.1</td><td>flag</td>' in page
    assert "All 3 settings" in page


def test_a_report_without_analysis_has_the_results(tmp_path):
    page = render(content(tmp_path, {}, results={"val": {"score": 0.5, "count": 9}}))
    assert '<th scope="row">score</th><td class="number">0.5</td>' in page


def test_a_folder_without_documents_gives_an_empty_run(tmp_path):
    folder = read_run_folder(write_folder(tmp_path).parent / "none")
    assert (folder.settings, folder.curves, folder.goodput) == ({}, {}, {})
    page = render(content(tmp_path)._replace(folder=folder))
    assert "Curves</h2>" not in page and "Time of the run" not in page


def test_what_the_metrics_file_says_twice_counts_once(tmp_path):
    folder = write_folder(tmp_path)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "loss": 7.0, "bad": null}\n{"step": 31, "loss": NaN}\n')
    curve = read_run_folder(folder).curves["loss"]
    assert curve.steps[-1] == 30 and curve.values[-1] == 7.0


def test_other_settings_than_those_of_the_run_are_told(tmp_path):
    page = render(content(tmp_path, changed={"seed": 7}))
    assert "Not with the settings of the run: seed; see below." in page
    assert "<td>0</td><td>7</td>" in page.replace(' class="number"', "")
    assert "that are not those of the run" not in render(content(tmp_path))


def test_wrong_images_without_a_class_are_told(tmp_path):
    broken = {**analysis(), "mistakes": [], "not_finite": 9}
    assert "None but 9 by outputs that are not finite" in render(
        content(tmp_path, {"test": broken})
    )
