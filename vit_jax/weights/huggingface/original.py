"""The models of transformers themselves: the names of their classes, and what they compute."""

import pathlib
from typing import Any

from vit_jax.weights.library import Fields

# By the `model_type` of a `config.json`.
CLASSES = {
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "swin": "Swin",
    "swinv2": "Swinv2",
}


def class_name(model_type: str, fields: Fields) -> str:
    """Return the class for a model of ours with these fields."""
    name = CLASSES[model_type]
    if not fields["num_classes"]:
        return f"{name}Model"
    if model_type == "deit":
        return f"{name}ForImageClassificationWithTeacher"
    return f"{name}ForImageClassification"


def outputs(model_type: str, path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what a model computes with the weights at a path: logits, or features."""
    import transformers

    model_class = getattr(transformers, class_name(model_type, fields))
    output = model_class.from_pretrained(path).eval()(pixels)
    return output.logits if fields["num_classes"] else output.pooler_output
