"""Validation of a model section: each value by itself, and values that depend on each other."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vit_jax.errors import ConfigError, pick
from vit_jax.models.layers import resnet
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import POWER_OF_TWO_STEMS, halves
from vit_jax.models.transformer import CHOICES, DROPOUT_SITES

Fields = Mapping[str, Any]

FROM_ONE = ("width", "depth", "depths", "num_heads", "mlp_dim", "window", "landmarks", "reduction")
FROM_ZERO = ("num_classes", "num_registers", "representation_size", "layer_scale")
RATES = ("dropout", "attn_dropout", "drop_path")
ABOVE_ZERO = ("norm_eps", "group_norm_eps", "resnet_width", "mlp_ratio")


def check(fields: Fields) -> None:
    """Validate a model section.

    Raises:
      ConfigError: A value is not in its table or range, or contradicts another.
    """
    path = "config.model."
    for key, table in CHOICES.items():
        pick(table, fields[key], path + key)
    for site in fields["dropout_sites"]:
        pick(dict.fromkeys(DROPOUT_SITES), site, path + "dropout_sites")
    rules = (_ranges, _attention, _stem, _rest)
    for key, problem in itertools.chain.from_iterable(rule(fields) for rule in rules):
        raise ConfigError(path + key, problem)


def _ranges(fields: Fields) -> Iterator[tuple[str, str]]:
    for key in (*FROM_ONE, *FROM_ZERO, *RATES, *ABOVE_ZERO, "pretrained_window"):
        if key not in fields:
            continue
        value = fields[key]
        values = value if isinstance(value, tuple | list) else (value,)
        if key in FROM_ONE and not all(number >= 1 for number in values):
            yield key, f"expected at least 1, got {value}"
        if key in (*FROM_ZERO, "pretrained_window") and not all(number >= 0 for number in values):
            yield key, f"expected at least 0, got {value}"
        if key in RATES and not 0 <= value < 1:
            yield key, f"expected 0 <= rate < 1, got {value}"
        if key in ABOVE_ZERO and not value > 0:
            yield key, f"expected more than 0, got {value}"
    for key in ("patch", "window"):
        if len(fields[key]) != 2 or min(fields[key]) < 1:
            yield key, f"expected two sizes from 1, got {fields[key]}"


def _attention(fields: Fields) -> Iterator[tuple[str, str]]:
    """Yield the contradictions among width, heads, attention and position embedding."""
    attention = ATTENTIONS[fields["attention"]]
    posemb = POSEMBS[fields["posemb"]]
    for width, num_heads in _widths(fields):
        if width % num_heads:
            yield "num_heads", f"{num_heads} does not divide width {width}"
        elif posemb.rotary and width // num_heads % 4:
            problem = f"{fields['posemb']} needs heads of a multiple of 4 channels"
            yield "num_heads", f"{problem}, got {width // num_heads}"
    if fields["posemb"] == "sincos2d" and (fields["width"] % 4 or fields["width"] < 8):
        yield "width", f"sincos2d needs a multiple of 4 from 8, got {fields['width']}"
    if fields["posemb_interpolation"] == "geometric" and not posemb.bias:
        yield "posemb_interpolation", "geometric is for tables of offsets: relative_bias only"
    if posemb.bias and not attention.takes_bias:
        choices = ", ".join(name for name, entry in ATTENTIONS.items() if entry.takes_bias)
        problem = f"{fields['posemb']} is a bias of the scores of each pair of tokens, which"
        yield "posemb", f"{problem} {fields['attention']} attention does not have; try {choices}"
    if fields["attn_dropout"] and not attention.has_weights:
        choices = ", ".join(name for name, entry in ATTENTIONS.items() if entry.has_weights)
        problem = f"{fields['attention']} attention has no weights to drop; try {choices}"
        yield "attn_dropout", problem


def _widths(fields: Fields) -> list[tuple[int, int]]:
    """Return width and number of heads of each stage."""
    heads = fields["num_heads"]
    if isinstance(heads, int):
        return [(fields["width"], heads)]
    return [(fields["width"] * 2**i, num_heads) for i, num_heads in enumerate(heads)]


def _stem(fields: Fields) -> Iterator[tuple[str, str]]:
    stem = fields["stem"]
    patch = tuple(fields["patch"])
    if stem in POWER_OF_TWO_STEMS and not halves(patch):
        yield "patch", f"the stem {stem} needs a square patch of 2, 4, 8 or so, got {patch}"
    if min(fields["resnet_layers"], default=1) < 1:
        problem = f"expected at least 1 bottleneck a stage, got {fields['resnet_layers']}"
        yield "resnet_layers", problem
    root = round(64 * fields["resnet_width"])
    if stem == "resnet" and (not root or root % resnet.NUM_GROUPS):
        problem = f"64 times it is the features of the root: a multiple of {resnet.NUM_GROUPS}"
        yield "resnet_width", problem


def _rest(fields: Fields) -> Iterator[tuple[str, str]]:
    if fields["dtype"] == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        yield "dtype", "float64 needs the environment variable JAX_ENABLE_X64=1"
    if fields["dtype"] == "float64" and fields["attention"] == "fused":
        yield "dtype", "fused attention has its softmax in float32; try attention=full"
    if "depths" in fields:
        stages = len(fields["depths"])
        for key in ("depths", "num_heads", "pretrained_window"):
            unset = key == "pretrained_window" and not fields[key]
            if len(fields[key]) != stages and not unset:
                yield key, f"expected one number for each of {stages} stages, got {fields[key]}"
        if not stages:
            yield "depths", "expected at least one stage"
        if fields["pool"] not in ("gap", "map"):
            yield "pool", f"there is no class token to read; try gap or map, got {fields['pool']}"
    elif fields["distilled"] and (
        fields["pool"] != "cls" or fields["fc_norm"] or fields["representation_size"]
    ):
        yield "distilled", "needs the pool cls, and neither fc_norm nor a representation layer"
