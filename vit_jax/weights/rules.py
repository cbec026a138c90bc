"""Rename rules between the arrays of a weight file and our parameters, and their engine.

    Rule("blocks.{i}.attn.qkv.weight", "blocks_{i}/attn/qkv/kernel", "(s h c) d -> d s h c")

A rule maps arrays of the file (sources) to our parameters (targets). Its pattern rearranges the
dimensions in the notation of einops. The same rule is applied from left to right on import and from
right to left on export.

- Several sources are stacked along a new first dimension.
- Several targets split the rows (all dimensions but the last) of the source among them, in order.
- `{i}` and `{j}` are block numbers from 0, `{i1}` and `{j1}` the same numbers from 1.
- A source without the `{i}` of its target has all blocks stacked.
- The other placeholders depend on the file.
- A rule without a target names extra tensors, which the model does not have. They are kept for the
  export. `*` matches any text in their names.

Names and shapes are compared before any array is read.
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

_NUMBERS = {key: f"{{{key}}}" for key in ("i", "j", "i1", "j1")}  # filled later, from the targets


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rename rule: names in a file, our names, and how to rearrange the dimensions."""

    source: str | tuple[str, ...]
    target: str | tuple[str, ...] = ()
    pattern: str = ""  # of einops; empty if the layout is the same on both sides


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of a library, and the values of the placeholders that depend on the file."""

    rules: tuple[Rule, ...]
    placeholders: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def extra_tensors(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the extra tensors of a file: those with a rule that has no target.

        Args:
          names: All names in the file.

        Returns:
          The names of the extra tensors, by the pattern of their rule, such as `decoder_*`.
        """
        values = {**self.placeholders, **_NUMBERS}
        rules = (rule for rule in self.rules if not rule.target)
        kinds = {}
        for source in itertools.chain(*(_fill(rule.source, values) for rule in rules)):
            pattern = re.sub(r"\\{\w+\\}", r"\\d+", re.escape(source)).replace(r"\*", ".*")
            if matches := sorted(name for name in names if re.fullmatch(pattern, name)):
                kinds[re.sub(r"{\w+}", "*", source)] = matches
        return kinds

    def bind(self, shapes: Mapping[str, Shape]) -> list["Binding"]:
        """Return the rules that apply to the parameters of a model, with all placeholders filled.

        Args:
          shapes: Shapes of the model's parameters, by name.
        """
        rules = (rule for rule in self.rules if rule.target)
        return [binding for rule in rules for binding in _bind(rule, self.placeholders, shapes)]


@dataclasses.dataclass(frozen=True)
class Binding:
    """A rule with all placeholders filled: the names of the arrays on both sides."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    shapes: tuple[Shape, ...]  # of the targets
    pattern: str
    splits_rows: bool = False  # the targets are consecutive rows of one array
    stacked: bool = False  # each source has all targets, stacked

    def forward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the targets (our parameters) from the sources (arrays of the file)."""
        if self.stacked:
            layers = range(len(self.shapes))
            return [self._forward([a[i] for a in arrays], self.shapes[i]) for i in layers]
        if not self.splits_rows:
            return [self._forward(arrays, self.shapes[0])]
        counts = [math.prod(shape[:-1]) for shape in self.shapes]
        rows = self._forward(arrays, (sum(counts), self.shapes[0][-1]))
        parts = np.split(rows, list(itertools.accumulate(counts))[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def backward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the sources (arrays of the file) from the targets (our parameters)."""
        if self.stacked:
            layers = [self._backward(array) for array in arrays]
            return [np.stack(sources) for sources in zip(*layers, strict=True)]
        if not self.splits_rows:
            return self._backward(arrays[0])
        return self._backward(np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays]))

    @property
    def source_shapes(self) -> dict[str, Shape]:
        """The shapes that the sources must have, by name."""
        shape = self.shapes[0]
        if self.splits_rows:
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
    """Convert the arrays of a file to the parameters of a model.

    Args:
      table: The rules and placeholders of the file.
      shapes: Shapes of the model's parameters, by name.
      file_shapes: Shapes of the file's arrays, by name.
      read: Returns an array of the file by name.
      where: The file, for errors.

    Returns:
      The parameters by our names, in float32, and the extra tensors by their names in the file.

    Raises:
      DataError: Names or shapes do not match; the message lists all of them, or says that
        no name matches; no array was read. Or a parameter has values that are not finite in
        float32.
    """
    bindings = table.bind(shapes)
    bound = {name for binding in bindings for name in binding.targets}
    expected = {key: shape for b in bindings for key, shape in b.source_shapes.items()}
    problems = {name: "is missing from the file" for name in shapes.keys() - bound}
    for name, shape in expected.items():
        if name not in file_shapes:
            problems[name] = f"is missing, expected {format_shape(shape)}"
        elif file_shapes[name] != shape:
            problems[name] = f"is {format_shape(file_shapes[name])}, expected {format_shape(shape)}"
    extra_tensors = set(itertools.chain(*table.extra_tensors(file_shapes).values()))
    for name in file_shapes.keys() - expected.keys() - extra_tensors:
        problems[name] = f"({format_shape(file_shapes[name])}) is an unexpected key"
    if expected and file_shapes and not expected.keys() & file_shapes.keys():
        names = f"it has {min(file_shapes)}, expected {min(expected)}"
        problem = f"no array has a name of this library ({names})"
        raise DataError(f"{where}: not the weights of this model: {problem}; try another --source")
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
    """Plan the conversion of a model's parameters to the arrays of a file.

    Args:
      table: The rules and placeholders of the file.
      shapes: Shapes of the model's parameters, by name.
      read: Returns a parameter by name.
      where: The file format, for errors.

    Returns:
      The shapes of the file's arrays by name, and a function that makes an array by name. If each
      array is made once, in the order of the shapes, each parameter is read once.

    Raises:
      DataError: The library has no name for a parameter. The message lists all such parameters.
    """
    bindings = table.bind(shapes)
    bound = {name for binding in bindings for name in binding.targets}
    if nameless := shapes.keys() - bound:
        problems = {name: f"({format_shape(shapes[name])}) has no name there" for name in nameless}
        raise DataError(f"{where} cannot store this model: {list_problems(problems)}")
    binding_of = {name: binding for binding in bindings for name in binding.sources}
    pending: Arrays = {}

    def make(name: str) -> np.ndarray:
        if name not in pending:
            binding = binding_of[name]
            arrays = binding.backward([read(target) for target in binding.targets])
            pending.clear()
            pending.update(zip(binding.sources, arrays, strict=True))
        return np.ascontiguousarray(pending.pop(name))

    return {key: shape for b in bindings for key, shape in b.source_shapes.items()}, make


def _bind(
    rule: Rule, placeholders: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[Binding]:
    """Yield the rule for each set of the model's parameters that its target matches."""
    pattern = rule.pattern.format(**placeholders)
    if not isinstance(rule.target, str):
        targets = tuple(name for name in rule.target if name in shapes)
        if targets:
            sources = _fill(rule.source, placeholders)
            target_shapes = tuple(shapes[name] for name in targets)
            yield Binding(sources, targets, target_shapes, pattern, splits_rows=True)
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
    """Return the parameters that a target matches, with the block numbers in their names."""
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


def format_shape(shape: Shape) -> str:
    """Return a shape as text, such as `16x16x3`."""
    return "x".join(map(str, shape)) or "a scalar"


def list_problems(problems: Mapping[str, str]) -> str:
    """Return all problems in one line. Names that differ only in their numbers share one entry.

    Args:
      problems: What is wrong with each array, by name.
    """
    groups: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, problem in problems.items():
        groups[re.sub(r"\d+", "*", name), problem].append(name)
    return "; ".join(
        f"{names[0]} {problem}" if len(names) == 1 else f"{general} {problem} ({len(names)} times)"
        for (general, problem), names in sorted(groups.items())
    )
