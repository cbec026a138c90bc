"""The weights people have, in and out: which array of a file is which parameter of ours.

Each library is a module with the interface `Library`; `rules` is the engine. Nothing here knows a
model: all is names, shapes and arrays.
"""

from vit_jax.weights import big_vision, google, huggingface, timm
from vit_jax.weights.library import Library

LIBRARIES: dict[str, Library] = {
    "google": google,
    "big_vision": big_vision,
    "timm": timm,
    "huggingface": huggingface,
}
