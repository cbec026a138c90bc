"""The base class of all models: the fields of their parts, the blocks and the head."""

import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vit_jax.models.layers.activations import ACTIVATIONS
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.blocks import BLOCKS, drop_path_rates
from vit_jax.models.layers.encoder import REMATS, Encoder
from vit_jax.models.layers.grid import Grid
from vit_jax.models.layers.mlp import MLPS
from vit_jax.models.layers.pools import POOLS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import STEMS, Stem
from vit_jax.models.output import Output
from vit_jax.models.parts import Constructor, Part, Problem, fixed, name_of, part
from vit_jax.settings.fields import field

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
GRAD_DTYPES = {"": None, "float32": jnp.float32}
POSEMB_SITES = ("tokens", "rotary", "bias", "first_block", "")  # where a position embedding acts
DROPOUT_SITES = ("embed", "attn", "mlp")  # after the embedding, the attention and the MLP


class Transformer(nn.Module):
    """Base class of models: stem, blocks of attention and feed-forward networks, pool and head."""

    num_classes: int = field(
        1000, "number of classes; 0: inferred from the data (without data: no head)", low=0
    )
    width: int = fixed(768, "embedding dimension", low=1)
    stem: Part = part(STEMS, "patch", "stem, from pixels to tokens")
    posemb: Part = part(POSEMBS, "learned", "position embedding")
    block: Part = part(BLOCKS, "pre", "order of norm and residual connection")
    attention: Part = part(ATTENTIONS, "auto", "attention", inherit="free")
    mlp: Part = part(MLPS, "mlp", "feed-forward network")
    pool: Part = part(POOLS, "gap", "how tokens are pooled for the head", inherit="free")
    norm_eps: float = fixed(1e-6, "epsilon of LayerNorm", above=0, high=1)
    representation_size: int = field(0, "width of a hidden layer before the head; 0: none", low=0)
    representation_activation: str = fixed(
        "tanh", "activation of the hidden layer before the head", choices=ACTIVATIONS
    )
    head_bias: float = field(
        0.0, "initial bias of the head; about -ln(num_classes) for the sigmoid loss"
    )
    dropout: float = field(0.0, "dropout rate at the dropout_sites", low=0, below=1)
    dropout_sites: tuple[str, ...] = field(
        DROPOUT_SITES, "where dropout applies", choices=dict.fromkeys(DROPOUT_SITES)
    )
    dtype: str = field(
        "float32",
        "dtype of the computation; parameters, norms, softmax and logits are float32",
        choices=DTYPES,
    )
    grad_dtype: str = field(
        "",
        "dtype in which gradients of the linear layers of blocks are summed over tokens and "
        "devices; empty: dtype",
        choices=GRAD_DTYPES,
    )
    remat: str = field(
        "none",
        "activations that are computed again in the backward pass, to save memory",
        choices=REMATS,
    )
    scan: bool = field(
        False, "apply equal blocks by a scan: a smaller program, which is compiled sooner"
    )

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels that must divide those of an image."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """(width, number of heads) of each stage."""
        raise NotImplementedError

    @property
    def block_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the blocks of each stage."""
        raise NotImplementedError

    def fields_from_weights(
        self, other: "Transformer", image_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Return fields, by path, that another model must have to start from weights of this one.

        Args:
          other: The model that starts from the weights.
          image_size: Height and width in pixels of the images that this model was trained with.
        """
        return {}

    def find_problems(self) -> Iterator[Problem]:
        """Yield the fields that contradict others; the range of each field is checked elsewhere."""
        for chosen in (self.stem, self.block, self.mlp, self.attention, self.posemb, self.pool):
            yield from chosen.module.check(chosen, self)
        site = self.posemb.module.site
        if site not in POSEMB_SITES:
            sites = ", ".join(map(repr, POSEMB_SITES))
            yield "posemb.name", f"unknown site '{site}'; expected one of {sites}"
        if site == "bias" and not self.attention.module.takes_bias:
            supporting = [name for name, entry in ATTENTIONS.items() if entry.takes_bias]
            posemb = name_of(self.posemb, POSEMBS)
            attention = name_of(self.attention, ATTENTIONS)
            problem = f"{posemb} adds a bias to the scores, which {attention} does not support"
            yield "posemb.name", f"{problem}; use attention={' or '.join(supporting)}"
        if self.dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined, unused-ignore]
            yield "dtype", "float64 needs the environment variable JAX_ENABLE_X64=1"
        if self.dtype == "float64" and self.grad_dtype:
            yield "grad_dtype", f"expected '' for dtype=float64, got {self.grad_dtype}"

    def grids(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        """Return the layout of the tokens of each stage, for a height and width in pixels."""
        raise NotImplementedError

    def describe_attention(self, image_size: tuple[int, int], batch_size: int) -> str:
        """Return the kernels that the attention takes on the devices of the mesh in context.

        Args:
          image_size: Height and width in pixels.
          batch_size: Number of images.

        Returns:
          The kernels with their reasons, or an empty text if the attention has no choice.
        """
        choices = [
            self._make_attention(stage)(block=block, parent=None).choose(batch_size, width, grid)
            for stage, (grid, (width, _)) in enumerate(
                zip(self.grids(image_size), self.stages, strict=True)
            )
            for block in range(2)  # even and odd blocks may differ
        ]
        texts = dict.fromkeys(str(choice) for choice in choices if choice)
        return f"{name_of(self.attention, ATTENTIONS)}: {'; '.join(texts)}" if texts else ""

    def _make_attention(self, stage: int) -> Constructor:
        """Return the constructor of the attention of a stage, without the index of the block."""
        bias = self._posemb_at("bias")
        return functools.partial(
            self.attention,
            num_heads=self.stages[stage][1],
            norm_eps=self.norm_eps,
            rotary=self._posemb_at("rotary"),
            bias=functools.partial(bias, stage=stage) if bias else None,
            out_dropout=self._dropout("attn"),
            dtype=self.dtype,
            grad_dtype=self.grad_dtype,
        )

    def _make_stem(self, pad: bool, **where: Any) -> Stem:
        stem: Stem = self.stem(width=self.width, dtype=self.dtype, pad=pad, **where)
        return stem

    def _posemb_at(self, site: str) -> Part | None:
        """Return the position embedding if it acts at this site, or None."""
        return self.posemb if self.posemb.module.site == site else None

    def _added_positions(
        self, height: int, width: int, dim: int, num_prefix: int, num_registers: int = 0
    ) -> tuple[Any, Any]:
        """Return the embeddings to add to the prefix tokens, (p, d), and the patches, (h, w, d)."""
        absolute = self._posemb_at("tokens")
        if absolute is None:
            return jnp.zeros((0, dim)), jnp.zeros((height, width, dim))
        posemb = absolute(num_prefix=num_prefix, num_registers=num_registers, name="posemb")
        return posemb(height, width, dim)

    def _make_norm(self, name: str) -> nn.Module:
        return nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)

    def _encode(
        self,
        tokens: Array,
        grid: Grid,
        *,
        stage: int,
        mlp_dim: int,
        drop_rates: tuple[float, ...],
        train: bool,
    ) -> Array:
        """Apply the blocks of a stage to the tokens."""
        mlp = functools.partial(
            self.mlp,
            mlp_dim=mlp_dim,
            dropout=self._dropout("mlp"),
            dtype=self.dtype,
            grad_dtype=self.grad_dtype,
        )
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        if self.scan and not self.is_initializing():  # A scan would keep the norms in float32.
            norm = functools.partial(nn.remat(nn.LayerNorm, prevent_cse=False), **norm.keywords)
        conditional: Constructor | None = self._posemb_at("first_block")
        if conditional:
            conditional = functools.partial(conditional, dtype=self.dtype)
        encoder = Encoder(
            block=functools.partial(self.block, norm=norm),
            attention=self._make_attention(stage),
            mlp=mlp,
            names=self.block_names[stage],
            drop_rates=drop_rates,
            conditional=conditional,
            period=self.attention.module.period,
            remat=self.remat,
            name=f"encoder_{stage}",
        )
        nn.share_scope(self, encoder)
        return encoder(tokens, grid, train=train)

    def _drop_rates(self, depth: int) -> tuple[float, ...]:
        """Return the stochastic depth rate of each block."""
        block = self.block
        return drop_path_rates(block["drop_path"], block["drop_path_schedule"], depth)

    def _norm_and_pool(
        self, tokens: Array, num_prefix: int, num_heads: int, mlp_dim: int, train: bool
    ) -> tuple[Array, Array]:
        """Return the tokens and the pooled features; the final norm is before or after the pool."""
        norm_last = self.pool["fc_norm"]
        if not norm_last:
            tokens = self._make_norm("norm")(tokens)
        pool = self.pool(
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            name="pool",
        )
        features = pool(tokens, num_prefix, train=train)
        if norm_last:
            features = self._make_norm("fc_norm")(features)
        return tokens, features

    def _classify(self, tokens: Array, grid: Grid, features: Array) -> Output:
        """Apply the representation layer and the head, if the model has them."""
        features = at_least_float32(features)
        if self.representation_size:
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", None))
            layer = nn.Dense(self.representation_size, kernel_init=init, name="representation")
            features = ACTIVATIONS[self.representation_activation](layer(features))
        if not self.num_classes:
            return Output(jnp.zeros((len(tokens), 0)), features, tokens, grid)
        return Output(self._head("head")(features), features, tokens, grid)

    def _head(self, name: str) -> nn.Module:
        init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("embed", "classes"))
        bias = nn.initializers.constant(self.head_bias)
        return nn.Dense(self.num_classes, kernel_init=init, bias_init=bias, name=name)

    def _dropout(self, site: str) -> float:
        return self.dropout if site in self.dropout_sites else 0.0


def at_least_float32(x: Array) -> Array:
    """Return the array in float32, or in its own dtype if that has more bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
