"""Hugging Face transformers: weights in a folder with `config.json`.

The names are those of the files on the hub, which transformers 5 no longer has in memory.
"""

from vit_jax.weights.huggingface.swin import SWIN
from vit_jax.weights.huggingface.vit import VIT

__all__ = ["SWIN", "VIT"]
