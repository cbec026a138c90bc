"""Run transformers' own models and processors."""

import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.huggingface.preprocessing import FILE
from vit_jax.weights.library import Fields


def class_name(model: str, fields: Fields) -> str:
    """Return the name of transformers' class for one of our models.

    Args:
      model: The first part of the name, such as `Swin`.
      fields: The fields of our model, by path.
    """
    return f"{model}ForImageClassification" if fields["num_classes"] else f"{model}Model"


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Compute the outputs of transformers' model with the weights and documents at a path.

    Args:
      path: A folder, or a file in one.
      fields: The fields of our model. They are not used: the documents alone decide on the model,
        because our reading of them is what the check tests.
      pixels: Images (b, c, h, w), a torch tensor.

    Returns:
      Logits (b, k), or features (b, d) if there is no head; a torch tensor.

    Raises:
      DataError: transformers cannot open the folder, or weights are missing.
    """
    import transformers

    folder = path if path.is_dir() else path.parent
    try:
        local = {"trust_remote_code": False, "local_files_only": True}
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        model_class = _find_class(config.architectures or [])
        model, loading = model_class.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: transformers cannot open it: {reason:.200}") from error
    # Without weights for a pooler its output is not used. The mask token is for pre-training only.
    has_no_pooler = any("pooler" in key for key in loading["missing_keys"])
    ignored = ("pooler", "mask_token")
    missing = [k for k in loading["missing_keys"] if not any(name in k for name in ignored)]
    if missing:
        raise DataError(f"{folder}: transformers would initialize {min(missing)}, which is missing")
    output = model.float().eval()(pixels, **_size_arguments(config, pixels))
    if "logits" in output:
        return output.logits
    if has_no_pooler or output.get("pooler_output") is None:
        return output.last_hidden_state[:, 0]
    return output.pooler_output


def pixels(path: pathlib.Path, images: np.ndarray) -> np.ndarray | None:
    """Apply the processor in a folder, without its resize and crop.

    Args:
      path: A folder, or a file in one.
      images: uint8 images (b, h, w, 3) at the model's size.

    Returns:
      Normalized images (b, h, w, 3), float32; None if the folder has no processor.

    Raises:
      DataError: transformers cannot open the processor.
    """
    import transformers

    folder = path if path.is_dir() else path.parent
    if not (folder / FILE).is_file():
        return None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: transformers cannot open {FILE}: {reason:.200}") from error
    options = {"do_resize": False, "do_center_crop": False, "return_tensors": "np"}
    processed: np.ndarray = processor(list(images), **options)["pixel_values"]
    return processed.transpose(0, 2, 3, 1)


def _find_class(names: list[str]) -> Any:
    """Return the class that a document names; `AutoModel`, without a head, for other tasks."""
    import transformers

    for name in names:
        bare = name.removeprefix("TF").removeprefix("Flax")
        if hasattr(transformers, bare) and not bare.endswith("ForMaskedImageModeling"):
            return getattr(transformers, bare)
    return transformers.AutoModel


def _size_arguments(config: Any, pixels: Any) -> dict[str, bool]:
    """Return the arguments that allow images of another size than the config states."""
    size = config.image_size
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    takes_any = config.model_type not in ("vit", "deit") or sides == tuple(pixels.shape[2:])
    return {} if takes_any else {"interpolate_pos_encoding": True}
