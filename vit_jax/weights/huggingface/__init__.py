"""Hugging Face transformers: ViT, DeiT with its teacher, DINOv2, Swin v1 and v2 (a folder).

The names are those of the files on the hub, which transformers 5 no longer has in memory.
"""

from vit_jax.weights.huggingface.documents import describe, documents_for
from vit_jax.weights.huggingface.rule_table import (
    RULES,
    class_name,
    placeholders,
    placeholders_for,
)

__all__ = [
    "FILE",
    "RULES",
    "class_name",
    "describe",
    "documents_for",
    "placeholders",
    "placeholders_for",
]

FILE = "model.safetensors"
