"""Find our model name that is nearest to a model of transformers."""

import math
from collections.abc import Mapping

# Widths of ViT by the size in our names, and those of DINOv2, which differ for size g.
VIT_WIDTHS = {
    "mu": 32,
    "ti": 192,
    "s": 384,
    "m": 512,
    "b": 768,
    "l": 1024,
    "so400m": 1152,
    "h": 1280,
    "g": 1408,
    "G": 1664,
}
DINOV2_WIDTHS = {"s": 384, "b": 768, "l": 1024, "g": 1536}
# (width of the first stage, number of blocks) of Swin.
SWIN_SIZES = {"t": (96, 12), "s": (96, 24), "b": (128, 24), "l": (192, 24)}
SERIES = {  # (series, suffix) of our names, by model type
    "vit": ("vit", ""),
    "deit": ("deit", "_distilled"),
    "dinov2": ("dinov2", ""),
    "dinov2_with_registers": ("dinov2", "_reg4"),
}


def name_vit(model_type: str, width: int, patch: int) -> str:
    """Return the name of the nearest ViT, DeiT or DINOv2.

    Args:
      model_type: transformers' type of the model.
      width: Width of the tokens.
      patch: Height of a patch in pixels.
    """
    series, variant = SERIES[model_type]
    widths = DINOV2_WIDTHS if series == "dinov2" else VIT_WIDTHS
    return f"{series}_{_nearest(widths, width)}{patch}{variant}"


def name_swin(model_type: str, width: int, depths: tuple[int, ...], window: int) -> str:
    """Return the name of the nearest Swin.

    Args:
      model_type: transformers' type of the model.
      width: Width of the first stage.
      depths: Number of blocks per stage.
      window: Side of the window in tokens.
    """
    size = _nearest({name: width for name, (width, _) in SWIN_SIZES.items()}, width)
    if size == "t" and sum(depths) > 17:
        size = "s"
    return f"{model_type}_{size}_w{window}"


def _nearest(widths: Mapping[str, int], width: int) -> str:
    return min(widths, key=lambda name: abs(math.log(widths[name] / max(1, width))))
