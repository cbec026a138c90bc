"""The models of transformers themselves: the names of their classes, and what they compute."""

import pathlib
from typing import Any

import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.huggingface.preprocessing import FILE
from vit_jax.weights.library import Fields


def class_name(model: str, fields: Fields) -> str:
    """Return the class of a model such as `Swin`, for one of ours with these fields."""
    return f"{model}ForImageClassification" if fields["num_classes"] else f"{model}Model"


def outputs(path: pathlib.Path, fields: Fields, pixels: Any) -> Any:
    """Return what transformers computes with the weights at a path, as its documents say.

    Args:
      path: A folder, or a file in one.
      fields: Of our model; none is asked for, as our reading of the documents is what is checked.
      pixels: Images (b, c, h, w).

    Raises:
      DataError: transformers does not open the folder, or not all of its model is there.
    """
    import transformers

    folder = path if path.is_dir() else path.parent
    try:
        local = {"trust_remote_code": False, "local_files_only": True}
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        made_by = _find_class(config.architectures or [])
        model, loading = made_by.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder}: transformers does not open it: {reason:.200}") from error
    # A pooler that is not there is not read below; the mask token is of the pre-training.
    has_no_pooler = any("pooler" in key for key in loading["missing_keys"])
    ignored = ("pooler", "mask_token")
    missing = [k for k in loading["missing_keys"] if not any(name in k for name in ignored)]
    if missing:
        raise DataError(f"{folder}: transformers misses {min(missing)}, and makes it up")
    output = model.float().eval()(pixels, **_at_another_size(config, pixels))
    if "logits" in output:
        return output.logits
    if has_no_pooler or output.get("pooler_output") is None:
        return output.last_hidden_state[:, 0]
    return output.pooler_output


def pixels(path: pathlib.Path, images: np.ndarray) -> np.ndarray | None:
    """Return what the processor in a folder makes of images that have the model's size already.

    Args:
      path: A folder, or a file in one.
      images: uint8 (b, h, w, 3).

    Returns:
      float32 (b, h, w, 3), or None where the folder has no processor.

    Raises:
      DataError: transformers does not open it.
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
        raise DataError(f"{folder}: transformers does not open {FILE}: {reason:.200}") from error
    as_they_are = {"do_resize": False, "do_center_crop": False, "return_tensors": "np"}
    made: np.ndarray = processor(list(images), **as_they_are)["pixel_values"]
    return made.transpose(0, 2, 3, 1)


def _find_class(names: list[str]) -> Any:
    """Return the class that a document names, or of other tasks the one that has no head."""
    import transformers

    for name in names:
        bare = name.removeprefix("TF").removeprefix("Flax")
        if hasattr(transformers, bare) and not bare.endswith("ForMaskedImageModeling"):
            return getattr(transformers, bare)
    return transformers.AutoModel


def _at_another_size(config: Any, pixels: Any) -> dict[str, bool]:
    """Return what lets a model take images that are not of its own size."""
    size = config.image_size
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    takes_any = config.model_type not in ("vit", "deit") or sides == tuple(pixels.shape[2:])
    return {} if takes_any else {"interpolate_pos_encoding": True}
