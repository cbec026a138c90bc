"""cuDNN's attention without cuDNN: what JAX asks of the library and of the GPU while it lowers it.

`jax.nn.dot_product_attention` checks the installed cuDNN and the GPU of this process before it
lowers a call of cuDNN's kernel. To compile for a GPU that is not here, these checks are answered
for that GPU. The functions are private to JAX; a test names those that moved.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

MODULE = "jax._src.cudnn.fused_attention_stablehlo"

# As in `topologies.GPUS`.
VERSION = 91000  # of cuDNN: 9.10.0
CAPABILITY = (9, 0)


def _capability(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


# The functions of the module, and what they return for an H100 with cuDNN.
ANSWERS: dict[str, Callable[..., Any]] = {
    "check_cudnn_version": lambda: VERSION,
    "check_compute_capability": lambda capability: _capability(capability) <= CAPABILITY,
    "is_cuda_compute_capability_equal": lambda capability: _capability(capability) == CAPABILITY,
}


@contextlib.contextmanager
def assumed() -> Iterator[None]:
    """Let JAX lower cuDNN's attention as on an H100 with cuDNN."""
    module = importlib.import_module(MODULE)
    before = {name: getattr(module, name) for name in ANSWERS}
    for name, answer in ANSWERS.items():
        setattr(module, name, answer)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)
