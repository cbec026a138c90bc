"""Kernels of softmax attention, and the choice of one by the devices: one table, with the reasons.

Fused kernels do not store the scores (Dao et al. 2022), but run only on some devices, and for some
dtypes and sizes.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention import fused

MASKED = -1e12  # score of a masked pair of tokens in a bias; cuDNN's differences of two are finite

# NVIDIA's GPUs since the generation Ampere, by the names of the cards.
_SINCE_AMPERE = re.compile(
    r"NVIDIA.* (?:[ABHL]\d+\w*|G[BH]\d+\w*|RTX (?:A\d+|PRO|[2-6]000 Ada|[345]0[5-9]0))\b"
)


# How an attention takes its kernel.
POLICIES = {
    "auto": "the kernel that moves the fewest bytes on the devices",
    "full": "the plain form",
    "fused": "a fused kernel wherever one runs",
}


class Case(NamedTuple):
    """What the choice of a kernel depends on."""

    platform: str  # of the devices: cpu, gpu or tpu
    device: str  # kind of the devices, such as `NVIDIA H100 80GB HBM3`
    dtype: str  # of queries, keys and values
    num_tokens: int  # tokens that attend to each other
    head_dim: int  # channels per head
    num_prefix: int = 0  # prefix tokens that attend beside windows
    masked: bool = False  # whether some tokens of windows do not attend to each other
    biased: bool = False  # whether a position bias is added to the scores
    dropout: float = 0.0  # dropout rate of the attention weights
    has_mesh: bool = False  # whether there is a mesh that divides the images and the heads


class Condition(NamedTuple):
    """A condition on a case, and what it demands, as the text after `needs`."""

    holds: Callable[[Case], bool]
    text: str


class Kernel(NamedTuple):
    """An implementation of softmax attention.

    Attributes:
      name: Name of the implementation.
      platform: The platform that it is for.
      attend: A function of queries, keys and values, each (b, n, heads, c), of a bias of the scores
        (b or 1, heads or 1, n, n) or None, and of the number of tokens without padding.
      padded: Maps a number of tokens to the number with padding.
      pads_once: Whether padding once, before all blocks, moves fewer bytes than in each block.
      projection: How queries, keys and values are computed; a name of `PROJECTIONS`.
      needs: Conditions without which it does not run, or not exactly.
      pays: Conditions without which the plain form moves fewer bytes.
    """

    name: str
    platform: str
    attend: Callable[[Array, Array, Array, Array | None, int], Array]
    padded: Callable[[int], int]
    pads_once: bool
    projection: str
    needs: tuple[Condition, ...]
    pays: tuple[Condition, ...] = ()

    def __call__(
        self,
        q: Float[Array, "b n heads c"],
        k: Float[Array, "b n heads c"],
        v: Float[Array, "b n heads c"],
        bias: Float[Array, "_ _ m m"] | None,
        num_tokens: int,
    ) -> Float[Array, "b n heads c"]:
        """Attend, with padding if the tokens do not have it yet.

        Args:
          q: Queries; their dot products with the keys are the scores.
          k: Keys.
          v: Values.
          bias: Bias of the scores, for m tokens, or None.
          num_tokens: Number m of tokens without padding, at most n.
        """
        padded = self.padded(num_tokens)
        given = q.shape[1]
        q, k, v = (pad(x, padded, axes=(1,)) for x in (q, k, v))
        if bias is not None:
            bias = pad(bias.astype(q.dtype), padded, axes=(2, 3))
        return self.attend(q, k, v, bias, num_tokens)[:, :given]


class Choice(NamedTuple):
    """A kernel for a case, or None for the plain form, and the reason."""

    kernel: Kernel | None
    case: Case
    reason: str

    def __str__(self) -> str:
        """Return the name, the padding and the reason."""
        if self.kernel is None:
            return f"full ({self.reason})"
        num_tokens = self.case.num_tokens
        padded = self.kernel.padded(num_tokens)
        padding = "" if padded == num_tokens else f", {num_tokens} tokens padded to {padded}"
        return f"{self.kernel.name}{padding} ({self.reason})"


_BFLOAT16 = Condition(lambda case: case.dtype == "bfloat16", "bfloat16")
_NO_DROPOUT = Condition(lambda case: not case.dropout, "attention weights without dropout")
_NO_PREFIX = Condition(lambda case: not case.num_prefix, "windows without prefix tokens")

# The first kernel for the platform decides. The bytes are those of a compiled training step.
KERNELS = (
    Kernel(
        "cudnn",
        platform="gpu",
        attend=fused.cudnn,
        # In training, JAX refuses odd numbers of tokens. To pad queries, keys and values in each
        # block of a ViT-B would move 444 MiB at a batch of 256.
        padded=fused.even,
        pads_once=True,
        projection="joint",
        needs=(
            Condition(
                lambda case: _SINCE_AMPERE.match(case.device) is not None,
                "an NVIDIA GPU since the generation Ampere",
            ),
            _BFLOAT16,
            Condition(
                lambda case: case.head_dim % 8 == 0 and case.head_dim <= 128,
                "a multiple of 8 channels per head, at most 128",
            ),
            _NO_DROPOUT,
            _NO_PREFIX,
        ),
    ),
    Kernel(
        "splash",
        platform="tpu",
        attend=fused.splash,
        padded=fused.whole_blocks,
        pads_once=False,  # the feed-forward networks would compute up to 30 % more
        projection="separate",
        needs=(
            _BFLOAT16,
            Condition(lambda case: not case.biased, "scores without a position bias"),
            Condition(lambda case: not case.masked, "windows without a mask"),
            _NO_DROPOUT,
            _NO_PREFIX,
            Condition(
                lambda case: case.has_mesh, "a mesh whose axes divide the images and the heads"
            ),
        ),
        pays=(
            Condition(
                lambda case: 2 * case.num_tokens > fused.LANES,
                f"more than {fused.LANES // 2} tokens, as it pads them to {fused.LANES}",
            ),
        ),
    ),
)


def choose(case: Case, *, forced: bool = False) -> Choice:
    """Choose the kernel for a case.

    Args:
      case: The case.
      forced: Whether to choose a kernel even where the plain form moves fewer bytes.
    """
    for kernel in KERNELS:
        if kernel.platform == case.platform:
            conditions = kernel.needs + (() if forced else kernel.pays)
            for condition in conditions:
                if not condition.holds(case):
                    return Choice(None, case, f"{kernel.name} needs {condition.text}")
            return Choice(kernel, case, f"{case.dtype} on {case.device}")
    return Choice(None, case, f"no fused kernel for {case.platform}")


def current_device() -> tuple[str, str]:
    """Return platform and kind of the devices of the mesh in context, or else of JAX's devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return device.platform, device.device_kind


def mesh_divides(batch: int, num_heads: int) -> bool:
    """Return whether there is a mesh in context that divides a batch and the heads evenly."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return False
    axes = nn.logical_to_mesh_axes(("batch", "heads")) or ()
    sizes = (_num_shards(mesh.shape, names) for names in axes)
    return all(size % shards == 0 for size, shards in zip((batch, num_heads), sizes, strict=True))


def _num_shards(mesh_shape: Mapping[str, int], names: str | tuple[str, ...] | None) -> int:
    """Return the number of shards of a dimension, given the mesh axes that shard it."""
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh_shape[name] for name in names)


def pad(x: Array, size: int, axes: tuple[int, ...]) -> Array:
    """Append zeros along some axes of an array, up to a size; a larger array is unchanged."""
    widths = [(0, max(0, size - n) if i in axes else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(width for _, width in widths) else x
