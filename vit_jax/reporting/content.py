"""What a report shows, before it is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vit_jax.reporting.run_folder import RunFolder


class Thumbnail(NamedTuple):
    """An image as the model gets it, and the map of its attention, as PNG data URIs."""

    image: str
    map: str | None
    is_small: bool  # shown with sharp pixels


class Projection(NamedTuple):
    """The features of some images of a set in the plane of their first two principal components."""

    points: Float[np.ndarray, "n 2"]
    explained_variance_ratio: Float[np.ndarray, " k"]  # of each component
    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    total: int  # number of images of the set, all of which determine the components


class Exhibit(NamedTuple):
    """What a report shows of the images of a set."""

    thumbnails: Mapping[int, Thumbnail]  # by the index of the image in its source
    about_maps: str  # what the maps are, or why there are none
    projection: Projection | None


class Content(NamedTuple):
    """What a report shows."""

    step: int
    results: Mapping[str, Any]  # as `eval` of `results.json`
    analyses: Mapping[str, Any]  # by label; see `evaluation.analysis.analyse`
    against: Sequence[Mapping[str, Any]]  # one for each set; see `evaluation.against.compare`
    folder: RunFolder
    other: RunFolder | None  # the run of `--against`
    exhibits: Mapping[str, Exhibit]  # by the label of the set
    machine: Mapping[str, str]  # what computed the report, by topic
    changed: Mapping[str, Any] = {}  # the settings of the evaluation that are not those of the run
