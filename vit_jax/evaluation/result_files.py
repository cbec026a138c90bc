"""The files of results in the folder of a run: `evaluations/STEP-NAME.json`."""

import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from vit_jax.console.progress import say, warn
from vit_jax.console.workdir import is_local, write_json


def write_result(workdir: epath.Path, step: int, name: str, report: Mapping[str, Any]) -> None:
    """Write a result into the folder of a run, unless it is read-only or links out of it.

    Args:
      workdir: The run folder.
      step: The step of the checkpoint.
      name: What was measured, such as the name of a set. Other characters than letters and digits
        become `_`.
      report: The result, as plain JSON.
    """
    stem = "".join(c if c.isalnum() or c == "-" else "_" for c in name)
    path = workdir / "evaluations" / f"{step}-{stem}.json"
    if is_local(path) and os.path.islink(path.parent):
        warn(f"{path.parent} is a link out of the run; the metrics are not written")
        return
    try:
        write_json(path, report)
        say(f"written   {path}")
    except OSError as error:
        say(f"note      {path} is not written: {error.strerror or error}")
