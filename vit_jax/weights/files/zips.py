"""Open zip archives of arrays, and refuse zip bombs."""

import io
import pathlib
import zipfile

from vit_jax.errors import DataError

# An entry whose compression ratio and uncompressed bytes both exceed these limits is refused.
MAX_RATIO = 100
MIN_BOMB = 64 << 20

# The directory at the end of an archive is read at once. This limit allows tens of thousands of
# entries.
MAX_DIRECTORY = 8 << 20  # bytes


def open_zip(
    path: pathlib.Path, stream: io.BufferedReader, *methods: int
) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """Open an archive, and return it with its entries.

    Args:
      path: The path of the file.
      stream: The content of the file.
      *methods: The supported compression methods, as constants of `zipfile`.

    Raises:
      DataError: An entry is encrypted, has another compression method, or is a zip bomb.
      ValueError: There are too many entries, or they share bytes.
      BadZipFile: The file is not a zip archive.
    """
    zipfile.ZipFile(_BoundedReader(stream)).close()
    archive = zipfile.ZipFile(stream)
    entries = archive.infolist()
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are larger than the file")
    for entry in entries:
        where = f"{path}: {entry.filename}"
        packed = entry.compress_size
        size = entry.file_size
        if entry.flag_bits & 1 or entry.compress_type not in methods:
            raise DataError(f"{where} is encrypted, or its compression is not supported")
        if entry.compress_type == zipfile.ZIP_STORED and size != packed:
            raise ValueError(f"{entry.filename}: {size:,} bytes, stored in {packed:,}")
        if size > MIN_BOMB and size > MAX_RATIO * packed:
            raise DataError(f"{where} would grow from {packed:,} to {size:,} bytes (a zip bomb?)")
    return archive, entries


class _BoundedReader(io.RawIOBase):
    """A stream that refuses to read more than `MAX_DIRECTORY` bytes at once."""

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
            raise ValueError(f"a directory of {size:,} bytes; expected at most {MAX_DIRECTORY:,}")
        return self._stream.read(size)
