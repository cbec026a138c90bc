"""A trained run is opened from its work directory alone."""

import json

import pytest
from etils import epath

from vit_jax import config as config_lib
from vit_jax import trained
from vit_jax.errors import InputMissingError


def test_a_run_config_is_read_back_and_a_wrong_one_refused(tmp_path, tiny_config):
    workdir = epath.Path(tmp_path)
    with pytest.raises(InputMissingError, match="no such file"):
        trained.read_config(workdir)
    (workdir / "config.json").write_text("{")
    with pytest.raises(InputMissingError, match="not valid JSON"):
        trained.read_config(workdir)
    config = tiny_config()
    (workdir / "config.json").write_text(json.dumps(config_lib.as_dict(config)))
    assert trained.read_config(workdir) == config
    for text in ("null", "5", '"abc"', "[]"):
        (workdir / "config.json").write_text(text)
        with pytest.raises(InputMissingError, match="expected the settings of a run"):
            trained.read_config(workdir)
