"""The Vision Transformer suite for JAX: models, recipes and training in Flax linen."""

__version__ = "0.1.0"
