"""Folders of runs as a training leaves them, with the figures that a test asks for."""

import copy
import json

CONFIG = {
    "total_steps": 2000,
    "total_epochs": 0.0,
    "model": {"name": "vit_mu4"},
    "data": {
        "name": "digits",
        "root": "",
        "image_size": [16, 16],
        "val_split": "train[90%:]",
        "test_split": "test",
    },
}


def make_result(top1, count=360, **others):
    return {"top1": top1, "top5": 1.0, "loss": 0.02, "count": count, "skipped": 0, **others}


def write_run(folder, test=None, val=None, *, settings=None, results=None, name="results.json"):
    """Writes `config.json` and results: those on test and val, or the content that is given.

    Args:
      folder: The folder of the run, which is made.
      test: The top-1 accuracy on 360 test images.
      val: The top-1 accuracy on 144 validation images.
      settings: Settings other than in `CONFIG`, by path.
      results: The content of the file, as JSON or as text, instead.
      name: The file of the results.
    """
    config = copy.deepcopy(CONFIG)
    for path, value in (settings or {}).items():
        *sections, key = path.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[key] = value
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if results is None:
        scores = {"val": (val, 144), "test": (test, 360)}
        results = {
            "step": 2000,
            "eval": {
                label: make_result(top1, count)
                for label, (top1, count) in scores.items()
                if top1 is not None
            },
            "parameters": 136906,
            "train_seconds": 32.78,
            "goodput": {"goodput": 0.8805},
        }
    path.write_text(results if isinstance(results, str) else json.dumps(results))
    return folder
