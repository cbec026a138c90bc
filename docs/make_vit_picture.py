"""Draw `docs/vit.png`: how a Vision Transformer classifies one image, with values of a real run.

  python -m vit_jax.train --config=configs/digits.py
  python docs/make_vit_picture.py [--workdir=runs/digits] [--index=64] [--output=docs/vit.png]

The run must have one class token, learned position embeddings and a test split of the packaged
digits. Everything with pixels in it is data of the run: the patches, the filters, the tokens, the
attention weights, the similarity of position embeddings, the hidden units and the probabilities.
"""

import dataclasses
import io
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from vit_jax import models
from vit_jax.checkpoints import Pretrained, from_pretrained
from vit_jax.console import cli
from vit_jax.data.digits import Digits
from vit_jax.viz.drawing import BLUE, FAINT, INK, ORANGE

WIDTH, HEIGHT = 1600, 700  # pixels of the picture; also its coordinates, with y downwards
MONO = "DejaVu Sans Mono"
GREY = "#5F5F5F"
PANEL = "#F5F6F8"
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", ORANGE])
POSITIVE = LinearSegmentedColormap.from_list("positive", ["#FFFFFF", "#F2B58C", ORANGE, "#7A3500"])
SIMILAR = LinearSegmentedColormap.from_list("similar", ["#FFFFFF", "#9CC6E0", BLUE, "#00304D"])


@dataclasses.dataclass(frozen=True)
class Forward:
    """The values of one forward pass. Letters: n tokens, d width, k classes, p patch, m hidden."""

    pixels: np.ndarray  # (H, W), 0 to 1
    patch: tuple[int, int]
    label: str
    index: int
    num_params: int
    class_names: tuple[str, ...]
    filters: np.ndarray  # (p, p, d)
    position_similarity: np.ndarray  # (h, w, h, w): cosine of every pair of grid positions
    tokens: np.ndarray  # (n, d): input of the first block
    attention: tuple[np.ndarray, ...]  # per block (heads, n, n)
    hidden: np.ndarray  # (n, m): the first MLP layer of the first block
    features: np.ndarray  # (d,)
    head: np.ndarray  # (d, k): the kernel
    probabilities: np.ndarray  # (k,)


def forward(pretrained: Pretrained, index: int) -> Forward:
    """Run the model on a test image of the digits and keep what the picture shows."""
    record = Digits(pretrained.data, "test")[index]
    images = pretrained.preprocess([record["image"]])
    model, params = pretrained.model, pretrained.variables["params"]
    blocks = [f"blocks_{i}" for i in range(model.depth)]
    names = ["stem", "blocks_0/mlp/fc1", "pool", "head", *(f"{name}/attn/qkv" for name in blocks)]
    outputs = models.features(model, pretrained.variables, images, names)
    patches = outputs["stem"][0].reshape(-1, model.width) + params["posemb"]["grid"].reshape(
        -1, model.width
    )
    class_token = params["cls_token"] + params["posemb"]["prefix"]
    grid = np.asarray(params["posemb"]["grid"])
    unit = grid / np.linalg.norm(grid, axis=-1, keepdims=True)
    data = pretrained.data
    return Forward(
        pixels=np.asarray(images[0, ..., 0] * data.std[0] + data.mean[0]),
        patch=tuple(model.stem["patch"]),
        label=pretrained.labels[record["label"]],
        index=index,
        num_params=sum(leaf.size for leaf in jax.tree.leaves(params)),
        class_names=pretrained.labels,
        filters=np.asarray(params["stem"]["proj"]["kernel"][:, :, 0]),
        position_similarity=np.einsum("abd,ced->abce", unit, unit),
        tokens=np.asarray(jnp.concatenate([class_token, patches])),
        attention=tuple(_attention(outputs[f"{name}/attn/qkv"]) for name in blocks),
        hidden=np.asarray(jax.nn.gelu(outputs["blocks_0/mlp/fc1"][0], approximate=False)),
        features=np.asarray(outputs["pool"][0]),
        head=np.asarray(params["head"]["kernel"]),
        probabilities=np.asarray(jax.nn.softmax(outputs["head"][0])),
    )


def _attention(qkv: jax.Array) -> np.ndarray:
    """Return the attention weights (heads, n, n); `qkv` is (3, 1, n, heads, c)."""
    queries, keys = qkv[0, 0], qkv[1, 0]
    scores = jnp.einsum("nhc,mhc->hnm", queries * queries.shape[-1] ** -0.5, keys)
    return np.asarray(jax.nn.softmax(scores))


class Canvas:
    """A white page in pixel coordinates, y downwards."""

    def __init__(self, width: int, height: int) -> None:
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, width), ylim=(height, 0))

    def text(self, x: float, y: float, text: str, size: float = 14, **options: Any) -> None:
        """Write text; `size` in points, of which one is 1.39 pixels."""
        options = {"color": GREY, "ha": "center", "va": "center"} | options
        self.axes.text(x, y, text, fontsize=size, **options)

    def header(self, x: float, name: str, caption: str, y: float = 84) -> None:
        """Write the name of a module and, below it, what it is."""
        mono = {"family": MONO} if name.islower() else {}
        self.text(x, y, name, 15.5, color=INK, weight="bold", **mono)
        self.text(x, y + 15, caption, 13, va="top", linespacing=1.25)

    def tile(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        values: np.ndarray,
        cmap: Any,
        limits: tuple[float, float],
        edge: str = FAINT,
    ) -> None:
        """Draw an array as coloured cells in a frame."""
        self.axes.imshow(
            values,
            cmap=cmap,
            vmin=limits[0],
            vmax=limits[1],
            extent=(x, x + width, y + height, y),
            interpolation="nearest",
            aspect="auto",
            zorder=2,
        )
        corners = [x, x + width, x + width, x], [y, y, y + height, y + height]
        self.axes.fill(*corners, fill=False, edgecolor=edge, linewidth=0.8, zorder=2.1)

    def arrow(self, x: float, y: float, to_x: float, to_y: float, color: str = INK) -> None:
        """Draw an arrow."""
        style = {"arrowstyle": "-|>", "color": color, "lw": 1.8, "mutation_scale": 16}
        style |= {"shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", (to_x, to_y), (x, y), arrowprops=style)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        edge: str = "none",
        zorder: float = 0.5,
    ) -> None:
        """Draw a rounded box."""
        style = "round,pad=0,rounding_size=10"
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            style,
            facecolor=fill,
            edgecolor=edge,
            linewidth=1.2,
            zorder=zorder,
        )
        self.axes.add_patch(patch)

    def outline(self, x: float, y: float, width: float, height: float, pixels: np.ndarray) -> None:
        """Draw the strokes of a grey image as contours over a tile."""
        rows, columns = pixels.shape
        xs = x + (np.arange(columns) + 0.5) * width / columns
        ys = y + (np.arange(rows) + 0.5) * height / rows
        self.axes.contour(xs, ys, pixels, levels=[0.5], colors=INK, linewidths=1.6, zorder=2.2)

    def module(self, x: float, y: float, name: str) -> None:
        """Draw a module as a box with its name, 66 pixels wide, centred at the height y."""
        self.box(x, y - 19, 66, 38, "white", FAINT, zorder=2)
        self.text(x + 33, y, name, 13, color=INK, family=MONO)

    def residual(self, x: float, to_x: float, y: float, top: float) -> None:
        """Draw a line at height y with a residual connection above it that ends in a sum."""
        self.axes.plot([x - 8, to_x - 10], [y, y], color=INK, lw=1.8, zorder=0.7)
        self.axes.plot([x, x, to_x, to_x], [y, top, top, y], color=BLUE, lw=1.8, zorder=0.7)
        self.axes.plot([to_x], [y], "o", ms=17, mfc="white", mec=BLUE, mew=1.6, zorder=3)
        self.text(to_x, y, "+", 15, color=BLUE, weight="bold", zorder=4)

    def png(self, colors: int = 256) -> bytes:
        """Return the picture as a PNG with a palette."""
        file = io.BytesIO()
        self.figure.savefig(file, format="png")
        image = Image.open(file).convert("RGB")
        small = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()


def draw(values: Forward) -> Canvas:
    """Draw the picture: the forward pass above, what the model has learned below."""
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(
        30,
        32,
        "One digit through a Vision Transformer: every value is from a trained run",
        18,
        ha="left",
        color=INK,
        weight="bold",
    )
    _draw_input(canvas, values)
    _draw_stem(canvas, values)
    _draw_tokens(canvas, values)
    _draw_blocks(canvas, values)
    _draw_inside_of_a_block(canvas, values)
    _draw_head(canvas, values)
    _draw_legend(canvas, values)
    return canvas


def _cut(values: Forward) -> np.ndarray:
    """Return the patches (h, w, p, p) of the image."""
    height, width = values.patch
    rows, columns = values.pixels.shape[0] // height, values.pixels.shape[1] // width
    return values.pixels.reshape(rows, height, columns, width).swapaxes(1, 2)


def _draw_input(canvas: Canvas, values: Forward) -> None:
    height, width = values.pixels.shape
    canvas.header(100, "Image", f"{height} x {width} pixels")
    canvas.tile(30, 164, 140, 140, values.pixels, "gray", (0, 1))
    canvas.arrow(176, 234, 204, 234)
    patches = _cut(values)
    rows, columns = patches.shape[:2]
    canvas.header(292, "Patches", f"{rows * columns} of {values.patch[0]} x {values.patch[1]}")
    step, side = 42, 36
    for i in range(rows):
        for j in range(columns):
            x, y = 211 + j * step, 153 + i * step
            canvas.tile(x, y, side, side, patches[i, j], "gray", (0, 1))


def _draw_stem(canvas: Canvas, values: Forward) -> None:
    num = values.filters.shape[-1]
    canvas.header(386, "stem", f"linear projection\n{num} filters", y=430)
    limit = np.abs(values.filters).max()
    for i in range(num):
        x, y = 303 + i % 8 * 21, 495 + i // 8 * 21
        canvas.tile(x, y, 18, 18, values.filters[..., i], SIGNED, (-limit, limit))
    canvas.arrow(382, 234, 420, 234)
    canvas.arrow(396, 414, 396, 243, FAINT)


def _draw_tokens(canvas: Canvas, values: Forward) -> None:
    num, width = values.tokens.shape
    canvas.header(540, "Tokens", f"{num} x {width}, class token first")
    patches = _cut(values).reshape(-1, *values.patch)
    limit = float(np.percentile(np.abs(values.tokens), 99))
    for i, row in enumerate(values.tokens):
        y = 139 + 15 * i + (5 if i else 0)
        if i:
            canvas.tile(428, y, 13, 13, patches[i - 1], "gray", (0, 1))
        else:
            canvas.axes.fill([428, 441, 441, 428], [y, y, y + 13, y + 13], color=BLUE)
        canvas.tile(449, y, 192, 13, row[None], SIGNED, (-limit, limit))
    canvas.header(574, "posemb", "position embedding\nsimilarity", y=430)
    grid = values.position_similarity
    rows, columns = grid.shape[:2]
    for i in range(rows):
        for j in range(columns):
            canvas.tile(492 + j * 42, 495 + i * 42, 37, 37, grid[i, j], SIMILAR, (-0.2, 1))
    canvas.arrow(574, 418, 574, 402, FAINT)


def _draw_blocks(canvas: Canvas, values: Forward) -> None:
    """Draw where the class token attends to in each block: the mean of the heads, and each head."""
    num_blocks = len(values.attention)
    num_heads = len(values.attention[0])
    left, width = 676, 560
    canvas.box(left, 54, width, 354, PANEL)
    canvas.arrow(648, 234, left + 10, 234)
    step = width / num_blocks
    columns = 2
    grid = tuple(_cut(values).shape[:2])
    for i, weights in enumerate(values.attention):
        center = left + step * (i + 0.5)
        canvas.header(center, f"blocks_{i}", "")
        maps = weights[:, 0, 1:].reshape(num_heads, *grid)
        mean = maps.mean(0)
        canvas.tile(center - 57, 112, 114, 114, mean, POSITIVE, (0, mean.max()))
        canvas.outline(center - 57, 112, 114, 114, values.pixels)
        for head, attended in enumerate(maps):
            x, y = center - 57 + head % columns * 59, 260 + head // columns * 59
            canvas.tile(x, y, 55, 55, attended, POSITIVE, (0, attended.max()))
        if i + 1 < num_blocks:
            canvas.arrow(center + 60, 170, center + step - 60, 170)
    canvas.text(left + width / 2, 244, "patches the class token attends to (mean of the heads)", 13)
    canvas.text(left + width / 2, 390, f"the same for each of the {num_heads} heads", 13)


def _draw_inside_of_a_block(canvas: Canvas, values: Forward) -> None:
    """Draw the two residual branches of the first block."""
    left, line = 676, 575
    canvas.box(left, 424, 560, 256, PANEL)
    canvas.text(left + 280, 448, "inside blocks_0", 15.5, color=INK, weight="bold", family=MONO)
    weights = values.attention[0].mean(0)
    hidden = values.hidden
    canvas.residual(left + 14, left + 238, line, 482)
    canvas.residual(left + 262, left + 534, line, 482)
    canvas.module(left + 24, line, "norm1")
    canvas.tile(left + 108, line - 55, 110, 110, weights, POSITIVE, (0, weights.max()))
    canvas.module(left + 274, line, "norm2")
    limit = np.percentile(np.abs(hidden), 99)
    canvas.tile(left + 358, line - 55, 150, 110, hidden, SIGNED, (-limit, limit))
    num, width = hidden.shape
    canvas.text(left + 163, line + 74, "attn", 14, color=INK, weight="bold", family=MONO)
    canvas.text(left + 163, line + 94, f"{num} x {num} weights", 13)
    canvas.text(left + 433, line + 74, "mlp", 14, color=INK, weight="bold", family=MONO)
    canvas.text(left + 433, line + 94, f"{num} x {width} hidden units", 13)


def _draw_head(canvas: Canvas, values: Forward) -> None:
    """Draw the pooled features, the class probabilities and the weights of the head."""
    canvas.arrow(1240, 234, 1266, 234)
    canvas.header(1289, "pool", "class token")
    limit = float(np.percentile(np.abs(values.features), 99))
    canvas.tile(1274, 139, 28, 256, values.features[:, None], SIGNED, (-limit, limit))
    canvas.arrow(1310, 234, 1350, 234)
    canvas.header(1470, "head", "class probabilities")
    best = int(values.probabilities.argmax())
    for i, (name, value) in enumerate(zip(values.class_names, values.probabilities, strict=True)):
        y = 139 + 26 * i
        color = ORANGE if i == best else FAINT
        canvas.text(1372, y + 10, name, 14, color=INK)
        canvas.axes.fill(
            [1386, 1386 + 120 * value, 1386 + 120 * value, 1386],
            [y, y, y + 20, y + 20],
            color=color,
        )
        canvas.text(1392 + 120 * value, y + 10, f"{value:.1%}", 13, ha="left")
    canvas.header(1430, "head", "its weights: one row per class", y=430)
    limit = float(np.percentile(np.abs(values.head), 99))
    for i, row in enumerate(values.head.T):
        y = 477 + 19 * i
        canvas.text(1266, y + 8, values.class_names[i], 12.5, color=INK)
        canvas.tile(1280, y, 290, 16, row[None], SIGNED, (-limit, limit))


def _draw_legend(canvas: Canvas, values: Forward) -> None:
    """Draw what the colours mean and where the values come from."""
    canvas.text(30, 448, "configs/digits.py", 14, ha="left", color=INK, weight="bold", family=MONO)
    canvas.text(30, 474, f"{values.num_params:,} parameters", 13, ha="left")
    legend = (
        (SIGNED, "negative to positive"),
        (POSITIVE, "attention weights"),
        (SIMILAR, "cosine similarity"),
    )
    ramp = np.linspace(0, 1, 64)[None]
    for i, (cmap, text) in enumerate(legend):
        y = 508 + 38 * i
        canvas.tile(30, y, 60, 18, ramp, cmap, (0, 1))
        canvas.text(100, y + 8, text, 13, ha="left")
    canvas.text(30, 648, f"test image {values.index}, a {values.label}", 13, ha="left")


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Write the picture."""
    del overrides
    picture = draw(forward(from_pretrained(values.workdir), values.index)).png()
    pathlib.Path(values.output).write_bytes(picture)


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("workdir", "runs/digits", "Work directory of the run.", flag_values=values)
    flags.DEFINE_integer("index", 64, "Index of the test image.", flag_values=values)
    flags.DEFINE_string("output", "docs/vit.png", "The picture.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
