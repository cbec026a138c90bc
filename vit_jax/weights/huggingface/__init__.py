"""Weights of Hugging Face transformers: a folder with `config.json`.

Names are those of the files on the hub. In memory, transformers 5 uses other names.
"""

from vit_jax.weights.huggingface.swin import SWIN
from vit_jax.weights.huggingface.vit import VIT

__all__ = ["SWIN", "VIT"]
