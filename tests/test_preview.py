"""The picture of what a config's augmentation does."""

import numpy as np
from conftest import ROOT, tiny_flags

from vit_jax import preview
from vit_jax.console import cli
from vit_jax.data.sources.registry import open_split


def test_the_first_column_is_as_evaluated_and_draws_differ(tiny_config):
    config = tiny_config({"data.flip": "true", "data.erasing": "1", "mix.cutmix": "1"})
    source = open_split(config.data, "train_split")
    first, again = (preview.draws(config, source, 4, 3) for _ in range(2))
    assert (first.shape, first.dtype) == ((4, 4, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(first, again)
    plain = preview.draws(tiny_config(), source, 4, 1)
    np.testing.assert_array_equal(plain[:, 0], first[:, 0])
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])  # nothing is asked for
    assert all((first[:, 0] != first[:, i]).any() for i in (1, 2, 3))
    assert (first[:, 1] != first[:, 2]).any()


def test_the_command_writes_a_picture(tmp_path, capsys):
    argv = ["preview", *tiny_flags(f"--output={tmp_path / 'grid.png'}", "--draws=2")]
    assert cli.run(preview.main, preview._flags(), preview.__doc__, argv) == 0
    assert (tmp_path / "grid.png").stat().st_size > 5000
    assert "6 images of" in capsys.readouterr().out
    config = f"--config={ROOT / 'configs' / 'digits.py'}"
    assert cli.run(preview.main, preview._flags(), preview.__doc__, ["preview", config]) == 64
    assert capsys.readouterr().err == "error: --output: expected a file, such as grid.png\n"
