"""Whether the `config.json` of a run says of its model what the checkpoint says.

The seal of a checkpoint covers the config that it was trained with (STEP/meta); `config.json` has
none. What outputs depend on must be the same in both: the model, and how it sees images.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vit_jax import config as config_lib
from vit_jax.checkpoints import store
from vit_jax.config.identity import check_names, shapes_outputs
from vit_jax.config.stored import CONFIG
from vit_jax.errors import CheckpointError

Settings = Mapping[str, Any]


def check_agreement(
    workdir: epath.Path, step: int, stored: config_lib.Config, allowed: Sequence[str] | None
) -> None:
    """Check that the config of a run is that of its checkpoint, where outputs depend on it.

    Args:
      workdir: The run folder.
      step: Of the checkpoint, whose seal is intact.
      stored: What `config.json` says.
      allowed: Keys or sections that may differ; None where the user has no flag to say so.

    Raises:
      CheckpointError: Others differ; with both values of the first.
      ConfigError: No key has an allowed name.
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
        hint = "" if allowed is None else f", or take it as it is: --allow_config_change={key}"
        raise CheckpointError(f"{problem}; mend the file{hint}")


def _differences(sealed: Settings, now: Settings) -> Iterator[str]:
    """Yield the keys of other values; a key that one of them lacks is of another version."""
    for key in sorted(filter(shapes_outputs, sealed.keys() & now.keys())):
        if key == "optim.ema_decay":  # an average would not be taken; one may begin later
            if sealed[key] and not now[key]:
                yield key
        elif sealed[key] != now[key]:
            yield key
