"""Weights of timm (pytorch-image-models): `.safetensors` or `.pth`, alone or in a folder.

A folder from the Hugging Face hub also has a `config.json` with the preprocessing.
"""

from vit_jax.weights.timm.swin import SWIN
from vit_jax.weights.timm.vit import VIT

__all__ = ["SWIN", "VIT"]
