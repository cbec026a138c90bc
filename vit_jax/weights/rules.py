"""Tables of rules between the names of a weight file and ours, and the one engine that reads them.

    Rule("blocks.{i}.attn.qkv.weight", "blocks_{i}/attn/qkv/kernel", "(s h c) d -> d s h c")

A rule says which arrays of the file make which of our parameters, and how their dimensions are
arranged, in the notation of einops. Read from right to left it is the way back, so that a table
imports and exports. Several sources are stacked along a new first dimension; several targets share
out the rows (all dimensions but the last) in their order. `{i}` and `{j}` are numbers of blocks,
`{i1}` and `{j1}` the same counted from 1; a source without the `{i}` of its target holds all
blocks, stacked. A rule without a target names what has no part in the model and is carried along.

Whatever does not fit is found from names and shapes, before an array is read.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import einops
import numpy as np

from vit_jax.errors import DataError

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]
Read = Callable[[str], np.ndarray]


_NUMBERS = {key: f"{{{key}}}" for key in ("i", "j", "i1", "j1")}  # gaps that stay


@dataclasses.dataclass(frozen=True)
class Rule:
    """A correspondence: names in a file, our names, and the arrangement of the dimensions."""

    source: str | tuple[str, ...]
    target: str | tuple[str, ...] = ()
    pattern: str = ""  # the same on both sides where empty


@dataclasses.dataclass(frozen=True)
class Table:
    """The rules of one kind of file; `words` fill the other gaps in them."""

    rules: tuple[Rule, ...]
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def carried(self, found: Iterable[str]) -> set[str]:
        """Returns, of the names in a file, those that have no part in the model."""
        rules = (rule for rule in self.rules if not rule.target)
        names = itertools.chain(*(_fill(r.source, {**self.words, **_NUMBERS}) for r in rules))
        patterns = [re.sub(r"\\{\w+\\}", r"\\d+", re.escape(name)) for name in names]
        return {name for name in found if any(re.fullmatch(p, name) for p in patterns)}

    def bind(self, shapes: Mapping[str, Shape]) -> list["Binding"]:
        """Returns the rules for the parameters of a model, without gaps."""
        rules = (rule for rule in self.rules if rule.target)
        return [binding for rule in rules for binding in _bind(rule, self.words, shapes)]


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
        """Returns the targets from the sources."""
        if self.stacked:
            layers = range(len(self.shapes))
            return [self._forward([a[i] for a in arrays], self.shapes[i]) for i in layers]
        if not self.shares_rows:
            return [self._forward(arrays, self.shapes[0])]
        counts = [math.prod(shape[:-1]) for shape in self.shapes]
        rows = self._forward(arrays, (sum(counts), self.shapes[0][-1]))
        parts = np.split(rows, list(itertools.accumulate(counts))[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def backward(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the sources from the targets."""
        if self.stacked:
            layers = [self._backward(array) for array in arrays]
            return [np.stack(parts) for parts in zip(*layers, strict=True)]
        if not self.shares_rows:
            return self._backward(arrays[0])
        return self._backward(np.concatenate([a.reshape(-1, a.shape[-1]) for a in arrays]))

    @property
    def source_shapes(self) -> dict[str, Shape]:
        """The shapes that the sources must have, by name."""
        shape, stack = self.shapes[0], (len(self.shapes),) * self.stacked
        if self.shares_rows:
            shape = (sum(math.prod(shape[:-1]) for shape in self.shapes), shape[-1])
        blank = np.broadcast_to(np.float32(0), shape)  # takes no memory
        made = self._backward(blank)
        return {name: stack + a.shape for name, a in zip(self.sources, made, strict=True)}

    def _forward(self, arrays: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
        if not self.pattern:
            return arrays[0]
        axes = self.pattern.split("->")[1].split()
        sizes = {axis: size for axis, size in zip(axes, shape, strict=True) if axis != "1"}
        given = arrays[0] if len(self.sources) == 1 else list(arrays)
        return einops.rearrange(given, self.pattern, **sizes)

    def _backward(self, array: np.ndarray) -> list[np.ndarray]:
        if not self.pattern:
            return [array]
        left, right = self.pattern.split("->")
        made = einops.rearrange(array, f"{right} -> {left}")
        return [made] if len(self.sources) == 1 else list(made)


def load(
    table: Table, shapes: Mapping[str, Shape], found: Mapping[str, Shape], read: Read, where: str
) -> tuple[Arrays, Arrays]:
    """Returns the parameters of a model from a file, in float32, and the arrays that are carried.

    Args:
      table: Of the file.
      shapes: Of the model's parameters, by name.
      found: Shapes of the file's arrays, by name.
      read: Reads one of them.
      where: The file, for errors.

    Raises:
      DataError: Names or shapes do not fit; all that do not are listed, and nothing was read.
    """
    bindings = table.bind(shapes)
    made = {name for binding in bindings for name in binding.targets}
    expected = {key: shape for b in bindings for key, shape in b.source_shapes.items()}
    problems = {name: "is made from nothing there" for name in shapes.keys() - made}
    for name, shape in expected.items():
        if name not in found:
            problems[name] = f"is missing, expected {show(shape)}"
        elif found[name] != shape:
            problems[name] = f"is {show(found[name])}, expected {show(shape)}"
    carried = table.carried(found)
    for name in found.keys() - expected.keys() - carried:
        problems[name] = f"({show(found[name])}) has no place in the model"
    if problems:
        raise DataError(f"{where}: not the weights of this model: {list_problems(problems)}")
    params: Arrays = {}
    for binding in bindings:
        arrays = binding.forward([read(name) for name in binding.sources])
        for name, array in zip(binding.targets, arrays, strict=True):
            params[name] = np.ascontiguousarray(array, np.float32)
    return params, {name: read(name) for name in sorted(carried)}


def unload(
    table: Table, shapes: Mapping[str, Shape], read: Read, where: str
) -> tuple[dict[str, Shape], Read]:
    """Returns the shapes of a file's arrays by name, and what makes one of them.

    Where each is made once and in this order, each parameter is read once.

    Args:
      table: Of the file.
      shapes: Of the model's parameters, by name.
      read: Returns one of them.
      where: What is written, for errors.

    Raises:
      DataError: The file has no place for a parameter; all of them are listed.
    """
    bindings = table.bind(shapes)
    made = {name for binding in bindings for name in binding.targets}
    if homeless := shapes.keys() - made:
        problems = {name: f"({show(shapes[name])}) has no name there" for name in homeless}
        raise DataError(f"{where}: cannot hold this model: {list_problems(problems)}")
    owners = {name: binding for binding in bindings for name in binding.sources}

    made_last: Arrays = {}

    def make(name: str) -> np.ndarray:
        if name not in made_last:
            binding = owners[name]
            arrays = binding.backward([read(target) for target in binding.targets])
            made_last.clear()
            made_last.update(zip(binding.sources, arrays, strict=True))
        return np.ascontiguousarray(made_last.pop(name))

    return {key: shape for b in bindings for key, shape in b.source_shapes.items()}, make


def _bind(rule: Rule, words: Mapping[str, str], shapes: Mapping[str, Shape]) -> Iterator[Binding]:
    """Yields the rule for each set of the model's parameters that it means."""
    pattern = rule.pattern.format(**words)
    if not isinstance(rule.target, str):
        present = tuple(name for name in rule.target if name in shapes)
        kept = tuple(shapes[name] for name in present)
        if present:
            yield Binding(_fill(rule.source, words), present, kept, pattern, shares_rows=True)
        return
    found = _matching(rule.target, shapes)
    sources = _fill(rule.source, {**words, **_NUMBERS})
    if found and "{i}" in rule.target and "{i" not in sources[0]:
        targets = tuple(sorted(found, key=lambda name: found[name]["i"]))
        kept = tuple(shapes[name] for name in targets)
        yield Binding(sources, targets, kept, pattern, stacked=True)
        return
    for name, places in found.items():
        filled = tuple(source.format(**places) for source in sources)
        yield Binding(filled, (name,), (shapes[name],), pattern)


def _matching(target: str, shapes: Mapping[str, Shape]) -> dict[str, dict[str, int]]:
    """Returns the parameters that a target means, with the numbers in their names."""
    regex = re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(target)))
    found = {}
    for name in shapes:
        if match := regex.fullmatch(name):
            places = {key: int(text) for key, text in match.groupdict().items()}
            found[name] = places | {f"{key}1": place + 1 for key, place in places.items()}
    return found


def _fill(source: str | tuple[str, ...], words: Mapping[str, str]) -> tuple[str, ...]:
    sources = (source,) if isinstance(source, str) else source
    return tuple(name.format(**words) for name in sources)


def show(shape: Shape) -> str:
    """Returns a shape as text."""
    return "x".join(map(str, shape)) or "a scalar"


def list_problems(problems: Mapping[str, str]) -> str:
    """Returns all problems; those of names that differ in their numbers only are said once."""
    groups: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for name, problem in problems.items():
        groups[re.sub(r"\d+", "*", name), problem].append(name)
    return "; ".join(
        f"{names[0]} {problem}" if len(names) == 1 else f"{general} {problem} ({len(names)} times)"
        for (general, problem), names in sorted(groups.items())
    )
