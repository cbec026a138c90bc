"""Write the report of a run: gather what it shows, and write it as one file."""

import functools
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from vit_jax.config import Data
from vit_jax.console.progress import say
from vit_jax.console.text import to_json
from vit_jax.console.workdir import open_path, write_text
from vit_jax.data.sources import Source
from vit_jax.errors import ConfigError
from vit_jax.evaluation.predictions import Predictions
from vit_jax.reporting.content import Content
from vit_jax.reporting.exhibits import listed, make_exhibit
from vit_jax.reporting.maps import Trained, map_images
from vit_jax.reporting.page import render
from vit_jax.reporting.run_folder import read_run_folder

FILE = "index.html"


class Shown(NamedTuple):
    """A set whose images a report shows."""

    predictions: Predictions
    source: Source


def check_directory(text: str, flag: str) -> epath.Path:
    """Return the directory of a report that a flag names, before there is anything to write.

    Args:
      text: The value of the flag.
      flag: The name of the flag, for error messages.

    Raises:
      ConfigError: There is a file with that path.
    """
    path = open_path(text, flag)
    if path.exists() and not path.is_dir():
        raise ConfigError(flag, f"expected a directory, got the file {text}")
    return path


def write_report(directory: epath.Path, content: Callable[[], Content]) -> None:
    """Write a report into a directory, on host 0.

    Args:
      directory: The directory of the report; it is made if there is none.
      content: Returns what the report shows.

    Raises:
      OSError: The file cannot be written.
    """
    if jax.process_index():
        return
    page = render(content())
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / FILE, page)
    say(f"report    {directory / FILE}")


def gather(
    workdir: epath.Path,
    reports: Sequence[Mapping[str, Any]],
    sets: Sequence[Shown],
    data: Data,
    trained: Trained,
) -> Content:
    """Return what a report shows of a run.

    Args:
      workdir: The folder of the run.
      reports: Results of one checkpoint, as in `evaluations/STEP-SET.json`, one for each set.
      sets: The sets to show in full; the name of their predictions is that of their analysis.
      data: How the model gets its images.
      trained: Returns the model that predicted them, and its variables.
    """
    documents = json.loads(to_json(list(reports)))  # NaN becomes null
    against = [document["against"] for document in documents if "against" in document]
    analyses = _merge(documents, "analysis")
    mapper = functools.partial(map_images, trained, data)
    exhibits = {}
    for predictions, source in sets:
        indices = listed(analyses[predictions.name], against)
        exhibits[predictions.name] = make_exhibit(predictions, source, data, indices, mapper)
    return Content(
        step=documents[0]["step"],
        results=_merge(documents, "eval"),
        analyses=analyses,
        against=against,
        folder=read_run_folder(workdir),
        other=read_run_folder(epath.Path(against[0]["other"])) if against else None,
        exhibits=exhibits,
        machine=describe_machine(),
        changed=documents[0].get("settings", {}),
    )


def _merge(documents: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Return what documents have under a key, by label."""
    return {label: of for document in documents for label, of in document.get(key, {}).items()}


def describe_machine() -> dict[str, str]:
    """Return what computes, by topic."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "hosts": str(jax.process_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "software": f"jax {jax.__version__}, Python {platform.python_version()}",
    }
