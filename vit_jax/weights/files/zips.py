"""Zip archives of arrays: no entry of one that is opened can grow out of hand."""

import pathlib
import zipfile

from vit_jax.errors import DataError

# An entry that grows by more than this ratio, to more than these bytes, is refused.
MAX_RATIO = 100
MIN_BOMB = 64 << 20


def check_entries(
    path: pathlib.Path, archive: zipfile.ZipFile, *methods: int
) -> list[zipfile.ZipInfo]:
    """Return the entries of an archive.

    Args:
      path: The file.
      archive: Its content.
      *methods: The methods of compression that are read.

    Raises:
      DataError: An entry is encrypted, compressed in another way, or would grow out of hand.
      ValueError: The entries are larger than the file: they share bytes.
    """
    entries = archive.infolist()
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries are larger than the file")
    for entry in entries:
        where = f"{path}: {entry.filename}"
        packed = entry.compress_size
        size = entry.file_size
        if entry.flag_bits & 1 or entry.compress_type not in methods:
            raise DataError(f"{where} is encrypted, or compressed in a way that is not read")
        if size > MIN_BOMB and size > MAX_RATIO * packed:
            raise DataError(f"{where} would grow from {packed:,} to {size:,} bytes; not opened")
    return entries
