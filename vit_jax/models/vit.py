"""The Vision Transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

image -> patches -> linear projection -> + position embedding -> [class token, registers, patches]
      -> encoder (attention, feed-forward; normalized, residual) -> norm -> pool -> head
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention import Attention
from vit_jax.models.layers.blocks import BLOCKS, DROP_PATH_SCHEDULES, drop_path_rates
from vit_jax.models.layers.mlp import ACTIVATIONS, Mlp
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import PatchEmbed
from vit_jax.models.output import Output

# width, depth, num_heads, mlp_dim. Ti, S, B, L: DeiT and ViT; M: DeiT III; mu, So400m: big_vision
# and Alabdulmohsin et al. 2023; H: ViT; g, G: Zhai et al. 2022, table 2.
SIZES = {
    "mu": (32, 1, 2, 128),
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "m": (512, 12, 8, 2048),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
}

# Fields that differ from the published ViT; the name ends in the variant's.
VARIANTS = {
    "": {},
    # The text-book Transformer encoder: norm after the residual, ReLU, dropout inside the
    # feed-forward network and of the attention weights only.
    "_textbook": {
        "norm_order": "post",
        "activation": "relu",
        "dropout": 0.1,
        "dropout_sites": ("mlp",),
        "attn_dropout": 0.1,
        "norm_eps": 1e-5,
    },
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
DROPOUT_SITES = ("embed", "attn", "mlp")


class ViT(nn.Module):
    """The Vision Transformer; every published plain variant is a choice of fields."""

    num_classes: int = 1000  # 0: no head, features only
    patch: tuple[int, int] = (16, 16)  # height, width in pixels
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: str = "cls"
    posemb: str = "learned"
    posemb_prefix: bool = True  # the class token has a position of its own (not in DeiT III)
    posemb_interpolation: str = "bicubic"  # to another grid than that of the weights
    posemb_antialias: bool = True
    num_registers: int = 0  # Darcet et al. 2024
    representation_size: int = 0  # of a tanh layer before the head; 0 has none
    head_bias: float = 0.0  # initial; -ln(num_classes) or so for the sigmoid loss
    norm_order: str = "pre"
    norm_eps: float = 1e-6
    activation: str = "gelu"
    qk_norm: bool = False
    layer_scale: float = 0.0  # initial value; 0 has none
    dropout: float = 0.0
    dropout_sites: tuple[str, ...] = DROPOUT_SITES  # where `dropout` acts
    attn_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_schedule: str = "linear"
    dtype: str = "float32"  # of the computation; parameters, norms, softmax and logits are float32

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classifies normalized images; a random key `dropout` is needed while training.

        Raises:
          ValueError: The patch does not divide the image.
        """
        tokens, num_prefix = self._embed(images.astype(self.dtype), train)
        block = functools.partial(
            BLOCKS[self.norm_order],
            attention=functools.partial(
                Attention,
                self.num_heads,
                qk_norm=self.qk_norm,
                norm_eps=self.norm_eps,
                attn_dropout=self.attn_dropout,
                dropout=self._dropout("attn"),
                dtype=self.dtype,
            ),
            mlp=functools.partial(
                Mlp, self.mlp_dim, self.activation, self._dropout("mlp"), dtype=self.dtype
            ),
            norm=functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype),
            layer_scale=self.layer_scale,
        )
        rates = drop_path_rates(self.drop_path, self.drop_path_schedule, self.depth)
        for i, rate in enumerate(rates):
            tokens = block(drop_path=rate, name=f"blocks_{i}")(tokens, train=train)
            tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        tokens = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="norm")(tokens)
        return self._head(tokens, num_prefix, train)

    def _embed(self, images: Array, train: bool) -> tuple[Array, int]:
        """Returns the tokens (b, n, d), and how many come before the patches."""
        grid = PatchEmbed(self.patch, self.width, self.dtype, name="stem")(images)
        batch, height, width, dim = grid.shape
        has_class_token = self.pool == "cls"
        posemb = POSEMBS[self.posemb](
            num_prefix=int(has_class_token and self.posemb_prefix),
            interpolation=self.posemb_interpolation,
            antialias=self.posemb_antialias,
            name="posemb",
        )
        prefix_position, grid_position = posemb(height, width, dim)
        grid = grid + grid_position.astype(grid.dtype)
        parts = [grid.reshape(batch, height * width, dim)]
        if self.num_registers:
            init = nn.initializers.normal(0.02)
            parts.insert(0, self._prefix("registers", init, self.num_registers, batch, dim))
        if has_class_token:
            token = self._prefix("cls_token", nn.initializers.zeros_init(), 1, batch, dim)
            parts.insert(0, token + prefix_position.sum(axis=0).astype(token.dtype))
        tokens = jnp.concatenate(parts, axis=1)
        tokens = nn.Dropout(self._dropout("embed"))(tokens, deterministic=not train)
        tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens, self.num_registers + has_class_token

    def _prefix(
        self, name: str, init: nn.initializers.Initializer, num: int, batch: int, dim: int
    ) -> Array:
        boxed = nn.with_logical_partitioning(init, (None, "embed"))
        tokens: Any = self.param(name, boxed, (num, dim))
        return jnp.broadcast_to(tokens.astype(self.dtype), (batch, num, dim))

    def _head(self, tokens: Array, num_prefix: int, train: bool) -> Output:
        features = POOLS[self.pool](
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.norm_eps,
            self.dtype,
            name="pool",
        )(tokens, num_prefix, train=train).astype(jnp.float32)
        if self.representation_size:
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", None))
            layer = nn.Dense(self.representation_size, kernel_init=init, name="representation")
            features = nn.tanh(layer(features))
        if not self.num_classes:
            return Output(jnp.zeros((len(tokens), 0)), features, tokens)
        init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed", "classes"))
        bias = nn.initializers.constant(self.head_bias)
        head = nn.Dense(self.num_classes, kernel_init=init, bias_init=bias, name="head")
        return Output(head(features), features, tokens)

    def _dropout(self, site: str) -> float:
        return self.dropout if site in self.dropout_sites else 0.0


# The names that a field may take.
CHOICES: dict[str, Mapping[str, Any]] = {
    "pool": POOLS,
    "posemb": POSEMBS,
    "norm_order": BLOCKS,
    "activation": ACTIVATIONS,
    "drop_path_schedule": DROP_PATH_SCHEDULES,
    "dtype": DTYPES,
    "posemb_interpolation": {"nearest": 0, "bilinear": 1, "bicubic": 3, "lanczos3": 5},
}
