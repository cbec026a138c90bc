"""Compare attentions, position embeddings and stems: accuracy under one recipe, and cost.

  python benchmarks/architectures.py --output=DIR [--data=fashion_mnist] [--epochs=3]
      [--seeds=0,1,2] [--part=accuracy] [--only='posemb/*'] [--config.data.data_dir=DIR]

The same small ViT with one part changed, on Fashion-MNIST or the packaged digits; then a training
step and a forward pass of it for 64 to 4,096 tokens. Writes architectures.json, whose rows are not
measured again, architectures.md and attention_cost.png.
"""

import dataclasses
import fnmatch
import itertools
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from vit_jax import config, models
from vit_jax.cluster import sharding
from vit_jax.console import cli
from vit_jax.console.progress import format_seconds, say
from vit_jax.data import transforms
from vit_jax.errors import ConfigError, pick
from vit_jax.evaluation import loop
from vit_jax.models.layers.attention import ATTENTIONS
from vit_jax.models.layers.posemb import POSEMBS
from vit_jax.models.layers.stems import STEMS
from vit_jax.training import state
from vit_jax.training.run import open_run
from vit_jax.training.step import make_train_step

TABLES = {"attention": ATTENTIONS, "posemb": POSEMBS, "stem": STEMS}
BASE = {"attention": "full", "posemb": "learned", "stem": "patch"}
# For the accuracy: 7 x 7 tokens of 4 x 4 pixels, or 4 x 4 of the digits. Of the fields of parts, a
# model has those that belong to its own.
SMALL = {
    "width": 48,
    "depth": 3,
    "num_heads": 3,
    "mlp_dim": 96,
    "num_classes": 0,
    "stem.patch": (4, 4),
    "attention.window": (3, 3),
    "attention.landmarks": 16,
    "attention.reduction": 2,
}
SWIN = {
    "width": 32,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "mlp_ratio": 2.0,
    "num_classes": 0,
}
SWINS = ("swin_t_w4", "swinv2_t_w4")
DATA = {
    "fashion_mnist": {"image_size": (28, 28), "mean": (0.286,), "std": (0.353,)},
    "digits": {"image_size": (16, 16), "mean": (0.5,), "std": (0.5,)},
}
# For the cost: patches of 4 x 4 pixels; as many tokens a step for each size of image.
TOKENS = (64, 256, 1024, 4096)
TOKENS_A_STEP = 4096
LARGE = {
    "width": 192,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 768,
    "num_classes": 10,
    "pool.name": "gap",
    "stem.patch": (4, 4),
    "attention.window": (8, 8),
    "attention.landmarks": 64,
    "attention.reduction": 4,
}
REPEATS = 7

Rows = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model with one part changed."""

    table: str  # attention, posemb, stem; or swin
    name: str

    def create(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the model section of a config."""
        if self.table == "swin":
            return models.spec(self.name, **SWIN).to_dict()
        parts = {**BASE, self.table: self.name}
        known = models.preset("vit_mu4", parts)
        fields = {path: value for path, value in fields.items() if path in known}
        if self.name == "resnet":  # whose root and pool take the place of the patch
            fields |= {"stem.width_factor": 0.5, "stem.patch": (1, 1)}
        return models.spec("vit_mu4", **fields, **parts).to_dict()

    @property
    def key(self) -> str:
        """The same for the same model, which is in each table."""
        is_base = self.table in BASE and BASE[self.table] == self.name
        return "base" if is_base else f"{self.table}/{self.name}"


def variants(pattern: str) -> Iterator[Variant]:
    """Yield what a shell pattern such as `stem/*` means."""
    for table, entries in TABLES.items():
        yield from (Variant(table, name) for name in entries if _means(pattern, table, name))
    yield from (Variant("swin", name) for name in SWINS if _means(pattern, "swin", name))


def _means(pattern: str, table: str, name: str) -> bool:
    return fnmatch.fnmatchcase(f"{table}/{name}", pattern)


# --- Accuracy.


def make_config(
    variant: Variant, values: flags.FlagValues, overrides: dict[str, str]
) -> config.Config:
    """Return the recipe, which is the same for all."""
    c = config.to_config_dict(config.Config())
    c.batch_size = values.batch_size
    c.total_epochs = float(values.epochs)
    c.model = variant.create(SMALL)
    c.data.name = values.data
    c.data.channels = 1
    c.data.update(pick(DATA, values.data, "--data"))
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 100 if values.data == "fashion_mnist" else 20
    c.optim.weight_decay = 0.05
    c.optim.clip_norm = 1.0
    return config.resolve(c, overrides).config


def read(source: Any, data: config.Data) -> dict[str, np.ndarray]:
    """Return all images of a split, as they are, and their labels."""
    pipeline = transforms.for_evaluation(data)
    shape = data.image_shape
    images = np.zeros((len(source), *shape), np.uint8)
    labels = np.zeros(len(source), np.int32)
    generator = np.random.default_rng(0)  # which evaluation does not touch
    for i in range(len(source)):
        record = source[i]
        images[i] = pipeline(pipeline.decode(record["image"]), generator)
        labels[i] = record["label"]
    return {"image": images, "label": labels}


def accuracy(settings: config.Config, seed: int, splits: dict[str, Any]) -> dict[str, Any]:
    """Train from a seed, for the parameters and the order of the images; return figures."""
    run = open_run(settings, jax.devices()[:1])
    for name in run.splits:
        if name not in splits:
            splits[name] = read(run.splits[name], settings.data)
    train = splits["train"]
    test = splits["test"]
    size = settings.batch_size
    shape = settings.data.image_shape
    with jax.set_mesh(run.mesh):
        now = state.init(run.model, run.tx, shape, seed, run.shapes, stacks=run.stacks)
        step = make_train_step(run)
        order = _order(len(train["label"]), size, seed)
        began = time.perf_counter()
        for i in range(run.total_steps):
            rows = next(order)
            batch = {key: array[rows] for key, array in train.items()}
            now, last = step(now, sharding.to_global(batch, run.mesh), {})
            if i == 0:
                jax.block_until_ready(now)
                began = time.perf_counter()  # without compiling
        jax.block_until_ready(now)
        seconds = time.perf_counter() - began
        eval_step = loop.make_eval_step(run.evaluators, run.mesh)
        sums = jax.device_put(loop.zeros(run.evaluators), sharding.replicated(run.mesh))
        for start in range(0, len(test["label"]), 500):
            batch = {key: array[start : start + 500] for key, array in test.items()}
            batch["mask"] = np.ones(len(batch["label"]), np.bool_)
            sums, _ = eval_step(now.variables, sums, sharding.to_global(batch, run.mesh))
    totals = jax.device_get(sums)["classification"]
    return {
        "top1": float(totals["top1"] / totals["count"]),
        "loss": float(last["loss"]),
        "seconds": seconds,
        "steps": run.total_steps,
        "parameters": run.num_parameters,
    }


def _order(num: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each batch; an epoch is one permutation."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(num)
        yield from (order[i : i + size] for i in range(0, num - size + 1, size))


# --- Cost.


def programs(variant: Variant, num_tokens: int) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """Return the compiled step and forward pass, by name, and their inputs."""
    model = models.create(**variant.create(LARGE))
    side = 4 * int(num_tokens**0.5)
    batch = TOKENS_A_STEP // num_tokens
    images = jnp.zeros((batch, side, side, 3))
    others = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    params = others.pop("params")

    def forward(params: Any, images: Any) -> Any:
        return models.forward(model, {"params": params, **others}, images).logits

    def step(params: Any, images: Any) -> Any:
        def loss(params: Any) -> Any:
            targets = jnp.zeros(batch, jnp.int32)
            logits = forward(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, jax.grad(loss)(params))

    functions = {"step": step, "forward": forward}
    compiled = {name: jax.jit(f).lower(params, images).compile() for name, f in functions.items()}
    return compiled, (params, images)


def costs(num_tokens: int, chosen: list[Variant]) -> Rows:
    """Measure the variants side by side: each repeat runs all of them once."""
    built = {}
    for variant in chosen:
        if variant.key not in built:
            built[variant.key] = programs(variant, num_tokens)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(REPEATS + 1):
        for key, (compiled, inputs) in built.items():
            for name, program in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(program(*inputs))
                times.setdefault((key, name), []).append(time.perf_counter() - began)
    rows = {}
    for key, (compiled, _) in built.items():
        memory = compiled["step"].memory_analysis()
        rows[f"cost/{num_tokens}/{key}"] = {
            **{f"{name}_ms": 1e3 * statistics.median(times[key, name][1:]) for name in compiled},
            "step_mib": memory.temp_size_in_bytes / 2**20,
            "batch": TOKENS_A_STEP // num_tokens,
        }
    return rows


# --- The report.


def report(rows: Rows) -> str:
    """Return the tables in Markdown."""
    parts = []
    facts = rows["facts"]
    for table in (*TABLES, "swin"):
        names = list(TABLES.get(table, SWINS))
        lines = [_accuracy_line(rows, Variant(table, name)) for name in names]
        if any(lines):
            head = f"| `{table}` | top-1, mean | range | parameters |\n|---|---|---|---|"
            parts.append("\n".join([head, *filter(None, lines)]))
    if parts:
        parts.insert(0, facts["accuracy"])
    if any(key.startswith("cost/") for key in rows):
        parts.append(facts["cost"])
    for table in TABLES:
        lines = [_cost_line(rows, Variant(table, name)) for name in TABLES[table]]
        if any(lines):
            head = f"| `{table}` |" + "".join(f" {n:,} tokens |" for n in TOKENS)
            parts.append("\n".join([head, "|---" * (len(TOKENS) + 1) + "|", *filter(None, lines)]))
    return "\n\n".join(parts) + "\n"


def _accuracy_line(rows: Rows, variant: Variant) -> str:
    runs = [row for key, row in rows.items() if key.startswith(f"accuracy/{variant.key}/")]
    if not runs:
        return ""
    scores = [100 * row["top1"] for row in runs]
    span = f"{min(scores):.2f} to {max(scores):.2f}"
    size = runs[0]["parameters"]
    return f"| {variant.name} | {statistics.mean(scores):.2f} % | {span} | {size:,} |"


def _cost_line(rows: Rows, variant: Variant) -> str:
    cells = []
    for n in TOKENS:
        row, base = (rows.get(f"cost/{n}/{key}") for key in (variant.key, "base"))
        if row is None or base is None:
            return ""
        ratio = row["step_ms"] / base["step_ms"]
        cells.append(f"{row['step_ms']:,.0f} ms ({ratio:.2f}x), {row['step_mib']:,.0f} MiB")
    return f"| {variant.name} | " + " | ".join(cells) + " |"


def plot(rows: Rows, path: pathlib.Path) -> None:
    """Draw time and memory of a training step against tokens, a line an attention."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    colors = [
        "#000000",
        "#666666",
        "#0072B2",
        "#56B4E9",
        "#D55E00",
        "#E69F00",
        "#009E73",
        "#CC79A7",
    ]
    labels = {"step_ms": "ms a training step", "step_mib": "MiB of temporaries"}
    for axis, (field, label) in zip(axes, labels.items(), strict=True):
        ends = []
        for name, color in zip(ATTENTIONS, itertools.cycle(colors), strict=False):
            key = Variant("attention", name).key
            if f"cost/{TOKENS[-1]}/{key}" not in rows:
                continue
            values = [rows[f"cost/{n}/{key}"][field] for n in TOKENS]
            style = "--" if name == "fused" else "-"
            axis.plot(TOKENS, values, style, color=color, marker="o", markersize=4)
            ends.append((values[-1], name, color))
        axis.set(xscale="log", yscale="log", xlabel="tokens an image", title=label)
        axis.set_xticks(TOKENS, [f"{n:,}" for n in TOKENS])
        low, high = axis.get_ylim()
        ticks = [n * 10**power for power in range(7) for n in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.25)
        _label_ends(axis, ends)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _label_ends(axis: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write the names beside the last points, apart from each other."""
    low, high = (np.log(limit) for limit in axis.get_ylim())
    gap = 0.055 * (high - low)
    last = -np.inf
    for value, name, color in sorted(ends):
        last = max(np.log(value), last + gap)
        axis.text(TOKENS[-1] * 1.15, np.exp(last), name, color=color, va="center", fontsize=9)


# --- The command.


def main(values: flags.FlagValues, overrides: dict[str, str]) -> None:
    """Measure what is not measured yet, and write the report."""
    if not values.output:
        raise ConfigError("--output", "expected a folder")
    pick(dict.fromkeys(("accuracy", "cost", "all")), values.part, "--part")
    folder = pathlib.Path(values.output)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "architectures.json"
    rows: Rows = json.loads(store.read_text()) if store.exists() else {"facts": {}}
    chosen = list(variants(values.only))
    if not chosen:
        raise ConfigError("--only", f"'{values.only}' means none, such as attention/linear")

    def keep(new: Rows) -> None:
        rows.update(new)
        store.write_text(json.dumps(rows, indent=1) + "\n")

    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    if values.part != "cost":
        seeds = [int(seed) for seed in values.seeds]
        run_accuracy(chosen, seeds, values, overrides, rows, keep)
        recipe = (
            f"Top-1 on the test split of {values.data}, seeds {', '.join(map(str, seeds))}; "
            f"{values.epochs} epochs, batch {values.batch_size}, one recipe for all ({device}). "
            "Nothing was tuned for any of them."
        )
        keep({"facts": {**rows["facts"], "accuracy": recipe}})
    if values.part != "accuracy":
        plain = [variant for variant in chosen if variant.table in TABLES]
        for n in map(int, values.tokens):
            if all(f"cost/{n}/{variant.key}" in rows for variant in plain):
                continue
            base = [] if any(v.key == "base" for v in plain) else [Variant("attention", "full")]
            measured = costs(n, [*base, *plain])
            keep(measured)
            say(f"cost      {n:,} tokens: {len(measured)} models")
        text = (
            f"A training step of width {LARGE['width']}, depth {LARGE['depth']}, float32, with "
            f"{TOKENS_A_STEP:,} tokens in all: median of {REPEATS} interleaved repeats, the ratio "
            f"to the base model, and the temporaries that XLA allots ({device})."
        )
        keep({"facts": {**rows["facts"], "cost": text}})
        if all(f"cost/{n}/base" in rows for n in TOKENS):
            plot(rows, folder / "attention_cost.png")
    (folder / "architectures.md").write_text(report(rows))
    say(f"write     {folder}")


def run_accuracy(
    chosen: list[Variant],
    seeds: list[int],
    values: flags.FlagValues,
    overrides: dict[str, str],
    rows: Rows,
    keep: Any,
) -> None:
    """Train what is not in the rows yet; one line a run."""
    wanted = {f"accuracy/{v.key}/{seed}": (v, seed) for seed in seeds for v in chosen}
    todo = {key: pair for key, pair in wanted.items() if key not in rows}
    began = time.monotonic()
    splits: dict[str, Any] = {}
    for number, (key, (variant, seed)) in enumerate(todo.items(), 1):
        row = accuracy(make_config(variant, values, overrides), seed, splits)
        keep({key: row})
        left = (time.monotonic() - began) / number * (len(todo) - number)
        done = f"{number}/{len(todo)} ETA {format_seconds(left)}"
        say(f"{done} | {key}  top-1 {row['top1']:.2%}  {row['seconds']:.1f} s")


def _flags() -> flags.FlagValues:
    values = cli.new_flags()
    flags.DEFINE_string("output", "", "Folder for what is written.", flag_values=values)
    flags.DEFINE_string("data", "fashion_mnist", "Or digits.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of parameters and order.", flag_values=values)
    flags.DEFINE_list("tokens", [str(n) for n in TOKENS], "For the cost.", flag_values=values)
    flags.DEFINE_float("epochs", 1.0, "Of training, for the accuracy.", flag_values=values)
    flags.DEFINE_integer("batch_size", 128, "Images a step.", flag_values=values)
    flags.DEFINE_string("part", "all", "accuracy, cost or all.", flag_values=values)
    flags.DEFINE_string("only", "*", "Variants by a pattern: stem/*.", flag_values=values)
    return values


if __name__ == "__main__":
    sys.exit(cli.run(main, _flags(), __doc__))
