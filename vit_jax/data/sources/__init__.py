"""Where images come from: random access to labelled images."""

from vit_jax.data.sources.base import Record, Source

__all__ = ["Record", "Source"]
