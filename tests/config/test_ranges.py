"""Impossible numbers are refused with the path of their field, before memory is allocated."""

import time
import typing

import jax
import pytest
from conftest import TINY

from vit_jax import config as config_lib
from vit_jax.config import layers
from vit_jax.errors import ConfigError, UserError
from vit_jax.training.memory import check_memory
from vit_jax.training.run import open_run

ABSURD = ("0", "-1", "1", "1000000000000", "1e30", "1e400", "nan", "inf", "-inf")
PARTS = {
    "vit_mu4": ("mlp=swiglu", "posemb=rope_mixed", "stem=resnet", "pool=map", "attention=window"),
    "swin_t_w7": ("posemb=log_cpb",),
}


def numbers(name, parts=()):
    """Returns the paths of all numeric settings, and how many numbers each takes."""
    chosen = {section: choice.name for section, choice in layers.choices(name).items()}
    chosen |= {f"model.{key}": text for key, text in (part.split("=") for part in parts)}
    counts = {}
    for path, declared in layers.declarations(name, chosen).items():
        args = typing.get_args(declared.type)
        if declared.type in (int, float):
            counts[path] = 1
        elif args and args[0] in (int, float):
            counts[path] = 1 if args[-1] is Ellipsis else len(args)
    return counts


def attempt(overrides):
    """Returns whether a run of these settings can be opened."""
    tree = config_lib.to_config_dict(config_lib.Config())
    try:
        check_memory(open_run(config_lib.resolve(tree, overrides).config, jax.devices()[:1]))
    except UserError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_no_number_hangs_or_ends_in_a_traceback(name):
    shape = {"model.name": name}
    parts = {f"model.{key}": text for key, text in (part.split("=") for part in PARTS[name])}
    plain = {key: value for key, value in TINY.items() if not key.startswith("model.")}
    base = {**(TINY if name == "vit_mu4" else plain), **shape}
    paths = {path: (count, base) for path, count in numbers(name).items()}
    others = {
        path: (count, {**base, **parts}) for path, count in numbers(name, PARTS[name]).items()
    }
    for path, (count, given) in {**others, **paths}.items():
        if name != "vit_mu4" and not path.startswith("model."):
            continue
        for text in ABSURD:
            start = time.monotonic()
            attempt({**given, path: ",".join([text] * count)})
            assert time.monotonic() - start < 30, f"{path}={text}"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.depth", "100000000"),
        ("batch_size", "1000000000000"),
        ("eval.batch_size", "1000000000000"),
        ("optim.ema_decay", "1"),
        ("optim.b1", "1"),
        ("optim.b2", "1"),
        ("optim.eps", "1e30"),
        ("optim.momentum", "1"),
        ("model.norm_eps", "1e30"),
        ("model.dropout", "1"),
        ("model.block.drop_path", "1"),
        ("model.attention.dropout", "1"),
        ("mix.mixup", "1e30"),
        ("data.mean", "127.5"),
        ("data.std", "58"),
        ("data.threads", "1000000"),
        ("data.workers", "1000000"),
        ("data.repeats", "1000000"),
        ("data.synthetic.train_examples", "1000000000000"),
        ("data.synthetic.num_classes", "1000000000000"),
        ("total_steps", "0"),
        ("total_steps", "3000000000"),
        ("total_epochs", "1e30"),
        ("total_images", "100000000000000"),
        ("optim.warmup_steps", "4"),
        ("model.width", "1000000000"),
        ("model.mlp_dim", "1000000000000"),
        ("model.num_registers", "1000000000000"),
        ("model.representation_size", "1000000000000"),
        ("data.image_size", "100000000,100000000"),
        ("checkpoint.keep", "0"),
    ],
)
def test_an_impossible_number_is_refused(path, text):
    tree = config_lib.to_config_dict(config_lib.Config())
    duration = {"total_steps": "0"} if path in ("total_epochs", "total_images") else {}
    with pytest.raises(ConfigError) as error:
        config = config_lib.resolve(tree, {**TINY, **duration, path: text}).config
        check_memory(open_run(config, jax.devices()[:1]))
    assert error.value.exit_code == 64


def test_a_run_that_fits_passes(tiny_config):
    check_memory(open_run(tiny_config(), jax.devices()[:1]))
