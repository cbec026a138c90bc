"""Principal components of vectors, and the first three of patch features as colours."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_HIDE = 2.0  # per cent of the values at each end that get the end of the colour scale


class Components(NamedTuple):
    """The principal components of vectors, the one with the largest variance first."""

    mean: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "k d"]  # of length 1; the largest entry of each is positive
    shares: Float[np.ndarray, " k"]  # of the variance

    def project(self, vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n k"]:
        """Return the coordinates of vectors along the components."""
        return (np.asarray(vectors, np.float64) - self.mean) @ self.directions.T


def principal_components(vectors: Float[np.ndarray, "n d"], count: int) -> Components:
    """Return the first principal components of vectors, in float64.

    Args:
      vectors: The vectors.
      count: Number of components; fewer if there are fewer vectors or dimensions.
    """
    vectors = np.asarray(vectors, np.float64)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    # The smaller of the two matrices of products has the same eigenvalues above 0.
    if len(centred) < centred.shape[1]:
        values, left = np.linalg.eigh(centred @ centred.T)
        directions = left.T[::-1][:count] @ centred
    else:
        values, right = np.linalg.eigh(centred.T @ centred)
        directions = right.T[::-1][:count]
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / np.maximum(lengths, np.finfo(np.float64).tiny)
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.where(np.take_along_axis(directions, largest[:, None], 1) < 0, -1.0, 1.0)
    values = values[::-1].clip(0)
    return Components(mean, directions, values[:count] / max(values.sum(), 1e-300))


def component_colours(
    features: Float[np.ndarray, "n h w d"], *, foreground: bool = False
) -> tuple[Float[np.ndarray, "n h w 3"], Components, Bool[np.ndarray, "n h w"]]:
    """Return the first three principal components of patch features as red, green and blue.

    The components are those of the patches of all images together, as in figure 1 of DINOv2 (Oquab
    et al. 2024). Each is scaled so that 96 % of its values fill the range of a colour.

    Args:
      features: Features of the patches of n images.
      foreground: Whether to show only the patches on one side of the mean of the first component,
        with the components of these patches alone: the side that more of the central patches are
        on. All are shown if the first component is constant.

    Returns:
      The colours, 0 to 1; the components; and the patches that are shown. Others are black.
    """
    components = principal_components(features.reshape(-1, features.shape[-1]), 3)
    shown = np.ones(features.shape[:3], bool)
    if foreground:
        shown = _foreground(components.project(features)[..., 0])
        components = principal_components(features[shown], 3)
    coordinates = components.project(features)
    low, high = np.percentile(coordinates[shown], [_HIDE, 100 - _HIDE], axis=0)
    scaled = ((coordinates - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    colours = np.zeros((*features.shape[:3], 3))
    colours[..., : scaled.shape[-1]] = scaled
    return np.where(shown[..., None], colours, 0.0), components, shown


def _foreground(first: np.ndarray) -> np.ndarray:
    """Return which patches are on the side of the first component that holds the centre."""
    if first.min() == first.max():
        return np.ones(first.shape, bool)
    _, height, width = first.shape
    rows = slice(height // 4, height - height // 4)
    columns = slice(width // 4, width - width // 4)
    positive = first > 0
    share = positive.mean()
    return positive if positive[:, rows, columns].mean() >= share else ~positive
