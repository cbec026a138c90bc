"""timm (pytorch-image-models): weights in `.safetensors` or `.pth`, alone or in a folder.

A folder from the Hugging Face hub has a `config.json` with the preprocessing beside the weights.
"""

from vit_jax.weights.timm.swin import SWIN
from vit_jax.weights.timm.vit import VIT

__all__ = ["SWIN", "VIT"]
