"""The page of a report: its sections, in order."""

from collections.abc import Mapping
from typing import Any

from vit_jax.reporting.content import Content, Exhibit
from vit_jax.reporting.frame import frame
from vit_jax.reporting.markup import EMPTY, Markup, join, tag
from vit_jax.reporting.numbers import count
from vit_jax.reporting.sections import provenance
from vit_jax.reporting.sections.calibration import calibration
from vit_jax.reporting.sections.classes import confusion, recall_bars
from vit_jax.reporting.sections.comparison import comparison
from vit_jax.reporting.sections.curves import curves
from vit_jax.reporting.sections.features import features
from vit_jax.reporting.sections.images import gallery
from vit_jax.reporting.sections.metrics import headline, plain_results, side_by_side

Sections = dict[str, tuple[str, Markup]]


def render(content: Content) -> str:
    """Return a report as one HTML file.

    Args:
      content: What it shows.
    """
    analyses = content.analyses
    sections: Sections = {"summary": ("Summary", _summary(content))}
    if content.against:
        sections["comparison"] = ("Two runs", comparison(content))
    if content.folder.curves:
        sections["curves"] = ("Curves", curves(content))
    for i, (label, analysis) in enumerate(_detailed(analyses).items()):
        shown = _set(f"set-{i}", analysis, content.exhibits.get(label))
        sections[f"set-{i}"] = (f"Set {label}", shown)
    sections["run"] = ("Run", _run(content))
    return frame(content.folder.name, _describe(content), sections)


def _describe(content: Content) -> str:
    """Return one line about the checkpoint and the images."""
    sets = [f"{count(a['count'])} images of {a['title']}" for a in content.analyses.values()]
    return "; ".join([f"Step {count(content.step)}", *dict.fromkeys(sets)])


def _summary(content: Content) -> Markup:
    """Return the metrics of the first set as headline, and those of all sets side by side."""
    analyses, parts = content.analyses, []
    if analyses:
        label, first = next(iter(_detailed(analyses).items()))
        parts += [tag("h3", f"Set {label}"), headline(first)]
    if content.changed:
        text = f"Not with the settings of the run: {', '.join(content.changed)}; see below."
        parts.append(tag("p", text))
    if len(analyses) > 1:
        columns = {label: analysis["metrics"] for label, analysis in analyses.items()}
        parts.append(side_by_side("All sets, with 95 % intervals", columns))
    if content.results.keys() - analyses.keys():
        parts.append(plain_results(content.results))
    return join(parts)


def _detailed(analyses: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the analyses to show in full: raw weights only where there is no average of them."""
    averaged = {analysis["set"] for analysis in analyses.values() if analysis["weights"] == "ema"}
    return {
        label: analysis
        for label, analysis in analyses.items()
        if analysis["weights"] != "raw" or analysis["set"] not in averaged
    }


def _set(id_: str, analysis: Mapping[str, Any], exhibit: Exhibit | None) -> Markup:
    """Return all about one set."""
    names = analysis["class_names"]
    columns = {"Calibration": calibration(analysis), "Classes": recall_bars(analysis)}
    blocks = [tag("div", tag("h3", title), shown) for title, shown in columns.items()]
    parts = [tag("p", _about(analysis)), tag("div", *blocks, class_="columns")]
    parts += [tag("h3", "Confusion"), confusion(analysis)]
    maps = tag("p", exhibit.about_maps, class_="note") if exhibit else EMPTY
    mistakes, uncertain = analysis["mistakes"], analysis["uncertain"]
    parts.append(tag("h3", "Worst mistakes"))
    if mistakes:
        order = "The highest probability of a wrong class first."
        parts += [tag("p", order, class_="note"), maps, gallery(mistakes, names, exhibit)]
    else:
        parts.append(tag("p", _why_no_mistakes(analysis)))
    parts.append(tag("h3", "Least certain images"))
    order = "The smallest margin between the two most probable classes first."
    parts += [tag("p", order, class_="note"), EMPTY if mistakes else maps]
    parts.append(gallery(uncertain, names, exhibit))
    if exhibit and exhibit.projection:
        chart = features(f"{id_}-features", exhibit.projection, names)
        parts += [tag("h3", "Features"), chart]
    return join(parts)


def _why_no_mistakes(analysis: Mapping[str, Any]) -> str:
    broken = analysis["not_finite"]
    if broken:
        return f"None but {count(broken)} by outputs that are not finite, which have no class."
    return "There are none."


def _about(analysis: Mapping[str, Any]) -> str:
    weights = {"ema": "moving average of the weights", "raw": "raw weights"}
    words = [analysis["title"], f"{count(analysis['count'])} images"]
    if analysis["skipped"]:
        words.append(f"{count(analysis['skipped'])} unreadable ones left out")
    if analysis["not_finite"]:
        words.append(f"{count(analysis['not_finite'])} wrong by outputs that are not finite")
    words.append(f"step {count(analysis['step'])}")
    return ", ".join([*words, *filter(None, [weights.get(analysis["weights"], "")])]) + "."


def _run(content: Content) -> Markup:
    """Return where the result comes from."""
    folder, analyses = content.folder, content.analyses
    boxes = [provenance.time(folder), provenance.machine(content)]
    parts = [tag("h3", "Hardware and time"), tag("div", *boxes, class_="charts")]
    if analyses:
        parts += [tag("h3", "Data"), provenance.data(analyses.values())]
    settings = [provenance.changed_settings(content), provenance.settings(folder)]
    return join([*parts, tag("h3", "Settings"), *settings])
