"""What all models share: the fields of their building blocks, the Transformer block, the head."""

import functools
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
from vit_jax.models.layers.posemb import POSEMB_INTERPOLATIONS, POSEMBS
from vit_jax.models.layers.resnet import WEIGHT_STANDARDIZATIONS
from vit_jax.models.layers.stems import STEMS, Stem
from vit_jax.models.output import Output
from vit_jax.settings.fields import field

# Fields of the architecture: weights need a `part` as it was trained, and leave a `variable` open.
# All other fields belong to the run.
part = functools.partial(field, inherit="fixed")
variable = functools.partial(field, inherit="free")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
DROPOUT_SITES = ("embed", "attn", "mlp")


class Transformer(nn.Module):
    """A stem, blocks of attention and feed-forward networks, a pool and a head."""

    num_classes: int = field(1000, "number of classes; 0: from the data, or features only")
    stem: str = part("patch", "patch embedding: patch, overlap, conv, hmlp, resnet")
    patch: tuple[int, int] = part(
        (16, 16), "height and width of a patch in pixels, or in cells of the ResNet's map"
    )
    resnet_layers: tuple[int, ...] = part((), "bottlenecks per stage of the resnet stem")
    resnet_width: float = part(1.0, "width of the resnet stem: times 64 features in its root")
    weight_standardization: str = part(
        "std", "form of weight standardization in the resnet stem: std, variance"
    )
    group_norm_eps: float = part(1e-6, "epsilon of GroupNorm in the resnet stem")
    width: int = part(768, "embedding dimension")
    posemb: str = part(
        "learned",
        "positions: learned, sincos2d, rope, rope_mixed, relative_bias, log_cpb, conditional, none",
    )
    posemb_interpolation: str = part("bicubic", "how position tables are resampled for a new grid")
    posemb_antialias: bool = part(True, "antialias when position tables are resampled")
    attention: str = variable(
        "full", "full, fused, window, dilated, linformer, nystrom, reduced, linear"
    )
    window: tuple[int, int] = variable(
        (7, 7), "height and width in tokens, of window and dilated attention"
    )
    pad_order: str = part("shift_pad", "window attention: shift_pad (timm), pad_shift (HF)")
    mask_padding: bool = variable(False, "window attention: mask padded tokens")
    landmarks: int = variable(64, "landmarks of linformer and nystrom attention")
    reduction: int = part(2, "stride of reduced attention's keys and values")
    qk_norm: bool = part(False, "LayerNorm of queries and keys")
    cosine: bool = part(False, "cosine attention (Liu et al. 2022, Swin v2, section 3.2)")
    norm_order: str = part("pre", "order of norm and residual: pre, post, res_post")
    norm_eps: float = part(1e-6, "epsilon of LayerNorm")
    mlp: str = part("mlp", "feed-forward network: mlp, swiglu")
    activation: str = part("gelu", "activation of the MLP: gelu (erf), gelu_tanh, relu")
    layer_scale: float = variable(0.0, "initial value of LayerScale; 0: off")
    pool: str = variable("gap", "what the head sees: cls, gap, cls_gap, map")
    representation_size: int = field(0, "width of a tanh layer before the head; 0: off")
    head_bias: float = field(
        0.0, "initial bias of the head; about -ln(num_classes) for the sigmoid loss"
    )
    dropout: float = field(0.0, "dropout rate at dropout_sites")
    dropout_sites: tuple[str, ...] = field(DROPOUT_SITES, "where dropout acts: embed, attn, mlp")
    attn_dropout: float = field(0.0, "dropout rate of the attention weights")
    drop_path: float = field(0.0, "stochastic depth: rate of the last block")
    drop_path_schedule: str = field("linear", "stochastic depth over the blocks: linear, constant")
    dtype: str = field(
        "float32", "dtype of the computation; parameters, norms, softmax and logits are float32"
    )

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels which must divide those of an image."""
        raise NotImplementedError

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of each stage."""
        raise NotImplementedError

    def fields_from_weights(
        self, fields: Mapping[str, Any], image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Return the fields that these weights determine in another model that starts from them.

        Args:
          fields: The fields of the other model.
          image_size: Height and width in pixels of the images that this model was trained on.
        """
        return {}

    def describe_attention(self) -> str:
        """Return the implementation of fused attention and why; empty for other attentions."""
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
        """Return the embeddings to add to the prefix tokens, (p, d), and to the grid, (h, w, d)."""
        absolute = POSEMBS[self.posemb].absolute
        if absolute is None:
            return jnp.zeros((num_prefix, dim)), jnp.zeros((height, width, dim))
        posemb = absolute(
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
        """Return the tokens after a block and, after the first one, the conditional embedding."""
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


def at_least_float32(x: Array) -> Array:
    """Return the array in float32, or in its own dtype where that is larger."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# The names that are valid for a field.
CHOICES: dict[str, Mapping[str, Any]] = {
    "stem": STEMS,
    "weight_standardization": WEIGHT_STANDARDIZATIONS,
    "pool": POOLS,
    "posemb": POSEMBS,
    "posemb_interpolation": POSEMB_INTERPOLATIONS,
    "attention": ATTENTIONS,
    "pad_order": PAD_ORDERS,
    "norm_order": BLOCKS,
    "mlp": MLPS,
    "activation": ACTIVATIONS,
    "drop_path_schedule": DROP_PATH_SCHEDULES,
    "dtype": DTYPES,
}
