"""The Vision Transformer (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929).

image -> patches -> linear projection -> + position embedding
      -> [class token, distillation token, registers, patches]
      -> encoder (attention, feed-forward; normalized, residual) -> norm -> pool -> head
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.layers.attention import Attention
from vit_jax.models.layers.blocks import BLOCKS, DROP_PATH_SCHEDULES, drop_path_rates
from vit_jax.models.layers.mlp import ACTIVATIONS, MLPS
from vit_jax.models.layers.pools import POOLS, READ_CLASS_TOKEN
from vit_jax.models.layers.posemb import INTERPOLATIONS, POSEMBS
from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS
from vit_jax.models.layers.stems import STEMS, Stem
from vit_jax.models.output import Output

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
DROPOUT_SITES = ("embed", "attn", "mlp")


class ViT(nn.Module):
    """The Vision Transformer; every published plain or hybrid variant is a choice of fields."""

    num_classes: int = 1000  # 0: no head, features only
    stem: str = "patch"
    patch: tuple[int, int] = (16, 16)  # height, width, in pixels or cells of the ResNet's map
    resnet_layers: tuple[int, ...] = ()  # of the stem `resnet`: bottlenecks a stage
    resnet_width: float = 1.0  # times 64 features in its root
    weight_standardization: str = "std"
    group_norm_eps: float = 1e-6
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pool: str = "cls"
    keep_class_token: bool = False  # where the pool does not read it
    distilled: bool = False  # a second token and head (Touvron et al. 2021, section 4)
    posemb: str = "learned"
    posemb_prefix: bool = True  # class and distillation token have positions (not in DeiT III)
    posemb_interpolation: str = "bicubic"  # to another grid than that of the weights
    posemb_antialias: bool = True
    num_registers: int = 0  # Darcet et al. 2024
    fc_norm: bool = False  # the last norm comes after the pool, not before
    representation_size: int = 0  # of a tanh layer before the head; 0 has none
    head_bias: float = 0.0  # initial; -ln(num_classes) or so for the sigmoid loss
    norm_order: str = "pre"
    norm_eps: float = 1e-6
    mlp: str = "mlp"
    activation: str = "gelu"
    qk_norm: bool = False
    layer_scale: float = 0.0  # initial value; 0 has none
    dropout: float = 0.0
    dropout_sites: tuple[str, ...] = DROPOUT_SITES  # where `dropout` acts
    attn_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_schedule: str = "linear"
    dtype: str = "float32"  # of the computation; parameters, norms, softmax and logits are float32

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of a token's cell; image sizes are multiples of them."""
        return self._stem(parent=None).stride

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"], *, train: bool) -> Output:
        """Classifies normalized images; a random key `dropout` is needed while training.

        Raises:
          ValueError: The stride does not divide the image.
        """
        tokens, num_prefix = self._embed(images.astype(self.dtype), train)
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
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
                MLPS[self.mlp],
                self.mlp_dim,
                self.activation,
                self._dropout("mlp"),
                dtype=self.dtype,
            ),
            norm=norm,
            layer_scale=self.layer_scale,
        )
        rates = drop_path_rates(self.drop_path, self.drop_path_schedule, self.depth)
        for i, rate in enumerate(rates):
            tokens = block(drop_path=rate, name=f"blocks_{i}")(tokens, train=train)
            tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        if not self.fc_norm:
            tokens = norm(name="norm")(tokens)
        features = POOLS[self.pool](
            self.num_heads,
            self.mlp_dim,
            self.activation,
            self.norm_eps,
            self.dtype,
            name="pool",
        )(tokens, num_prefix, train=train)
        if self.fc_norm:
            features = norm(name="fc_norm")(features)
        return self._classify(tokens, features, train)

    def _stem(self, **where: Any) -> Stem:
        return STEMS[self.stem](
            self.patch,
            self.width,
            self.dtype,
            self.resnet_layers,
            self.resnet_width,
            self.weight_standardization,
            self.group_norm_eps,
            **where,
        )

    def _embed(self, images: Array, train: bool) -> tuple[Array, int]:
        """Returns the tokens (b, n, d), and how many come before the patches."""
        grid = self._stem(name="stem")(images)
        batch, height, width, dim = grid.shape
        has_class_token = self.pool in READ_CLASS_TOKEN or self.keep_class_token
        names = ["cls_token"] * has_class_token + ["dist_token"] * self.distilled
        posemb = POSEMBS[self.posemb](
            num_prefix=len(names) * self.posemb_prefix,
            interpolation=self.posemb_interpolation,
            antialias=self.posemb_antialias,
            name="posemb",
        )
        positions, grid_positions = posemb(height, width, dim)
        parts = [self._token(name, 1, batch, dim) for name in names]
        parts = [
            token + position.astype(token.dtype)
            for token, position in itertools.zip_longest(parts, positions, fillvalue=jnp.zeros(()))
        ]
        if self.num_registers:
            parts.append(self._token("registers", self.num_registers, batch, dim))
        grid = grid + grid_positions.astype(grid.dtype)
        parts.append(grid.reshape(batch, height * width, dim))
        tokens = jnp.concatenate(parts, axis=1)
        tokens = nn.Dropout(self._dropout("embed"))(tokens, deterministic=not train)
        tokens = nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))
        return tokens, len(names) + self.num_registers

    def _token(self, name: str, num: int, batch: int, dim: int) -> Array:
        """Returns learned tokens, the same for every image."""
        init = nn.initializers.zeros_init() if name == "cls_token" else nn.initializers.normal(0.02)
        boxed = nn.with_logical_partitioning(init, (None, "embed"))
        tokens: Any = self.param(name, boxed, (num, dim), jnp.float32)
        return jnp.broadcast_to(tokens.astype(self.dtype), (batch, num, dim))

    def _classify(self, tokens: Array, features: Array, train: bool) -> Output:
        features = _at_least_float32(features)
        if self.representation_size:
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", None))
            layer = nn.Dense(self.representation_size, kernel_init=init, name="representation")
            features = nn.tanh(layer(features))
        if not self.num_classes:
            return Output(jnp.zeros((len(tokens), 0)), features, tokens)
        init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed", "classes"))
        bias = nn.initializers.constant(self.head_bias)
        head = functools.partial(nn.Dense, self.num_classes, kernel_init=init, bias_init=bias)
        logits = head(name="head")(features)
        if not self.distilled:
            return Output(logits, features, tokens)
        aux_logits = head(name="head_dist")(_at_least_float32(tokens[:, 1]))
        return Output(
            logits if train else (logits + aux_logits) / 2, features, tokens, (aux_logits,)
        )

    def _dropout(self, site: str) -> float:
        return self.dropout if site in self.dropout_sites else 0.0


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# The names that a field may take.
CHOICES: dict[str, Mapping[str, Any]] = {
    "stem": STEMS,
    "weight_standardization": WEIGHT_STANDARDIZATIONS,
    "pool": POOLS,
    "posemb": POSEMBS,
    "posemb_interpolation": INTERPOLATIONS,
    "norm_order": BLOCKS,
    "mlp": MLPS,
    "activation": ACTIVATIONS,
    "drop_path_schedule": DROP_PATH_SCHEDULES,
    "dtype": DTYPES,
}
