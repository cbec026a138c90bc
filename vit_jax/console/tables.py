"""Tables: named columns with a value or an array in each row, in a file for NumPy or for Parquet.

The same table gives the same bytes. `.npz` needs nothing else; `.parquet` needs pyarrow, of the
extra `analysis`.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

import jax
import numpy as np
from etils import epath
from numpy.lib import format as npy

from vit_jax.console.documents import parse_json
from vit_jax.console.text import to_json
from vit_jax.console.workdir import check_writable, naming_failures, open_path, replacing
from vit_jax.errors import ConfigError, DataError, InputMissingError

METADATA = "metadata"  # the entry of a .npz that is not a column
SHAPES = b"shapes"  # of the arrays in the rows of a .parquet, whose columns have flat lists


class Table(NamedTuple):
    """Columns of n rows each, and what holds for all of them."""

    columns: dict[str, np.ndarray]  # (n, ...) each
    metadata: dict[str, Any]  # plain JSON


class Format(NamedTuple):
    """A file format of tables."""

    write: Callable[[IO[bytes], Mapping[str, np.ndarray], str], None]  # with metadata as JSON
    read: Callable[[IO[bytes]], tuple[dict[str, np.ndarray], str]]


def check_output(text: str, flag: str) -> epath.Path:
    """Return the path of a table to write that a flag names, before there is anything to write.

    Args:
      text: The value of the flag.
      flag: The name of the flag, for error messages.

    Raises:
      ConfigError: See `check_path`.
      WorkdirError: There can be no files in its folder.
    """
    path = check_path(text, flag)
    check_writable(path, flag)
    return path


def check_path(text: str, flag: str) -> epath.Path:
    """Return the path of a table that a flag names.

    Args:
      text: The value of the flag.
      flag: The name of the flag, for error messages.

    Raises:
      ConfigError: The suffix is unknown, the path is a folder, or pyarrow is missing.
    """
    if not text:
        raise ConfigError(flag, f"expected a file name that ends in {' or '.join(FORMATS)}")
    path = open_path(text, flag)
    if path.suffix not in FORMATS:
        raise ConfigError(flag, f"expected a name that ends in {' or '.join(FORMATS)}, got {text}")
    if path.is_dir():
        raise ConfigError(flag, f"expected a file, got the folder {text}")
    if path.suffix == ".parquet":
        try:
            _import_pyarrow()
        except InputMissingError as error:
            raise ConfigError(flag, f"{error}, or give a .npz") from error
    return path


def write_table(
    path: epath.Path,
    columns: Mapping[str, np.ndarray | Sequence[Any]],
    metadata: Mapping[str, Any] | None = None,
    *,
    flag: str = "write_table",
) -> None:
    """Write a table atomically, on the first process (host) only.

    Args:
      path: The file; its suffix gives the format. See `check_path`.
      columns: The columns by name, (n, ...) each: numbers, truth values or texts.
      metadata: What holds for all rows, as plain JSON.
      flag: The name of the flag that has the path, for error messages.

    Raises:
      InputMissingError: pyarrow is missing.
      ValueError: The columns differ in their number of rows, or one holds other objects.
      WorkdirError: The file cannot be written.
    """
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"expected columns of one length, got {sizes}")
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise ValueError(f"expected numbers or texts in {', '.join(objects)}, got objects")
    if jax.process_index() == 0:
        with naming_failures(path, flag):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, "b") as file:
                FORMATS[path.suffix].write(file, arrays, to_json(dict(metadata or {})))


def read_table(path: epath.Path) -> Table:
    """Read a table that `write_table` wrote; no Python objects are loaded.

    Args:
      path: The file. See `check_path`.

    Raises:
      InputMissingError: There is no such file, or pyarrow is missing.
      DataError: The file is corrupt, or was not written by `write_table`.
    """
    if path.suffix not in FORMATS:
        raise DataError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}")
    try:
        with path.open("rb") as file:
            columns, metadata = FORMATS[path.suffix].read(file)
        return Table(columns, parse_json(metadata))
    except FileNotFoundError as error:
        raise InputMissingError(f"{path}: no such file") from error
    except (ValueError, KeyError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: expected a table as vit_jax writes it: {problem}") from error


def _write_npz(file: IO[bytes], columns: Mapping[str, np.ndarray], metadata: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, column in {**columns, METADATA: np.asarray(metadata)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, column)


def _read_npz(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str]:
    columns = {}
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        # What `write_table` wrote is not compressed, so no archive has more than its own size.
        if sum(member.file_size for member in archive.infolist()) > size:
            raise ValueError(f"more than its {size:,} bytes when unpacked")
        for name in archive.namelist():
            with archive.open(name) as member:
                columns[name.removesuffix(".npy")] = npy.read_array(member)
    return columns, str(columns.pop(METADATA))


def _write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray], metadata: str) -> None:
    pyarrow = _import_pyarrow()
    arrays = {}
    for name, column in columns.items():
        if column.ndim > 1:
            flat = pyarrow.array(column.reshape(-1))
            size = math.prod(column.shape[1:])
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, size)
        else:
            arrays[name] = pyarrow.array(column)
    shapes = {name: column.shape[1:] for name, column in columns.items()}
    notes = {SHAPES: json.dumps(shapes).encode(), METADATA.encode(): metadata.encode()}
    table = pyarrow.table(arrays).replace_schema_metadata(notes)
    pyarrow.parquet.write_table(table, file)


def _read_parquet(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str]:
    pyarrow = _import_pyarrow()
    table = pyarrow.parquet.read_table(file)
    notes = table.schema.metadata or {}
    columns = {}
    for name, shape in json.loads(notes[SHAPES]).items():
        column = table.column(name).combine_chunks()
        flat = column.flatten() if shape else column
        values = flat.to_numpy(zero_copy_only=False)
        values = values.astype(str) if values.dtype == object else values
        columns[name] = values.reshape(len(column), *shape)
    return columns, notes[METADATA.encode()].decode()


FORMATS = {
    ".npz": Format(_write_npz, _read_npz),
    ".parquet": Format(_write_parquet, _read_parquet),
}


def _import_pyarrow() -> Any:
    """Return pyarrow with its module for Parquet, which takes a while to import.

    Raises:
      InputMissingError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        hint = "run pip install 'vit_jax[analysis]'"
        raise InputMissingError(f"pyarrow is not installed; {hint}") from error
    return pyarrow
