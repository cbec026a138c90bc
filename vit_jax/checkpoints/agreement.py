"""Check that the `config.json` of a run agrees with its checkpoint.

The seal of a checkpoint covers the config that the weights were trained with (STEP/meta). No seal
covers `config.json`. Every field that affects the outputs must have the same value in both: the
fields of the model and of the preprocessing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import store
from vit_jax.checkpoints.same_run import has_same_parameters
from vit_jax.config.identity import check_names, is_same_function, shapes_outputs
from vit_jax.config.stored import CONFIG
from vit_jax.errors import CheckpointError

Settings = Mapping[str, Any]


def check_agreement(
    workdir: epath.Path, step: int, stored: config_lib.Config, allowed: Sequence[str] | None
) -> None:
    """Check that a run and its checkpoint have the same value in every field that affects outputs.

    Args:
      workdir: The run folder.
      step: The step of the checkpoint. Its seal has been checked.
      stored: The config in `config.json`.
      allowed: Keys or sections that may differ. None if the command has no flag to allow any.

    Raises:
      CheckpointError: Another key differs. The message has both values of the first one.
      ConfigError: A name in `allowed` is not a key.
    """
    sealed = config_lib.flatten(store.read_meta(workdir / "checkpoints" / str(step))["config"])
    now = config_lib.flatten(json.loads(json.dumps(config_lib.as_dict(stored))))
    names = check_names(allowed or (), {**sealed, **now})
    changed = [
        key
        for key in _differences(sealed, now)
        if not any(config_lib.covers(name, key) for name in names)
    ]
    if changed:
        key, *others = changed
        more = f" (and {', '.join(others)} differ)" if others else ""
        trained = f"the checkpoint of step {step} was trained with {json.dumps(sealed[key])}{more}"
        problem = f"{workdir / CONFIG}: {key} is {json.dumps(now[key])}, but {trained}"
        hint = f", or accept it with --allow_config_change={key}"
        if allowed is None or (key.startswith("model.") and not has_same_parameters(sealed, now)):
            hint = ""  # no flag makes the checkpoint fit another model
        raise CheckpointError(f"{problem}; fix the file{hint}")


def _differences(sealed: Settings, now: Settings) -> Iterator[str]:
    """Yield the keys whose values differ. Keys that only one side has come from another version."""
    for key in sorted(filter(shapes_outputs, sealed.keys() & now.keys())):
        if key == "optim.ema_decay":
            # Without a decay the average would be ignored. A run may start to average later.
            if sealed[key] and not now[key]:
                yield key
        elif not is_same_function(key, sealed[key], now[key]):
            yield key
