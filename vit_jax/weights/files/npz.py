"""Read and write NumPy's `.npz`: a zip archive with one `.npy` entry per array."""

import io
import pathlib
import zipfile
from collections.abc import Mapping
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from vit_jax.errors import DataError
from vit_jax.weights.files.base import (
    DTYPES,
    Header,
    Read,
    Shape,
    WeightFile,
    check_headers,
    read_into,
    reporting_corruption,
)
from vit_jax.weights.files.zips import open_zip

# NumPy's reader of an array's header, by the version of the format.
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MAX_HEADER = 1 << 14  # bytes


class _Layout(NamedTuple):
    """The position and order of an array in its entry."""

    fortran_order: bool
    begin: int  # in bytes
    end: int


def open_npz(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    """Open an archive and check its headers. No array is read.

    Args:
      path: The path of the file, for errors.
      stream: The content of the file.

    Raises:
      DataError: An entry is not an array of numbers.
      Exception: The archive is corrupt.
    """
    archive, entries = open_zip(path, stream, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    stored: dict[str, tuple[Shape, np.dtype]] = {}
    layouts: dict[str, _Layout] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or name in stored:
            raise DataError(f"{path}: {entry.filename}: expected arrays (.npy), each name once")
        with archive.open(entry) as member:
            start = io.BytesIO(member.read(MAX_HEADER))
        shape, fortran_order, dtype = READERS[npy.read_magic(start)](start)
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds Python objects, which are never loaded")
        stored[name] = (shape, dtype)
        layouts[name] = _Layout(fortran_order, start.tell(), entry.file_size)
    headers = check_headers(path, stored, _dtypes())
    for name, layout in layouts.items():
        size = layout.end - layout.begin
        if size != headers[name].nbytes:
            raise ValueError(f"{name}: {size:,} bytes, not {headers[name].nbytes:,}")

    def read(name: str) -> np.ndarray:
        shape, dtype = headers[name]
        fortran_order, begin, _ = layouts[name]
        array = np.empty(shape[::-1] if fortran_order else shape, dtype)
        with reporting_corruption(path), archive.open(f"{name}.npy") as member:
            member.read(begin)
            read_into(member, array)  # zipfile compares the checksum at the end of the entry
        return array.T.copy(order="C") if fortran_order else array

    return WeightFile(path, headers, read, stream.close)


def write_npz(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    """Write an archive array by array, without compression.

    Args:
      file: The file to write to.
      headers: The header of each array, by name.
      read: Returns an array by name.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in headers:
            array = read(name)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array)


def _dtypes() -> dict[np.dtype, np.dtype]:
    """Return the supported dtypes, by the dtypes that NumPy reads from headers."""
    dtypes = {dtype: dtype for dtype in DTYPES.values()}
    return {np.dtype("V2"): DTYPES["BF16"], **dtypes}  # NumPy reads bfloat16 as two raw bytes
