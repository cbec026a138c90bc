"""The weights people have, in and out: which array of a file is which parameter of ours.

A source is a module with RULES, FILE (how its file is called), `words`, `words_for`, `describe` and
`documents_for`; `rules` is the engine. Nothing here knows a model: all is names, shapes and arrays.
"""

from types import ModuleType

from vit_jax.weights import big_vision, google, huggingface, timm

SOURCES: dict[str, ModuleType] = {
    "google": google,
    "big_vision": big_vision,
    "timm": timm,
    "huggingface": huggingface,
}
