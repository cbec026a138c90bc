"""Weight files: `.npz`, `.safetensors` and torch's `.pth`, read and written array by array.

Nothing in a file is executed, and no memory is taken before names, dtypes and sizes have been
checked from the headers alone.
"""

from vit_jax.weights.files.base import Header, WeightFile
from vit_jax.weights.files.opening import SUFFIXES, open_file
from vit_jax.weights.files.writing import is_file_name, write_file

__all__ = ["SUFFIXES", "Header", "WeightFile", "is_file_name", "open_file", "write_file"]
