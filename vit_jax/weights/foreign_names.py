"""Translate model names of timm, Hugging Face and others to ours, for hints in errors."""

import re

# The first key that occurs in a name decides.
SERIES = {
    "deit3": "deit3",
    "deit-3": "deit3",
    "deit": "deit",
    "dinov2": "dinov2",
    "dino_vit": "vit",
    "swinv2": "swinv2",
    "swin": "swin",
    "vit": "vit",
}
SIZES = {
    "tiny": "ti",
    "small": "s",
    "medium": "m",
    "base": "b",
    "so400m": "so400m",
    "large": "l",
    "huge": "h",
    "gigantic": "G",
    "giant": "g",
}


def translate(name: str) -> str:
    """Return our name of a foreign model such as `google/vit-base-patch16-224`.

    The result is a guess: a name without a patch size gets the usual one.

    Returns:
      Our name, or an empty string if there is none.
    """
    text = name.lower().split("/")[-1].replace("-", "_")
    series = next((ours for key, ours in SERIES.items() if key.replace("-", "_") in text), "")
    size = next((ours for key, ours in SIZES.items() if key in text), "")
    if not series or not size:
        return ""
    if series in ("swin", "swinv2"):
        window = re.search(r"window(?:\d+to)?(\d+)", text)
        return f"{series}_{size.removesuffix('i')}_w{window[1]}" if window else ""
    patch = re.search(r"patch(\d+)", text)
    side = patch[1] if patch else {"dinov2": "14"}.get(series, "16")
    ours = f"{series}_{size}{side}"
    if "distilled" in text and series == "deit":
        return f"{ours}_distilled"
    if "reg" in text and series == "dinov2":
        return f"{ours}_reg4"
    return ours
