"""torch's `.pth`, `.pt` and `.bin`, which need the extra `torch`; nothing in them is executed."""

import collections
import io
import pathlib
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from vit_jax.errors import ConfigError, DataError
from vit_jax.weights.files.base import DTYPES, INTEGERS, Header, Read, WeightFile, check_headers
from vit_jax.weights.files.zips import check_entries


def import_torch(flag: str) -> Any:
    """Return the module `torch`.

    Raises:
      ConfigError: It is not installed; the error names `flag`.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(flag, "torch is not installed; pip install 'vit_jax[torch]'") from error
    return torch


def open_torch(path: pathlib.Path, stream: io.BufferedReader) -> WeightFile:
    """Open a file of dense tensors by name, or one that has them as `model` or `state_dict`.

    Raises:
      ConfigError: torch is not installed.
      DataError: The file is corrupt or holds something else.
    """
    torch = import_torch("--input")
    with stream:
        zipped = stream.read(4) == b"PK\3\4"
        if zipped:
            check_entries(path, zipfile.ZipFile(stream), zipfile.ZIP_STORED)  # as torch writes
    tensors = _load(torch, path, mmap=zipped)
    odd = [
        f"{name} is {type(tensor).__name__}"
        for name, tensor in tensors.items()
        if not (isinstance(name, str) and isinstance(tensor, torch.Tensor))
        or (tensor.layout, tensor.device.type) != (torch.strided, "cpu")
        or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes()
    ]
    if odd:
        raise DataError(f"{path}: expected dense tensors by name; {', '.join(odd[:3])}")
    dtypes = {getattr(torch, dtype.name): dtype for dtype in (DTYPES | INTEGERS).values()}
    stored = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    headers = check_headers(path, stored, dtypes)
    loaded: dict[str, Any] = {} if zipped else tensors

    def read(name: str) -> np.ndarray:
        if name not in loaded:
            loaded.update(_load(torch, path, mmap=False))  # whose pages would count twice
        tensor = loaded.pop(name).detach().clone(memory_format=torch.contiguous_format)
        array = tensor.reshape(-1).view(torch.uint8).numpy()  # NumPy does not know bfloat16
        return array.view(headers[name].dtype).reshape(headers[name].shape)

    return WeightFile(path, headers, read, loaded.clear)


def write_torch(file: IO[bytes], headers: Mapping[str, Header], read: Read) -> None:
    """Write a file of tensors by name; all of them are in memory at once.

    Raises:
      ConfigError: torch is not installed.
    """
    torch = import_torch("--output")

    def tensor(name: str) -> Any:
        array = np.require(read(name), requirements=("C", "W"))
        content = torch.from_numpy(array.reshape(-1).view(np.uint8))
        return content.view(getattr(torch, array.dtype.name)).reshape(array.shape)

    torch.save(collections.OrderedDict((name, tensor(name)) for name in headers), file)


def _load(torch: Any, path: pathlib.Path, *, mmap: bool) -> dict[Any, Any]:
    """Return what a file holds by name; with `mmap`, it takes no memory yet."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise DataError(f"{path}: damaged, or more than tensors; nothing of it was run") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: expected tensors by name, got {type(loaded).__name__}")
    inner = [loaded[key] for key in ("model", "state_dict") if isinstance(loaded.get(key), dict)]
    if len(inner) > 1:
        raise DataError(f"{path}: expected tensors by name in model or state_dict, not in both")
    return inner[0] if inner else loaded
