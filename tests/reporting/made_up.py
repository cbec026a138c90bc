"""A report of a run that never was: its document, its folder and its pictures."""

import json

import numpy as np
from etils import epath

from vit_jax.reporting.content import Content, Exhibit, Projection, Thumbnail
from vit_jax.reporting.run_folder import read_run_folder

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def curve(rng):
    counts = rng.integers(0, 9, 15)
    means = [None if n == 0 else (i + 0.5) / 15 for i, n in enumerate(counts)]
    edges = np.linspace(0, 1, 16).tolist()
    return {"edges": edges, "counts": counts.tolist(), "confidence": means, "accuracy": means}


def analysis(num_classes=4, *, label="test", weights="", names=(), mistakes=3, temperature=True):
    """Returns an analysis of random predictions, as in the files of evaluate."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 3, (num_classes, num_classes)) + 9 * np.eye(num_classes, dtype=int)
    names = [*names, *(f"class {i}" for i in range(num_classes))][:num_classes]
    pairs = [
        {"label": i, "predicted": j, "count": int(matrix[i, j]), "share": 0.1}
        for i, j in [(0, 1), (1, 0)]
    ]
    images = [
        {"index": 7 * i, "id": f"{label}[{7 * i}]", "label": i % num_classes,
         "predicted": (i + 1) % num_classes, "probability": 0.9, "label_probability": 0.05}
        for i in range(mistakes)
    ]  # fmt: skip
    figure = {"value": 0.9, "low": 0.8, "high": 0.95}
    scaled = {"value": 1.5, "fitted_on": "val", "count": 9, "loss": figure, "ece": figure}
    return {
        "set": label, "title": f"made up:{label}", "weights": weights, "step": 20,
        "count": int(matrix.sum()), "skipped": 1, "not_finite": 0, "class_names": names,
        "fingerprint": {"name": "made up", "examples": int(matrix.sum())},
        "metrics": {
            "top1": {**figure, "method": "wilson"},
            "loss": {"value": 0.25, "low": 0.2, "high": 0.3, "method": "bca"},
            "ece": {"value": 0.02, "low": None, "high": None, "method": "bca"},
        },
        "reliability": curve(rng),
        "temperature": {**scaled, "reliability": curve(rng)} if temperature else None,
        "classes": [
            {"name": name, "count": int(row.sum()), "predicted": int(column.sum()),
             "precision": 0.5, "recall": float(row[i] / row.sum()), "f1": 0.5,
             "low": 0.1, "high": 0.9}
            for i, (name, row, column) in enumerate(zip(names, matrix, matrix.T, strict=True))
        ],
        "confusion": [[i, j, int(n)] for (i, j), n in np.ndenumerate(matrix) if n],
        "confused_pairs": pairs,
        "mistakes": images,
        "uncertain": images,
    }  # fmt: skip


def exhibit(number=12, num_classes=4):
    """Returns pictures with maps, and features in the plane."""
    rng = np.random.default_rng(0)
    projection = Projection(
        points=rng.normal(size=(number, 2)),
        explained_variance_ratio=np.array([0.5, 0.25]),
        labels=np.arange(number) % num_classes,
        predicted=np.arange(number) % num_classes,
        ids=tuple(f"test[{i}]" for i in range(number)),
        total=10 * number,
    )
    thumbnails = {i: Thumbnail(PIXEL, PIXEL, is_small=True) for i in range(0, 140, 7)}
    return Exhibit(thumbnails, "Maps of nothing.", projection)


def against(differing=2):
    metrics = {"top1": {"value": 0.9, "low": 0.8, "high": 0.95}}
    images = [
        {"index": 7 * i, "id": f"test[{7 * i}]", "label": 0, "first": 0, "second": 1}
        for i in range(differing)
    ]
    return {
        "other": "runs/other", "set": "test", "count": 40, "first": metrics, "second": metrics,
        "both": 30, "first_only": 4, "second_only": 2, "neither": 4,
        "mcnemar": {"p": 0.6875, "method": "exact"},
        "difference": {"value": 0.05, "low": -0.1, "high": 0.2}, "differing": images,
    }  # fmt: skip


def write_folder(directory, *, rows=30, rate=0.1):
    """Writes the files of a run that a report reads."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    steps = range(1, rows + 1)
    lines = [{"step": i, "loss": 3.0 / i, "learning_rate": rate} for i in steps]
    lines += [{"step": i, "val/top1": 1 - 1 / i, "val/count": 9} for i in range(10, rows + 1, 10)]
    goodput = {"goodput": 0.8, "attempts": 2, "seconds": {"steps": 80.0, "start": 20.0}}
    config = {"seed": 0, "optim": {"learning_rate": rate, "betas": [0.9, 0.99]}}
    files = {
        "config.json": config,
        "origins.json": {"seed": "default", "optim.learning_rate": "flag"},
        "goodput.json": goodput,
        "results.json": {"parameters": 1234, "train_seconds": 80.0},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return directory


def content(directory, analyses=None, **changes):
    """Returns what a report of the made-up run shows."""
    analyses = {"test": analysis()} if analyses is None else analyses
    made = Content(
        step=20,
        results={},
        analyses=analyses,
        against=[],
        folder=read_run_folder(write_folder(directory)),
        other=None,
        exhibits={label: exhibit() for label in analyses},
        machine={"devices": "1 x cpu"},
    )
    return made._replace(**changes)
