"""Model names of Swin: SERIES_SIZE_wWINDOW, such as `swin_t_w7`, with patches of 4x4 pixels."""

import re
from typing import Any

Fields = dict[str, Any]  # by path, such as `attention.window`


def _pyramid(width: int, depths: tuple[int, ...], first_heads: int) -> Fields:
    heads = tuple(first_heads * 2**i for i in range(len(depths)))
    return {"width": width, "depths": depths, "num_heads": heads}


# Liu et al. 2021, section 3.3; Liu et al. 2022, section 4.1.
SIZES = {
    "t": _pyramid(96, (2, 2, 6, 2), 3),
    "s": _pyramid(96, (2, 2, 18, 2), 3),
    "b": _pyramid(128, (2, 2, 18, 2), 4),
    "l": _pyramid(192, (2, 2, 18, 2), 6),
}
SERIES: dict[str, Fields] = {
    "swin": {},
    "swinv2": {"block.name": "res_post", "attention.cosine": True, "posemb.name": "log_cpb"},
}

# The published models.
NAMES = (
    "swin_t_w7",
    "swin_s_w7",
    "swin_b_w7",
    "swin_b_w12",
    "swin_l_w7",
    "swin_l_w12",
    "swinv2_t_w8",
    "swinv2_t_w16",
    "swinv2_s_w8",
    "swinv2_s_w16",
    "swinv2_b_w8",
    "swinv2_b_w16",
)

_NAME = re.compile(r"(?P<series>\w+)_(?P<size>[a-z]+)_w(?P<window>[1-9]\d*)")


def find(name: str) -> Fields | None:
    """Return the fields that a model name sets, or None if it is not a name of Swin."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    fields = SERIES.get(match["series"])
    pyramid = SIZES.get(match["size"])
    if fields is None or pyramid is None:
        return None
    window = (int(match["window"]),) * 2
    return {**pyramid, "attention.window": window, **fields}
