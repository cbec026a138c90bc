"""The picture of what a config's augmentation does."""

import numpy as np
import pytest
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


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--config.data.name=cifar10"], "cifar10 is not on this machine"),
        (["--config.data.name="], "config.data.name and config.data.root are empty"),
    ],
)
def test_the_digits_stand_in_for_images_that_are_not_here(flags, note, tmp_path, capsys):
    argv = ["preview", *tiny_flags(f"--output={tmp_path / 'grid.png'}", "--draws=1", "--images=2")]
    argv += [*flags, f"--config.data.data_dir={tmp_path}", "--config.data.image_size=12,8"]
    assert cli.run(preview.main, preview._flags(), preview.__doc__, argv) == 0
    out = capsys.readouterr().out
    assert f"note      {note}: drawing the packaged digits at 12x8 pixels\n" in out
    assert "2 images of digits" in out


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    argv = [
        "preview",
        *tiny_flags(f"--output={tmp_path / 'grid.png'}", "--config.data.root=nowhere"),
    ]
    assert cli.run(preview.main, preview._flags(), preview.__doc__, argv) in (64, 66)
    assert "config.data.root: " in capsys.readouterr().err
