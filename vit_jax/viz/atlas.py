"""An atlas of a model: what it attends to in images, and what it has learned, as pictures."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vit_jax import models
from vit_jax.checkpoints.pretrained import Pretrained
from vit_jax.console.waiting import compiled_first
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, pick, suggest
from vit_jax.interpretation.components import component_colours
from vit_jax.interpretation.distances import attention_distance
from vit_jax.interpretation.filters import filter_components, first_filters
from vit_jax.interpretation.heads import head_maps
from vit_jax.interpretation.hooks import POOL, attention_layers, has_probe
from vit_jax.interpretation.positions import position_bias, position_embedding, position_similarity
from vit_jax.interpretation.propagation import readout_of
from vit_jax.interpretation.relevance import relevance
from vit_jax.interpretation.rollout import rollout
from vit_jax.interpretation.weights import AttentionMap, attention_maps
from vit_jax.viz.inside import attention_distances, bias_sheet, filter_sheet, similarity_sheet
from vit_jax.viz.map_names import OF_ATTENTION, OF_MODEL, Maps
from vit_jax.viz.maps import map_on_image, patch_colours, plain_image
from vit_jax.viz.sheets import Picture, Row, sheet

if TYPE_CHECKING:
    import matplotlib.figure

    Drawing = Image.Image | matplotlib.figure.Figure

Arrays = dict[str, np.ndarray]

TOP = "top"  # stands for the most probable class of each image


class Seen(NamedTuple):
    """An image, and what the model makes of it."""

    pixels: np.ndarray  # uint8 (h, w, c), as the model gets them
    top: int  # index of the most probable class; -1 for a model without classes
    features: np.ndarray  # of the patches, (h, w, d)


class Atlas:
    """Draws the maps of images, and then those of the model.

    Args:
      trained: The model, with the size of the images in its `data`.
      maps: The maps to draw.
      layers: `last`, `all`, or names of layers with attention, separated by commas.
      label: The class of the relevance maps, or `top` for the most probable one of each image.
      width: Width of a picture in pixels.

    Raises:
      ConfigError: There is no such layer or class.
    """

    def __init__(
        self,
        trained: Pretrained,
        maps: Maps,
        layers: str = "last",
        label: str = TOP,
        width: int = 192,
    ) -> None:
        self._trained = trained
        self._model = cast(models.Transformer, trained.model)
        self._maps = maps
        self._blocks = attention_layers(self._model)
        pool = (POOL,) if has_probe(self._model) else ()
        self._layers = _choose_layers(layers, self._blocks + pool)
        self._class = None if label == TOP else _find_class(label, trained.labels)
        self._width = width
        forward = jax.jit(functools.partial(models.forward, self._model))
        self._forward = compiled_first(forward, "model", aside=True)
        self._distances: dict[str, list[np.ndarray]] = collections.defaultdict(list)

    def look(self, pixels: np.ndarray) -> Seen:
        """Return what the model makes of an image, uint8 (h, w, c)."""
        output = self._forward(self._trained.variables, self._normalize(pixels))
        height, width, num_prefix = output.grid
        patches = np.asarray(output.tokens[0, num_prefix:], np.float32)
        top = int(output.logits[0].argmax()) if output.logits.size else -1
        return Seen(pixels, top, patches.reshape(height, width, -1))

    def colours(self, seen: Sequence[Seen], *, foreground: bool = False) -> np.ndarray | None:
        """Return the components of the patches of all images as colours, (n, h, w, 3), if drawn."""

        def make() -> np.ndarray:
            features = np.stack([each.features for each in seen])
            return component_colours(features, foreground=foreground)[0]

        return self._maps.make(("components",), make)

    def draw(
        self, title: str, seen: Seen, colours: np.ndarray | None = None
    ) -> tuple[Image.Image, Arrays]:
        """Return the sheet of an image, and the numbers that it shows."""
        arrays: Arrays = {"image": seen.pixels}
        label = self._trained.labels[seen.top] if seen.top >= 0 else ""
        pictures = [Picture(plain_image(seen.pixels, self._width), label)]
        attention = self._maps.make(OF_ATTENTION, lambda: self._attention(seen)) or {}
        if self._maps.any_of("distances"):
            self._measure(attention, seen.pixels.shape[:2])
        flow = self._maps.make(("rollout",), lambda: self._rollout(seen))
        if flow is not None:
            arrays["rollout"] = flow
            pictures.append(self._picture(seen, flow, f"rollout, {_max(flow)}"))
        found = self._maps.make(("relevance",), lambda: self._relevance(seen))
        if found is not None:
            arrays["relevance"], text = found
            # From its least value: the mean of patches starts with the same share of each of them.
            above = arrays["relevance"] - arrays["relevance"].min()
            pictures.append(self._picture(seen, above, text))
        if colours is not None:
            arrays["components"] = colours
            size = pictures[0].image.size
            pictures.append(Picture(patch_colours(colours, size), "components"))
        rows = [Row(title, pictures)]
        if self._maps.any_of("heads", "mean"):
            of_layers = {
                layer: head_maps(self._model, layer, attention[layer])[0] for layer in self._layers
            }
            rows += self._attention_rows(seen, of_layers)
            arrays |= of_layers
        return sheet(rows), arrays

    def of_model(self) -> Iterator[tuple[str, "Drawing", Arrays]]:
        """Yield the name, the picture and the numbers of each map of the model.

        The distances are those of the images that were drawn.
        """
        makers: dict[str, Callable[[], tuple[Drawing, Arrays]]] = {
            "filters": self._filters,
            "positions": self._positions,
            "distances": self._mean_distances,
        }
        for name in OF_MODEL:
            made = self._maps.make((name,), makers[name])
            if made is not None:
                yield name, *made

    def _filters(self) -> tuple[Image.Image, Arrays]:
        trained = self._trained
        filters = first_filters(self._model, trained.variables, trained.data.image_shape)
        components, shares = filter_components(filters)
        arrays = {"filters": filters, "components": components, "shares": shares}
        return filter_sheet(filters, components, shares.tolist()), arrays

    def _positions(self) -> tuple[Image.Image, Arrays]:
        trained = self._trained
        model, data = self._model, trained.data
        if model.posemb.module.site == "bias":
            biases = position_bias(model, trained.variables, data.image_shape)
            return bias_sheet(biases), biases
        positions = position_embedding(model, trained.variables, data.image_size)
        similarity = position_similarity(positions)
        return similarity_sheet(similarity), {"positions": positions, "similarity": similarity}

    def _mean_distances(self) -> tuple["matplotlib.figure.Figure", Arrays]:
        means = {layer: np.mean(heads, axis=0) for layer, heads in self._distances.items()}
        return attention_distances(means), means

    def _measure(self, attention: dict[str, AttentionMap], image_size: tuple[int, int]) -> None:
        """Add the attention distances in an image."""
        for layer in self._blocks:
            weights, grid, _ = attention[layer]
            heads = attention_distance(np.asarray(weights), grid, image_size)
            self._distances[layer].append(heads)

    def _attention(self, seen: Seen) -> dict[str, AttentionMap]:
        """Return the attention weights of the layers that the maps need."""
        of_distances = self._blocks if self._maps.any_of("distances") else ()
        layers = tuple(dict.fromkeys(of_distances + self._layers))
        images = self._normalize(seen.pixels)
        return attention_maps(self._model, self._trained.variables, images, layers)

    def _rollout(self, seen: Seen) -> np.ndarray:
        images = self._normalize(seen.pixels)
        return np.asarray(rollout(self._model, self._trained.variables, images).values[0])

    def _relevance(self, seen: Seen) -> tuple[np.ndarray, str]:
        """Return the relevance of the patches for the class, and a caption."""
        index = seen.top if self._class is None else self._class
        trained = self._trained
        images = self._normalize(seen.pixels)
        found = relevance(self._model, trained.variables, images, [index])
        return np.asarray(found.values[0]), f"relevance, {trained.labels[index]}"

    def _attention_rows(self, seen: Seen, of_layers: Arrays) -> list[Row]:
        """Return a row for each layer: the mean of its heads, and each head (n, h, w)."""
        means = {layer: heads.mean(axis=0) for layer, heads in of_layers.items()}
        if not self._maps.any_of("heads"):
            title = "attention, mean of the heads"
            return [Row(title, self._pictures(seen, means))]
        rows = []
        for layer, heads in of_layers.items():
            shown = {"mean": means[layer]} if self._maps.any_of("mean") else {}
            shown |= {f"head {i}": head for i, head in enumerate(heads)}
            title = f"{layer}: attention of the {readout_of(self._model, layer)}"
            rows.append(Row(title, self._pictures(seen, shown)))
        return rows

    def _pictures(self, seen: Seen, named: Arrays) -> list[Picture]:
        return [
            self._picture(seen, values, f"{name}, {_max(values)}") for name, values in named.items()
        ]

    def _picture(self, seen: Seen, values: np.ndarray, caption: str) -> Picture:
        return Picture(map_on_image(seen.pixels, values.astype(np.float32), self._width), caption)

    def _normalize(self, pixels: np.ndarray) -> jax.Array:
        data = self._trained.data
        return transforms.normalize(jnp.asarray(pixels[None]), data.mean, data.std)


def _max(values: np.ndarray) -> str:
    """Return the largest of some weights as text, with two digits."""
    return f"max {float(f'{100 * values.max():.2g}'):g}%"  # 100, not 1e+02


def _choose_layers(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the layers that `last`, `all` or their names stand for."""
    named = {"last": known[-1:], "all": known}
    if text in named:
        return named[text]
    table = dict.fromkeys(known)
    for name in text.split(","):
        pick(table, name, "--layers")
    return tuple(text.split(","))


def _find_class(label: str, labels: tuple[str, ...]) -> int:
    """Return the index of a class."""
    if label in labels:
        return labels.index(label)
    hint = suggest(label, labels)
    if not hint.endswith("?"):
        hint = f"the model has {len(labels):,} classes, such as {', '.join(labels[:3])}"
    raise ConfigError("--class", f"unknown '{label}'; {hint if labels else 'the model has none'}")
