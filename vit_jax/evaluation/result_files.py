"""The files of results in the folder of a run: `evaluations/STEP-NAME.json`."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.console.progress import say, warn
from vit_jax.console.text import to_json
from vit_jax.console.workdir import EVALUATIONS, is_local, write_json


def write_result(workdir: epath.Path, step: int, name: str, report: Mapping[str, Any]) -> None:
    """Write a result into the folder of a run, unless it is read-only or links out of it.

    Args:
      workdir: The run folder.
      step: The step of the checkpoint.
      name: What was measured, such as the name of a set. Other characters than letters and digits
        become `_`.
      report: The result, as plain JSON. If it has `settings` other than those of the run, or the
        name has a path, a digest of both is part of the name of the file.
    """
    stem = "".join(c if c.isalnum() or c == "-" else "_" for c in name)
    if (settings := report.get("settings")) or "/" in name:
        stem += "-" + hashlib.sha256(to_json([name, settings]).encode()).hexdigest()[:8]
    path = workdir / EVALUATIONS / f"{step}-{stem}.json"
    if is_local(path) and os.path.islink(path.parent):
        warn(f"{path.parent} is a link out of the run; the metrics are not written")
        return
    try:
        write_json(path, report)
        say(f"written   {path}")
    except OSError as error:
        say(f"note      {path} is not written: {error.strerror or error}")
