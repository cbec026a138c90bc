"""Calls of fused attention kernels: cuDNN's on GPUs, and the splash attention of Pallas on TPUs.

All take queries, keys and values with padding at the end, of which no token attends to the padding,
and return the output with padding.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.layers.grid import ceil_div

# Tokens of splash attention.
LANES = 128  # the number of tokens is a multiple of it
ONE_BLOCK = 1024  # more tokens than these do not fit the on-chip memory as one block
BLOCK = 512  # size of the blocks, if there are several


def even(num_tokens: int) -> int:
    """Return the number of tokens that cuDNN gets."""
    return num_tokens + num_tokens % 2


def whole_blocks(num_tokens: int) -> int:
    """Return the number of tokens that splash attention gets."""
    multiple = LANES if num_tokens <= ONE_BLOCK else BLOCK
    return ceil_div(num_tokens, multiple) * multiple


def cudnn(
    q: Float[Array, "b n heads c"],
    k: Float[Array, "b n heads c"],
    v: Float[Array, "b n heads c"],
    bias: Float[Array, "_ _ n n"] | None,
    num_tokens: int,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "b n heads c"]:
    """Attend with cuDNN's kernel.

    Args:
      q: Queries; their dot products with the keys are the scores.
      k: Keys.
      v: Values.
      bias: Bias of the scores, or None.
      num_tokens: Number of tokens without padding.
      implementation: That of `jax.nn.dot_product_attention`; `xla` computes the same anywhere.
    """
    # Keys of the padding are masked. Its queries are not, so that all of the output is computed.
    # cuDNN may leave the gradients of masked keys and values undefined; `where` makes them zero.
    is_token = (np.arange(q.shape[1]) < num_tokens)[:, None, None]
    k, v = (jnp.where(is_token, x, 0) for x in (k, v))
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias,
        scale=1.0,
        key_value_seq_lengths=jnp.full(q.shape[0], num_tokens, jnp.int32),
        implementation=implementation,
    )


def splash(
    q: Float[Array, "b n heads c"],
    k: Float[Array, "b n heads c"],
    v: Float[Array, "b n heads c"],
    bias: Float[Array, "_ _ n n"] | None,
    num_tokens: int,
    interpret: bool = False,
) -> Float[Array, "b n heads c"]:
    """Attend with splash attention, on each device of the mesh in context by itself.

    Args:
      q: Queries; their dot products with the keys are the scores.
      k: Keys.
      v: Values.
      bias: None; the kernel adds no bias.
      num_tokens: Number of tokens without padding.
      interpret: Whether to interpret the kernel, on a CPU.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention  # which takes a while

    size = q.shape[1]
    mask = np.broadcast_to(np.arange(size) < num_tokens, (size, size))
    spec = nn.logical_to_mesh_axes(("batch", "heads", "tokens", "kv"))

    @functools.partial(jax.shard_map, in_specs=spec, out_specs=spec, check_vma=False)
    def attend(q: Array, k: Array, v: Array) -> Array:
        head_masks = [splash_attention.NumpyMask(mask)] * q.shape[1]
        kernel = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask(head_masks),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=_block_sizes(size),
            interpret=interpret,
        )
        output: Array = jax.vmap(kernel)(q, k, v)
        return output

    return attend(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)


def _block_sizes(num_tokens: int) -> Any:
    """Return the `BlockSizes`: with a single block, one kernel computes all gradients.

    Tokens are the last dimension in memory, as heads of 64 channels would fill half of the lanes.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention

    one_block = num_tokens <= ONE_BLOCK
    block = num_tokens if one_block else BLOCK
    layout = splash_attention.QKVLayout.SEQ_MINOR
    return splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=None if one_block else block,
        block_kv_dq=None if one_block else block,
        use_fused_bwd_kernel=one_block,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
    )
