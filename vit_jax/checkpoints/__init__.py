"""Checkpoints: save and restore runs, and open trained models.

from vit_jax.checkpoints import from_pretrained
"""

from vit_jax.checkpoints.pretrained import Pretrained, from_pretrained

__all__ = ["Pretrained", "from_pretrained"]
