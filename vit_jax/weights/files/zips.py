"""Zip archives of arrays: no entry of one that is opened can grow out of hand."""

import io
import pathlib
import zipfile

from vit_jax.errors import DataError

# An entry that grows by more than this ratio, to more than these bytes, is refused.
MAX_RATIO = 100
MIN_BOMB = 64 << 20

# The directory at the end of an archive is read as a whole. This is tens of thousands of entries.
MAX_DIRECTORY = 8 << 20  # bytes


def open_zip(
    path: pathlib.Path, stream: io.BufferedReader, *methods: int
) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """Open an archive; return it with its entries.

    Args:
      path: The file.
      stream: Its content.
      *methods: The methods of compression that are read.

    Raises:
      DataError: An entry is encrypted, compressed in another way, or would grow out of hand.
      ValueError: There are too many entries, or they share bytes.
      BadZipFile: It is no archive.
    """
    zipfile.ZipFile(_Directory(stream)).close()
    archive = zipfile.ZipFile(stream)
    entries = archive.infolist()
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are larger than the file")
    for entry in entries:
        where = f"{path}: {entry.filename}"
        packed = entry.compress_size
        size = entry.file_size
        if entry.flag_bits & 1 or entry.compress_type not in methods:
            raise DataError(f"{where} is encrypted, or compressed in a way that is not read")
        if entry.compress_type == zipfile.ZIP_STORED and size != packed:
            raise ValueError(f"{entry.filename}: {size:,} bytes, stored in {packed:,}")
        if size > MIN_BOMB and size > MAX_RATIO * packed:
            raise DataError(f"{where} would grow from {packed:,} to {size:,} bytes; not opened")
    return archive, entries


class _Directory(io.RawIOBase):
    """An archive of which no more is read at once than the directory may take."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise ValueError(f"a directory of {size:,} bytes, far more than arrays need")
        return self._stream.read(size)
