"""Read and write weight files array by array: `.npz`, `.safetensors` and torch's `.pth`.

No code in a file is executed. Names, dtypes and sizes are checked in the headers before any array
is allocated.
"""

from vit_jax.weights.files.base import Header, WeightFile
from vit_jax.weights.files.opening import SUFFIXES, open_file
from vit_jax.weights.files.writing import is_file_name, write_file

__all__ = ["SUFFIXES", "Header", "WeightFile", "is_file_name", "open_file", "write_file"]
