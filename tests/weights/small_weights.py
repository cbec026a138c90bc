"""Write, read and compare small weight files."""

import os
import zipfile

from vit_jax.weights.files import Header, open_file, write_file


def write(path, arrays):
    headers = {name: Header(array.shape, array.dtype) for name, array in arrays.items()}
    write_file(path, headers, arrays.__getitem__)
    return path


def same(found, expected):
    return (found.shape, found.dtype) == (expected.shape, expected.dtype) and (
        found.tobytes() == expected.tobytes()
    )


def read_all(path):
    with open_file(path) as file:
        return {name: file.read(name) for name in file.headers}


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


class Trap:
    """An object that creates a folder if Python's own serialization loads it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)
