"""The models of transformers themselves: the names of their classes, and what they compute."""

import pathlib
from typing import Any

from vit_jax.weights.library import Fields


def class_name(model: str, fields: Fields) -> str:
    """Return the class of a model such as `Swin`, for one of ours with these fields."""
    return f"{model}ForImageClassification" if fields["num_classes"] else f"{model}Model"


def outputs(model_class: str, path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what a class computes with the weights at a path: logits, or features."""
    import transformers

    output = getattr(transformers, model_class).from_pretrained(path).eval()(pixels)
    return output.logits if fields["num_classes"] else output.pooler_output
