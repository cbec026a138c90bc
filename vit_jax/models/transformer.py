"""What all models share: the fields of their parts, blocks made from them, and the head."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.attention.base import implementation
from vit_jax.models.layers.attention.window import PAD_ORDERS
from vit_jax.models.layers.blocks import BLOCKS, DROP_PATH_SCHEDULES
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.mlp import ACTIVATIONS, MLPS
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import INTERPOLATIONS, POSEMBS, resample
from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS
from vit_jax.models.layers.stems import STEMS, Stem
from vit_jax.models.output import Output

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
DROPOUT_SITES = ("embed", "attn", "mlp")


class Transformer(nn.Module):
    """A stem, blocks of attention and feed-forward networks, a pool and a head."""

    num_classes: int = 1000  # 0: no head, features only
    stem: str = "patch"
    patch: tuple[int, int] = (16, 16)  # height, width, in pixels or cells of the ResNet's map
    resnet_layers: tuple[int, ...] = ()  # of the stem `resnet`: bottlenecks a stage
    resnet_width: float = 1.0  # times 64 features in its root
    weight_standardization: str = "std"
    group_norm_eps: float = 1e-6
    width: int = 768
    posemb: str = "learned"
    posemb_interpolation: str = "bicubic"  # to another grid than that of the weights
    posemb_antialias: bool = True
    attention: str = "full"
    window: tuple[int, int] = (7, 7)  # of window and dilated: height and width in tokens
    pad_order: str = "shift_pad"  # of window: what padding and shift do where it does not divide
    mask_padding: bool = False  # of window: nobody sees what is padded
    landmarks: int = 64  # of linformer and nystrom
    reduction: int = 2  # of reduced
    qk_norm: bool = False
    cosine: bool = False  # attention by cosines (Liu et al. 2022, Swin v2, section 3.2)
    norm_order: str = "pre"
    norm_eps: float = 1e-6
    mlp: str = "mlp"
    activation: str = "gelu"
    layer_scale: float = 0.0  # initial value; 0 has none
    pool: str = "gap"
    representation_size: int = 0  # of a tanh layer before the head; 0 has none
    head_bias: float = 0.0  # initial; -ln(num_classes) or so for the sigmoid loss
    dropout: float = 0.0
    dropout_sites: tuple[str, ...] = DROPOUT_SITES  # where `dropout` acts
    attn_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_schedule: str = "linear"
    dtype: str = "float32"  # of the computation; parameters, norms, softmax and logits are float32

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that image sizes are multiples of."""
        raise NotImplementedError

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of each stage."""
        raise NotImplementedError

    def describe_attention(self) -> str:
        """Returns what computes the attention here, where that is a choice; else nothing."""
        if self.attention != "fused":
            return ""
        biased = POSEMBS[self.posemb].bias is not None
        name, reason = implementation(self.dtype, self.width // self.heads[0], biased=biased)
        return f"fused, by {name} ({reason})"

    def _make_stem(self, pad: bool, **where: Any) -> Stem:
        return STEMS[self.stem](
            self.patch,
            self.width,
            self.dtype,
            self.resnet_layers,
            self.resnet_width,
            self.weight_standardization,
            self.group_norm_eps,
            pad,
            **where,
        )

    def _absolute(self, height: int, width: int, dim: int, num_prefix: int) -> tuple[Any, Any]:
        """Returns what is added to the prefix tokens and to the grid."""
        part = POSEMBS[self.posemb].absolute
        if part is None:
            return jnp.zeros((num_prefix, dim)), jnp.zeros((height, width, dim))
        posemb = part(
            num_prefix=num_prefix,
            interpolation=self.posemb_interpolation,
            antialias=self.posemb_antialias,
            name="posemb",
        )
        return posemb(height, width, dim)

    def _make_norm(self, name: str) -> nn.Module:
        return nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)

    def _apply_block(
        self,
        tokens: Array,
        grid: Grid,
        *,
        index: int,
        num_heads: int,
        mlp_dim: int,
        drop_path: float,
        train: bool,
        name: str,
        pretrained_window: int = 0,
    ) -> Array:
        """Returns the tokens after a block; after the first of a grid, positions may be added."""
        posemb = POSEMBS[self.posemb]
        bias = posemb.bias and functools.partial(
            posemb.bias,
            interpolation=self.posemb_interpolation,
            antialias=self.posemb_antialias,
            pretrained_window=pretrained_window,
        )
        attention = functools.partial(
            ATTENTIONS[self.attention],
            num_heads,
            qk_norm=self.qk_norm,
            cosine=self.cosine,
            norm_eps=self.norm_eps,
            rotary=posemb.rotary,
            bias=bias,
            attn_dropout=self.attn_dropout,
            dropout=self._dropout("attn"),
            dtype=self.dtype,
            block=index,
            window=self.window,
            pad_order=self.pad_order,
            mask_padding=self.mask_padding,
            landmarks=self.landmarks,
            reduction=self.reduction,
        )
        mlp = functools.partial(
            MLPS[self.mlp], mlp_dim, self.activation, self._dropout("mlp"), dtype=self.dtype
        )
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        block = BLOCKS[self.norm_order](
            attention, mlp, norm, self.layer_scale, drop_path, name=name
        )
        tokens = block(tokens, grid, train=train)
        if posemb.conditional and index == 0:
            tokens = posemb.conditional(dtype=self.dtype, name=f"{name}_posemb")(tokens, grid)
        return nn.with_logical_constraint(tokens, ("batch", "tokens", "channels"))

    def _pool(
        self, tokens: Array, num_prefix: int, num_heads: int, mlp_dim: int, train: bool
    ) -> Array:
        fields = (num_heads, mlp_dim, self.activation, self.norm_eps, self.dtype)
        return POOLS[self.pool](*fields, name="pool")(tokens, num_prefix, train=train)

    def _classify(self, tokens: Array, features: Array) -> Output:
        features = at_least_float32(features)
        if self.representation_size:
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", None))
            layer = nn.Dense(self.representation_size, kernel_init=init, name="representation")
            features = nn.tanh(layer(features))
        if not self.num_classes:
            return Output(jnp.zeros((len(tokens), 0)), features, tokens)
        return Output(self._head("head")(features), features, tokens)

    def _head(self, name: str) -> nn.Module:
        init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed", "classes"))
        bias = nn.initializers.constant(self.head_bias)
        return nn.Dense(self.num_classes, kernel_init=init, bias_init=bias, name=name)

    def _dropout(self, site: str) -> float:
        return self.dropout if site in self.dropout_sites else 0.0


def resize_table(name: str, table: Any, shape: tuple[int, ...], model: Mapping[str, Any]) -> Any:
    """Returns a parameter that belongs to a size of grid as a model would use it for another.

    Args:
      name: Of the parameter, one that `weights.adapt.TABLES` matches.
      table: The parameter, (h, w, d).
      shape: The other.
      model: Fields of the model.
    """
    height, width = shape[:2]
    if "/mix_" in name:  # sums over the grid, which keep their size
        return resample(table, height, width) * (math.prod(table.shape[:2]) / (height * width))
    fields = (model["posemb_interpolation"], model["posemb_antialias"])
    return resample(table, height, width, *fields)


def at_least_float32(x: Array) -> Array:
    """Returns the array in float32 where its dtype is smaller."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# The names that a field may take.
CHOICES: dict[str, Mapping[str, Any]] = {
    "stem": STEMS,
    "weight_standardization": WEIGHT_STANDARDIZATIONS,
    "pool": POOLS,
    "posemb": POSEMBS,
    "posemb_interpolation": INTERPOLATIONS,
    "attention": ATTENTIONS,
    "pad_order": PAD_ORDERS,
    "norm_order": BLOCKS,
    "mlp": MLPS,
    "activation": ACTIVATIONS,
    "drop_path_schedule": DROP_PATH_SCHEDULES,
    "dtype": DTYPES,
}
