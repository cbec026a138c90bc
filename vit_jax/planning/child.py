"""The process that compiles: it writes what it finds to a folder, and is ended from outside.

Its module reads a request from stdin, as one line of JSON, and ends when stdin is closed. XLA dumps
the program to the folder of the request. There is no switch to stop XLA before it generates code,
so the parent ends this process once the dump is complete.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
from typing import Any

import jax
from etils import epath

from vit_jax.config.resolution import read_config
from vit_jax.console.imports import import_modules
from vit_jax.console.workdir import write_json
from vit_jax.errors import ConfigError, UserError
from vit_jax.planning import cudnn, facts, lowering, topologies
from vit_jax.planning.declared import declare
from vit_jax.training.run import open_run

ERROR = "error.json"
FACTS = "facts.json"


def main() -> int:
    """Compile the step of a request, and return the exit code."""
    request = json.loads(sys.stdin.readline())
    folder = epath.Path(request["folder"])
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        _compile(folder, request)
    except UserError as error:
        path = error.path if isinstance(error, ConfigError) else ""
        problem = error.problem if isinstance(error, ConfigError) else str(error)
        kind = type(error).__name__
        write_json(folder / ERROR, {"kind": kind, "path": path, "problem": problem})
        return error.exit_code
    return 0


def _compile(folder: epath.Path, request: dict[str, Any]) -> None:
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program has no dump
    import_modules(request["imports"])
    config = read_config(folder)
    topology = topologies.parse(request["topology"])
    data = declare(config, request["num_images"])
    run = open_run(config, topologies.find_devices(topology), data.sources)
    is_gpu = topology.platform == "cuda"
    write_json(folder / FACTS, {"data": data.text, **facts.collect(run, topology, request["step"])})
    with cudnn.assumed() if is_gpu else contextlib.nullcontext():
        lowered = lowering.lower(run, request["step"])
    lowered.compile()


def _end_with_parent(folder: epath.Path) -> None:
    """End this process if the parent is gone, and remove the folder that it would have removed."""
    os.read(sys.stdin.fileno(), 1)  # unlike `read`, it holds no lock when Python ends
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
