"""Build the rename rules of common layers of torch and linen."""

from collections.abc import Iterator

from vit_jax.weights.rules import Rule

CONV = "o i h w -> h w i o"  # from torch's convolution kernel to ours


def linear(source: str, target: str, pattern: str = "o i -> i o") -> Iterator[Rule]:
    """Yield the rules of a torch layer: weight and bias."""
    yield Rule(f"{source}.weight", f"{target}/kernel", pattern)
    yield Rule(f"{source}.bias", f"{target}/bias")


def norm(source: str, target: str) -> Iterator[Rule]:
    """Yield the rules of a torch normalization layer."""
    yield Rule(f"{source}.weight", f"{target}/scale")
    yield Rule(f"{source}.bias", f"{target}/bias")


def dense(source: str, target: str) -> Iterator[Rule]:
    """Yield the rules of a linen layer with the same layout: kernel and bias."""
    yield Rule(f"{source}/kernel", f"{target}/kernel")
    yield Rule(f"{source}/bias", f"{target}/bias")


def scale(source: str, target: str, pattern: str = "") -> Iterator[Rule]:
    """Yield the rules of a linen normalization layer."""
    yield Rule(f"{source}/scale", f"{target}/scale", pattern)
    yield Rule(f"{source}/bias", f"{target}/bias", pattern)
