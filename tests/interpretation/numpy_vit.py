"""A ViT for one image, written out in NumPy, whose attention weights can be read and changed."""

import jax
import numpy as np
from scipy.special import erf


def layer_norm(x, params):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params["bias"]


def attention_weights(x, params):
    """Softmax of the scaled dot products of each head (Vaswani et al. 2017, eq. 1)."""
    q, k, v = (
        np.einsum("nd,dhc->hnc", x, params["qkv"]["kernel"][:, i])
        + params["qkv"]["bias"][i][:, None]
        for i in range(3)
    )
    weights = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]))
    return weights / weights.sum(axis=-1, keepdims=True), v


def mlp(x, params):
    hidden = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    hidden = 0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))
    return hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]


def forward(params, image, changes=None, *, gap=False):
    """Returns the logits, and the weights (heads, n, n) of each block, with `changes` added."""
    params = jax.tree.map(np.float64, params)
    kernel = params["stem"]["proj"]["kernel"]
    side = kernel.shape[0]
    height, width = (size // side for size in image.shape[:2])
    patches = np.float64(image).reshape(height, side, width, side, 3)
    x = np.einsum("irjsc,rscd->ijd", patches, kernel) + params["stem"]["proj"]["bias"]
    x = (x + params["posemb"]["grid"]).reshape(height * width, -1)
    if not gap:
        x = np.concatenate([params["cls_token"] + params["posemb"]["prefix"], x])
    all_weights = []
    for i in range(sum(name.startswith("blocks") for name in params)):
        block = params[f"blocks_{i}"]
        weights, v = attention_weights(layer_norm(x, block["norm1"]), block["attn"])
        if changes is not None:
            weights = weights + changes[i]
        all_weights.append(weights)
        out = block["attn"]["out"]
        x = x + np.einsum("hnc,hcd->nd", weights @ v, out["kernel"]) + out["bias"]
        x = x + mlp(layer_norm(x, block["norm2"]), block["mlp"])
    x = layer_norm(x, params["norm"])
    features = x.mean(axis=0) if gap else x[0]
    return features @ params["head"]["kernel"] + params["head"]["bias"], np.array(all_weights)


def gradients(params, image, label, *, gap=False, step=1e-5):
    """The derivatives of a logit by each attention weight, from central differences."""
    params = jax.tree.map(np.float64, params)
    _, weights = forward(params, image, gap=gap)
    result = np.zeros_like(weights)
    for index in np.ndindex(weights.shape):
        change = np.zeros_like(weights)
        change[index] = step
        above, below = (forward(params, image, s * change, gap=gap)[0][label] for s in (1, -1))
        result[index] = (above - below) / (2 * step)
    return result
