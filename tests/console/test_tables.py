"""Tables come back as they were written, in every format, and their bytes repeat."""

import json
import sys
import zipfile

import numpy as np
import pytest
from etils import epath

from vit_jax.console import tables
from vit_jax.errors import ConfigError, DataError, InputMissingError, WorkdirError

COLUMNS = {
    "ids": ["a.png", "ü 🐟.png", ""],
    "label": np.array([2, 0, 1], np.int32),
    "features": np.arange(6, dtype=np.float32).reshape(3, 2) / 7,
    "tokens": np.arange(24, dtype=np.float32).reshape(3, 4, 2),
    "correct": np.array([[True, False], [False, False], [True, True]]),
}
METADATA = {"class_names": ["x", "ß"], "step": 7}
SUFFIXES = (".npz", ".parquet")


@pytest.fixture(params=SUFFIXES)
def path(tmp_path, request):
    return epath.Path(tmp_path / f"table{request.param}")


def test_a_table_comes_back_as_it_was(path):
    tables.write_table(path, COLUMNS, METADATA)
    found = tables.read_table(path)
    assert found.metadata == METADATA and found.columns.keys() == COLUMNS.keys()
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found.columns[name], column, strict=name != "ids")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_tables_have_equal_bytes(path):
    tables.write_table(path, COLUMNS, METADATA)
    first = path.read_bytes()
    tables.write_table(path, COLUMNS, METADATA)
    assert path.read_bytes() == first
    tables.write_table(path, COLUMNS)
    assert path.read_bytes() != first


def test_numpy_and_pyarrow_read_the_files_by_themselves(tmp_path):
    import pyarrow.parquet

    for suffix in SUFFIXES:
        tables.write_table(epath.Path(tmp_path / f"t{suffix}"), COLUMNS, METADATA)
    archive = np.load(tmp_path / "t.npz")
    assert archive["tokens"].shape == (3, 4, 2)
    assert json.loads(str(archive["metadata"])) == METADATA
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.column("ids").to_pylist() == COLUMNS["ids"]
    assert table.column("tokens")[1].as_py() == [float(i) for i in range(8, 16)]
    assert json.loads(table.schema.metadata[b"shapes"])["tokens"] == [4, 2]


def test_a_table_that_cannot_be_written_leaves_the_old_one(path):
    tables.write_table(path, COLUMNS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="one length, got a 1, b 2"):
        tables.write_table(path, {"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="in a, got objects"):
        tables.write_table(path, {"a": [object()]})
    assert path.read_bytes() == before
    blocked = path / "t.npz"
    with pytest.raises(WorkdirError, match=r"^--table: cannot write .*t.npz \(File exists\)$"):
        tables.write_table(blocked, COLUMNS, flag="--table")


@pytest.mark.parametrize("content", (b"", b"PK\x03\x04 no archive", b"PAR1 no table PAR1"))
def test_a_file_that_is_no_table_is_an_error_in_one_line(path, content):
    with pytest.raises(InputMissingError, match="no such file"):
        tables.read_table(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"expected a table as vit_jax writes it: [^\n]+$"):
        tables.read_table(path)


def test_objects_and_foreign_files_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}]), metadata=np.array("{}"))
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    for name in ("a", "b"):
        with pytest.raises(DataError, match="as vit_jax writes it"):
            tables.read_table(epath.Path(tmp_path / f"{name}.npz"))


def test_an_archive_that_unpacks_to_more_than_its_size_is_not_loaded(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "a.npz")
    np.savez_compressed(path, a=np.zeros(10**6), metadata=np.array("{}"))
    monkeypatch.setattr(tables.npy, "read_array", None)  # nothing is unpacked
    with pytest.raises(DataError, match=r"more than its [\d,]+ bytes when unpacked"):
        tables.read_table(path)


def test_a_header_that_promises_too_much_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="as vit_jax writes it"):
        tables.read_table(epath.Path(path))


def test_another_suffix_is_no_table(tmp_path):
    with pytest.raises(DataError, match=r"a.csv: expected a name that ends in .npz or .parquet$"):
        tables.read_table(epath.Path(tmp_path / "a.csv"))


def test_a_missing_package_is_named_once(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "a.parquet")
    tables.write_table(path, COLUMNS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for call in (lambda: tables.read_table(path), lambda: tables.write_table(path, COLUMNS)):
        with pytest.raises(InputMissingError, match=r"^pyarrow is not installed; run pip install "):
            call()


def test_the_path_is_checked_before_there_is_a_table(tmp_path, monkeypatch):
    for text in ("", str(tmp_path), "a.csv", "a"):
        with pytest.raises(ConfigError, match=r"--output: expected a .*name that ends in .npz or"):
            tables.check_path(text, "--output")
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(ConfigError, match="--output: expected a file, got the folder"):
        tables.check_path(str(tmp_path / "a.npz"), "--output")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert tables.check_path("a.npz", "--output") == epath.Path("a.npz")
    with pytest.raises(ConfigError, match=r"--output: pyarrow is not installed; .*\[analysis\]"):
        tables.check_path("a.parquet", "--output")


def test_a_folder_that_takes_no_files_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match=r"--output: cannot write .*file/a.npz \("):
        tables.check_output(str(tmp_path / "file" / "a.npz"), "--output")
    assert tables.check_output(str(tmp_path / "new" / "a.npz"), "--output").parent.is_dir()
    assert not list((tmp_path / "new").iterdir())
