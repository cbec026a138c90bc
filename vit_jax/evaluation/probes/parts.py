"""The parts that probes use, as embeddings: train, val and test, of a run or from files."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from vit_jax.console.tables import check_path
from vit_jax.errors import ConfigError
from vit_jax.evaluation.embedding import Embedding, read_embedding
from vit_jax.evaluation.probes.labelled import Labelled
from vit_jax.evaluation.probes.task import Result


class Probed(NamedTuple):
    """The embeddings of the images that probes use, and the names of these images."""

    train: Embedding
    val: Embedding | None
    test: Embedding
    titles: dict[str, str]  # by part: train, val and test
    split: str  # the name of the images to predict
    workdir: epath.Path | None  # None for files


def read_files(files: Mapping[str, str]) -> Probed:
    """Read embeddings that `vit_jax.embed` wrote.

    Args:
      files: The paths of `train` and `test`, and of `val` if it chooses penalties.

    Raises:
      ConfigError: The files do not belong together.
      DataError: A file is corrupt.
      InputMissingError: There is no such file.
    """
    read = {name: read_embedding(check_path(text, f"--{name}")) for name, text in files.items()}
    first = read["train"]
    for name, embedding in read.items():
        _check(f"--{name}", embedding, first)
    for name in ("train", "test"):
        if "val" in read and _same_images(read["val"], read[name]):
            raise ConfigError("--val", f"expected other images than those of --{name}")
    return Probed(first, read.get("val"), read["test"], dict(files), "test", None)


def labelled(flag: str, embedding: Embedding) -> Labelled:
    """Return the features and labels of an embedding.

    Raises:
      ConfigError: It has no labels, or more than one vector for each image.
    """
    if embedding.labels is None:
        raise ConfigError(flag, "expected images of a split, which have labels")
    if embedding.features.ndim != 2:
        raise ConfigError(flag, "expected one vector for each image: embed with --pool=cls or mean")
    return Labelled(embedding.features, embedding.labels)


def document(probed: Probed, results: Mapping[str, Result]) -> dict[str, Any]:
    """Return the results of probes and what they depend on, as plain JSON."""
    facts = probed.train.facts
    parts = {"train": probed.train, "val": probed.val, "test": probed.test}
    content = {
        "split": probed.split,
        **{key: facts.get(key) for key in ("layer", "pool", "weights", "model")},
        "num_features": probed.train.features.shape[1],
        "num_classes": len(probed.train.class_names),
        "images": {
            name: {"title": probed.titles[name], "count": len(part.ids)}
            for name, part in parts.items()
            if part is not None
        },
        "results": results,
    }
    return {"step": facts.get("step"), "probe": content}


def _check(flag: str, embedding: Embedding, first: Embedding) -> None:
    """Check that an embedding has the classes and the features of the first one.

    Raises:
      ConfigError: It has others.
    """
    if embedding.class_names != first.class_names:
        raise ConfigError(flag, "expected the classes of --train, got others")
    for key in ("model", "layer", "pool"):
        mine, other = (facts.get(key) for facts in (embedding.facts, first.facts))
        if mine != other:
            raise ConfigError(flag, f"expected the {key} of --train ({other}), got {mine}")


def _same_images(first: Embedding, second: Embedding) -> bool:
    return first.facts.get("data") == second.facts.get("data") and first.ids == second.ids
