"""Locks of work directories, paths of flags, and atomic writing."""

import json
import math
import sys

import pytest
from etils import epath

from vit_jax.console import workdir
from vit_jax.errors import ConfigError, WorkdirError


def test_a_locked_directory_is_an_error_that_names_the_owner(tmp_path):
    path = epath.Path(tmp_path) / "run"
    with (
        workdir.lock(path),
        pytest.raises(WorkdirError, match=r"process \d+ on .* is already training in "),
        workdir.lock(path),
    ):
        pass
    with workdir.lock(path):
        assert path.is_dir()


def test_a_file_instead_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkdirError, match="--workdir: cannot write") as error,
        workdir.lock(epath.Path(tmp_path) / "file" / "run"),
    ):
        pass
    assert error.value.exit_code == 73


def test_json_is_replaced_atomically(tmp_path):
    path = epath.Path(tmp_path) / "deep" / "results.json"
    for content in ({"a": 1}, {"b": [2, 3]}):
        workdir.write_json(path, content)
        assert json.loads(path.read_text()) == content
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_json_has_no_nan(tmp_path):
    path = epath.Path(tmp_path) / "results.json"
    workdir.write_json(path, {"a": math.nan, "b": {"c": [math.inf, 1.5, (2, -math.inf)]}})
    plain = {"a": None, "b": {"c": [None, 1.5, [2, None]]}}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == plain


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3://bucket/x", "http://host/x"])
def test_an_unreachable_object_store_is_one_line(text, monkeypatch):
    for extra in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, extra, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"^config\.init_from: (cannot open|expected a local)"):
        workdir.open_path(text, "config.init_from")
    with pytest.raises(ConfigError, match=f"^--output: expected a local path, got {text}$"):
        workdir.local_path(text, "--output")


def test_object_stores_are_not_local():
    assert workdir.is_local(epath.Path("/tmp/x"))  # noqa: S108
    assert not workdir.is_local(epath.Path("gs://bucket/x"))


def test_a_tilde_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.open_path("~/runs/x", "--workdir") == epath.Path(tmp_path / "runs" / "x")
    assert workdir.open_path("runs/~x", "--workdir") == epath.Path("runs/~x")
    with pytest.raises(ConfigError, match="--workdir: unknown home directory ~nobody_here"):
        workdir.open_path("~nobody_here/x", "--workdir")


@pytest.mark.parametrize("name", ["a[1]", "a]", "a\\b"])
def test_a_path_that_orbax_cannot_save_to_is_an_error(tmp_path, name):
    path = epath.Path(tmp_path) / name / "run"
    message = "checkpoints cannot be saved to a path with .*; choose another path"
    with pytest.raises(ConfigError, match=message), workdir.lock(path):
        pass
    assert not (tmp_path / name).exists()


def test_files_are_not_written_through_links(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".results.json.tmp", "results.json", ".lock"):
        (run / name).symlink_to(target)
    workdir.write_json(epath.Path(run) / "results.json", {"step": 1})
    assert json.loads((run / "results.json").read_text()) == {"step": 1}
    assert not (run / "results.json").is_symlink()
    with pytest.raises(WorkdirError, match="cannot write"), workdir.lock(epath.Path(run)):
        pass
    assert target.read_text() == "precious"
