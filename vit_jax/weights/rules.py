"""Tables of rules between the names of a weight file and ours, and the one engine that reads them.

    Rule("blocks.{i}.attn.qkv.weight", "blocks_{i}/attn/qkv/kernel", "(s h c) d -> d s h c")

A rule says which arrays of the file make which of our parameters, and how their dimensions are
arranged, in the notation of einops. Read from right to left it is the way back, so that a table
imports and exports. Several sources are stacked along a new first dimension; several targets share
the rows (all dimensions but the last) in their order. `{i}` and `{j}` are numbers of blocks,
`{i1}` and `{j1}` the same counted from 1; a source without the `{i}` of its target holds all
blocks, stacked. Other placeholders depend on the file. A rule without a target names extra tensors:
the model does not have them, and they are kept for the export; `*` stands for anything there.

Whatever does not fit is found from names and shapes, before an array is read.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import einops
import numpy as np

from vit_jax.errors import DataError
from vit_jax.weights.files.base import Read, Shape
from vit_jax.weights.precision import to_float32

Arrays = dict[str, np.ndarray]

_NUMBERS = {key: f"{{{key}}}" for key in ("i", "j", "i1", "j1")}  # placeholders that stay


@dataclasses.dataclass(frozen=True)
class Rule:
    """A correspondence: names in a file, our names, and the arrangement of the dimensions."""

    source: str | tuple[str, ...]
    target: str | tuple[str, ...] = ()
    pattern: str = ""  # the same on both sides where empty


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of a library, and the placeholders in them that depend on the file."""

    rules: tuple[Rule, ...]
    placeholders: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def extra_tensors(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return those of the names in a file that the model does not have, by kind."""
        values = {**self.placeholders, **_NUMBERS}
        rules = (rule for rule in self.rules if not rule.target)
        kinds = {}
        for source in itertools.chain(*(_fill(rule.source, values) for rule in rules)):
            pattern = re.sub(r"\\{\w+\\}", r"\\d+", re.escape(source)).replace(r"\*", ".*")
            if found := sorted(name for name in names if re.fullmatch(pattern, name)):
                kinds[re.sub(r"{\w+}", "*", source)] = found
        return kinds

    def bind(self, shapes: Mapping[str, Shape]) -> list["Binding"]:
        """Return the rules for the parameters of a model, every placeholder filled."""
        rules = (rule for rule in self.rules if rule.target)
        return [binding for rule in rules for binding in _bind(rule, self.placeholders, shapes)]


@dataclasses.dataclass(frozen=True)
class Binding:
    """A rule for one set of arrays."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shapes: tuple[Shape, ...]  # of the targets
    pattern: str
    shares_rows: bool = False
    stacked: bool = False  # a source holds something for each target

    def forward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the targets from the sources."""
        if self.stacked:
            layers = range(len(self.shapes))
            return [self._forward([a[i] for a in arrays], self.shapes[i]) for i in layers]
        if not self.shares_rows:
            return [self._forward(arrays, self.shapes[0])]
        counts = [math.prod(shape[:-1]) for shape in self.shapes]
        rows = self._forward(arrays, (sum(counts), self.shapes[0][-1]))
        shares = np.split(rows, list(itertools.accumulate(counts))[:-1])
        return [share.reshape(shape) for share, shape in zip(shares, self.shapes, strict=True)]

    def backward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the sources from the targets."""
        if self.stacked:
            layers = [self._backward(array) for array in arrays]
            return [np.stack(of_layers) for of_layers in zip(*layers, strict=True)]
        if not self.shares_rows:
            return self._backward(arrays[0])
        return self._backward(np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays]))

    @property
    def source_shapes(self) -> dict[str, Shape]:
        """The shapes that the sources must have, by name."""
        shape = self.shapes[0]
        if self.shares_rows:
            shape = (sum(math.prod(shape[:-1]) for shape in self.shapes), shape[-1])
        blank = np.broadcast_to(np.float32(0), shape)  # takes no memory
        arrays = self._backward(blank)
        stack = (len(self.shapes),) if self.stacked else ()
        return {name: stack + a.shape for name, a in zip(self.sources, arrays, strict=True)}

    def _forward(self, arrays: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        if not self.pattern:
            return arrays[0]
        axes = self.pattern.split("->")[1].split()
        sizes = {axis: size for axis, size in zip(axes, shape, strict=True) if axis != "1"}
        stack = arrays[0] if len(self.sources) == 1 else list(arrays)
        return einops.rearrange(stack, self.pattern, **sizes)

    def _backward(self, array: np.ndarray) -> list[np.ndarray]:
        if not self.pattern:
            return [array]
        left, right = self.pattern.split("->")
        stack = einops.rearrange(array, f"{right} -> {left}")
        return [stack] if len(self.sources) == 1 else list(stack)


def import_params(
    table: Table,
    shapes: Mapping[str, Shape],
    file_shapes: Mapping[str, Shape],
    read: Read,
    where: str,
) -> tuple[Arrays, Arrays]:
    """Return the parameters of a model from a file, in float32, and the file's extra tensors.

    Args:
      table: The table of the file.
      shapes: Shapes of the model's parameters, by name.
      file_shapes: Shapes of the file's arrays, by name.
      read: Returns an array of the file by its name.
      where: The file, for errors.

    Raises:
      DataError: Names or shapes do not fit; all of them are listed, and nothing was read. Or a
        parameter is not of finite numbers.
    """
    bindings = table.bind(shapes)
    bound = {name for binding in bindings for name in binding.targets}
    expected = {key: shape for b in bindings for key, shape in b.source_shapes.items()}
    problems = {name: "is missing from the file" for name in shapes.keys() - bound}
    for name, shape in expected.items():
        if name not in file_shapes:
            problems[name] = f"is missing, expected {show(shape)}"
        elif file_shapes[name] != shape:
            problems[name] = f"is {show(file_shapes[name])}, expected {show(shape)}"
    extra_tensors = set(itertools.chain(*table.extra_tensors(file_shapes).values()))
    for name in file_shapes.keys() - expected.keys() - extra_tensors:
        problems[name] = f"({show(file_shapes[name])}) is an unexpected key"
    if problems:
        raise DataError(f"{where}: not the weights of this model: {list_problems(problems)}")
    params: Arrays = {}
    for binding in bindings:
        sources = [to_float32(name, read(name), where) for name in binding.sources]
        arrays = binding.forward(sources)
        for name, array in zip(binding.targets, arrays, strict=True):
            params[name] = np.ascontiguousarray(array, np.float32)
    return params, {name: read(name) for name in sorted(extra_tensors)}


def export_params(
    table: Table, shapes: Mapping[str, Shape], read: Read, where: str
) -> tuple[dict[str, Shape], Read]:
    """Return the shapes of a file's arrays by name, and a function that makes one of them.

    Where each array is made once and in this order, each parameter is read once.

    Args:
      table: The table of the file.
      shapes: Shapes of the model's parameters, by name.
      read: Returns a parameter by its name.
      where: The file, for errors.

    Raises:
      DataError: The library has no name for a parameter; all of them are listed.
    """
    bindings = table.bind(shapes)
    bound = {name for binding in bindings for name in binding.targets}
    if nameless := shapes.keys() - bound:
        problems = {name: f"({show(shapes[name])}) has no name there" for name in nameless}
        raise DataError(f"{where}: cannot hold this model: {list_problems(problems)}")
    owners = {name: binding for binding in bindings for name in binding.sources}
    of_last_binding: Arrays = {}

    def make(name: str) -> np.ndarray:
        if name not in of_last_binding:
            binding = owners[name]
            arrays = binding.backward([read(target) for target in binding.targets])
            of_last_binding.clear()
            of_last_binding.update(zip(binding.sources, arrays, strict=True))
        return np.ascontiguousarray(of_last_binding.pop(name))

    return {key: shape for b in bindings for key, shape in b.source_shapes.items()}, make


def _bind(
    rule: Rule, placeholders: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[Binding]:
    """Yield the rule for each set of the model's parameters that it means."""
    pattern = rule.pattern.format(**placeholders)
    if not isinstance(rule.target, str):
        targets = tuple(name for name in rule.target if name in shapes)
        if targets:
            sources = _fill(rule.source, placeholders)
            target_shapes = tuple(shapes[name] for name in targets)
            yield Binding(sources, targets, target_shapes, pattern, shares_rows=True)
        return
    numbers = _match(rule.target, shapes)
    sources = _fill(rule.source, {**placeholders, **_NUMBERS})
    if numbers and "{i}" in rule.target and "{i" not in sources[0]:
        targets = tuple(sorted(numbers, key=lambda name: numbers[name]["i"]))
        target_shapes = tuple(shapes[name] for name in targets)
        yield Binding(sources, targets, target_shapes, pattern, stacked=True)
        return
    for name, values in numbers.items():
        filled = tuple(source.format(**values) for source in sources)
        yield Binding(filled, (name,), (shapes[name],), pattern)


def _match(target: str, shapes: Mapping[str, Shape]) -> dict[str, dict[str, int]]:
    """Return the parameters that a target means, with the numbers in their names."""
    regex = re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(target)))
    numbers = {}
    for name in shapes:
        if match := regex.fullmatch(name):
            values = {key: int(text) for key, text in match.groupdict().items()}
            numbers[name] = values | {f"{key}1": value + 1 for key, value in values.items()}
    return numbers


def _fill(source: str | tuple[str, ...], placeholders: Mapping[str, str]) -> tuple[str, ...]:
    sources = (source,) if isinstance(source, str) else source
    return tuple(name.format(**placeholders) for name in sources)


def show(shape: Shape) -> str:
    """Return a shape as text."""
    return "x".join(map(str, shape)) or "a scalar"


def list_problems(problems: Mapping[str, str]) -> str:
    """Return all problems as text; names that differ only in their numbers share one entry."""
    groups: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, problem in problems.items():
        groups[re.sub(r"\d+", "*", name), problem].append(name)
    return "; ".join(
        f"{names[0]} {problem}" if len(names) == 1 else f"{general} {problem} ({len(names)} times)"
        for (general, problem), names in sorted(groups.items())
    )
