"""Checkpoints: saving and restoring runs, and trained models ready to use.

from vit_jax.checkpoints import from_pretrained
"""

from vit_jax.checkpoints.pretrained import Pretrained, from_pretrained

__all__ = ["Pretrained", "from_pretrained"]
