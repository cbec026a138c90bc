"""Read programs in XLA's HLO text: computations, their instructions, and the arrays of a type."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

# As in: ENTRY %main.3 (x.1: f32[256,256]) -> f32[256,256] {
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
# As in: ROOT %dot.1 = f32[8,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_OPERAND = re.compile(r"%([\w.\-]+)(?:#(\d+))?")
# As in: bf16[256,197,768]{2,0,1:T(8,128)(2,1)S(1)}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_BITS = re.compile(r"(?:bf|f|s|u|c)(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

# Memory spaces of a layout, as in S(1), besides 0, which is HBM.
_SPACE = re.compile(r"S\((\d+)\)")
_TILE = re.compile(r"T\((\d+),(\d+)\)")
_PACKED_ROWS = "(2,1)"  # two rows of 16 bits lie in one of 32
_ROWS = 8  # of such a tile, at least


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the type of an instruction.

    Attributes:
      dtype: The dtype in XLA's notation, such as `bf16`.
      shape: The dimensions.
      order: The dimensions from the fastest to the slowest in memory; empty if it is not given.
      tiling: Tiles and memory space, such as `T(8,128)(2,1)S(1)`.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tiling: str = ""

    @property
    def bytes(self) -> int:
        """The bytes of the elements, without the padding of tiles."""
        return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)

    @property
    def bytes_in_hbm(self) -> int:
        """The bytes in HBM, with the padding of tiles; 0 in any other memory."""
        space = _SPACE.search(self.tiling)
        if space and space[1] != "0":
            return 0
        tile = _TILE.search(self.tiling)
        shape = list(self.shape)
        if tile and len(shape) >= 2 and len(self.order) == len(shape):
            rows, lanes = int(tile[1]), int(tile[2])
            if _PACKED_ROWS in self.tiling:
                rows = max(rows, _ROWS)
            for axis, multiple in zip(self.order, (lanes, rows), strict=False):
                shape[axis] = math.ceil(shape[axis] / multiple) * multiple
        return math.ceil(math.prod(shape) * _bits(self.dtype) / 8)


def _bits(dtype: str) -> int:
    """Return the bits of an element; 0 for what is not an array, such as `token`."""
    if dtype == "pred":
        return 8
    match = _BITS.match(dtype)
    return int(match[1]) if match else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a computation.

    Attributes:
      name: Its name, which is unique in the program.
      opcode: What it does, such as `fusion`.
      type: The type of its result, as text.
      operands: The names of its operands, each with the index of the element of a tuple, if it is
        only one element.
      arguments: The text in parentheses, such as the number of a parameter.
      attributes: The rest of the line.
      is_root: Whether it is the result of its computation.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[tuple[str, int | None], ...]
    arguments: str
    attributes: str
    is_root: bool = False

    def called(self, attribute: str) -> str:
        """Return the computation that an attribute names, such as `body`; empty if none."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""

    @property
    def branches(self) -> list[str]:
        """The computations of a `conditional`."""
        match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        names = match[1].split(",") if match else []
        both = [self.called("true_computation"), self.called("false_computation")]
        return [name.strip().removeprefix("%") for name in names] or [name for name in both if name]

    @property
    def trips(self) -> int | None:
        """How often a `while` runs; None if the compiler does not know it."""
        match = _TRIPS.search(self.attributes)
        return int(match[1]) if match else None


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name, and the name of the first one."""

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Parse the text of a module.

    Raises:
      ValueError: It has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        line = _COMMENT.sub("", line)
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif match := _INSTRUCTION.match(line):
            inside, attributes = _split_operands(match[5])
            operands = tuple(
                (name, int(index) if index else None) for name, index in _OPERAND.findall(inside)
            )
            name, type_, opcode = match[2], match[3], match[4]
            current[name] = Instruction(
                name, opcode, type_, operands, inside, attributes, is_root=bool(match[1])
            )
    if not entry:
        raise ValueError("expected a module with an ENTRY computation")
    return Program(computations, entry)


def is_complete(text: str) -> bool:
    """Return whether the text of a module has its end: the entry computation is the last."""
    _, entry, rest = text.rpartition("\nENTRY ")
    return bool(entry) and rest.rstrip().endswith("\n}") and text.endswith("\n")


def _split_operands(text: str) -> tuple[str, str]:
    """Split the text after the opening parenthesis into operands and attributes."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return text[: match.start()], text[match.end() :]
    return text, ""


def arrays(type_: str) -> list[Array]:
    """Return all arrays of a type, such as `(f32[8]{0}, s32[])`."""
    return [
        Array(
            match[1],
            tuple(int(size) for size in match[2].split(",") if size),
            tuple(int(axis) for axis in (match[3] or "").split(",") if axis),
            match[4] or "",
        )
        for match in _ARRAY.finditer(type_)
    ]


def elements(type_: str) -> list[str]:
    """Return the types of the elements of a tuple; of any other type, itself alone."""
    return list(_elements(type_)) if type_.startswith("(") else [type_]


def _elements(type_: str) -> Iterator[str]:
    depth = start = 0
    inner = type_[1:-1]
    for i, char in enumerate(inner):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and not depth:
            yield inner[start:i].strip()
            start = i + 1
    if inner[start:].strip():
        yield inner[start:].strip()
