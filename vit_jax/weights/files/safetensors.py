"""Read and write `.safetensors`: a JSON header, then the bytes of all arrays without gaps."""

import io
import json
import pathlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.files.base import (
    DTYPES,
    Header,
    Read,
    WeightFile,
    check_headers,
    read_into,
    reporting_corruption,
)

# Bytes. A thousand arrays take 0.1 MB. Parsed, JSON can take thirty times as much memory.
MAX_HEADER = 8 << 20


def open_safetensors(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    """Open a file and check its header. No array is read.

    Args:
      path: The path of the file.
      stream: The content of the file.

    Raises:
      DataError: The header is too long, or has dtypes that are not supported.
      Exception: The file is corrupt.
    """
    size = path.stat().st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise DataError(f"{path}: not a safetensors file, or truncated: header of {length:,} bytes")
    entries = json.loads(stream.read(length).decode(), object_pairs_hook=_unique)
    entries.pop("__metadata__", None)
    stored = {name: (tuple(e["shape"]), str(e["dtype"])) for name, e in entries.items()}
    headers = check_headers(path, stored, DTYPES)
    begins: dict[str, int] = {}
    content = 8 + length  # offset of the first array
    end = 0
    for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
        span = [end, end + headers[name].nbytes]
        if entries[name]["data_offsets"] != span:
            raise ValueError(f"{name}: expected at {span}, not {entries[name]['data_offsets']}")
        begins[name] = content + end
        end = span[1]
    if content + end != size:
        raise ValueError(f"{size:,} bytes, expected {content + end:,}")

    def read(name: str) -> np.ndarray:
        array = np.empty(*headers[name])
        with reporting_corruption(path):
            stream.seek(begins[name])
            read_into(stream, array)
        return array

    return WeightFile(path, headers, read, stream.close)


def write_safetensors(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    """Write a file array by array, with the metadata that transformers expects.

    Args:
      file: The file to write to.
      headers: The header of each array, by name.
      read: Returns an array by name.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, header in headers.items():
        end = begin + header.nbytes
        entries[name] = {
            "dtype": names[header.dtype],
            "shape": header.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in headers:
        file.write(np.ascontiguousarray(read(name)).reshape(-1).view(np.uint8).data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)
