"""A folder of images: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*, where folders name the classes."""

from vit_jax.data.sources.folder.default_splits import choose_splits
from vit_jax.data.sources.folder.source import Folder

__all__ = ["Folder", "choose_splits"]
