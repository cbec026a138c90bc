"""What a program moves: bytes between a device and its memory, and between devices.

The bytes in memory are operands and results of the instructions of a program, with loops times
their trips. It is an estimate, as caches and the memory on the chip may save more.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from vit_jax.planning import hlo

# Instructions that move no data of their own.
FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
FREE_CALLS = {"AllocateBuffer", "ConcatBitcast"}  # of TPUs: custom calls that only name memory
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# The element of the result that an asynchronous instruction writes; the others are its operands.
WRITTEN = {"copy-start": 0, "async-start": 1, "all-gather-start": 1, "collective-permute-start": 1}
# Fusions of TPUs that go on with a collective, which another fusion started, or finish it.
CONTINUED = "async_collective_fusion"
DONE = "async-collective-done"
SCATTERED = "all-reduce-scatter"  # a fusion of TPUs: a sum of which a device keeps a part
SLICES = ("dynamic-slice", "slice")
UPDATE = "dynamic-update-slice"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a program moves on each device.

    Attributes:
      bytes_accessed: Bytes that are read from and written to HBM, an estimate.
      collectives: Bytes by kind and dtype; those of the whole array that devices exchange.
      instructions: Number of instructions that move data, those of loops times their trips.
      unknown_loops: Number of loops whose trips the compiler does not know; they count once.
    """

    bytes_accessed: int
    collectives: Mapping[str, Mapping[str, int]]
    instructions: int
    unknown_loops: int


def measure(program: hlo.Program) -> Traffic:
    """Return what a program moves."""
    moved = instructions = unknown = 0
    collectives: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for times, computation, instruction in _executed(program, program.entry, 1):
        unknown += instruction.opcode == "while" and instruction.trips is None
        if not _is_free(instruction):
            instructions += times
            moved += times * _bytes_accessed(program, computation, instruction)
        for kind, inside, found in _collectives(program, computation, instruction):
            for dtype, count in _exchanged(inside, found).items():
                collectives[kind][dtype] += times * count
    sums = {kind: dict(by_dtype) for kind, by_dtype in collectives.items()}
    return Traffic(moved, sums, instructions, unknown)


def _executed(
    program: hlo.Program, name: str, times: int
) -> Iterator[tuple[int, hlo.Computation, hlo.Instruction]]:
    """Yield the instructions that run, and how often, with their computation."""
    computation = program.computations[name]
    for instruction in computation.values():
        yield times, computation, instruction
        if instruction.opcode == "while":
            trips = instruction.trips or 1
            yield from _executed(program, instruction.called("body"), times * trips)
        elif instruction.opcode == "call":
            yield from _executed(program, instruction.called("to_apply"), times)
        elif instruction.opcode == "conditional":
            for branch in instruction.branches:
                yield from _executed(program, branch, times)


def _is_free(instruction: hlo.Instruction) -> bool:
    opcode = instruction.opcode
    if opcode == "custom-call":
        return any(f'"{name}"' in instruction.attributes for name in FREE_CALLS)
    # Loops and calls move what is inside; an asynchronous instruction is counted at its start.
    return opcode in FREE or opcode in ("while", "call", "conditional") or opcode.endswith("-done")


def _bytes_accessed(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> int:
    """Return the bytes that an instruction reads and writes."""
    if instruction.opcode == "fusion":
        fused = program.computations[instruction.called("calls")]
        operands = [_type_of(computation, *operand) for operand in instruction.operands]
        return _read_by(fused, operands) + _written_by(fused, hlo.elements(instruction.type))
    if instruction.opcode in SLICES:
        return 2 * _in_hbm(instruction.type)
    if instruction.opcode == UPDATE:
        return 2 * _in_hbm(_type_of(computation, *instruction.operands[1]))
    written = instruction.type
    if instruction.opcode in WRITTEN:
        written = hlo.elements(written)[WRITTEN[instruction.opcode]]
    read = sum(_in_hbm(_type_of(computation, *operand)) for operand in instruction.operands)
    return read + _in_hbm(written)


def _type_of(computation: hlo.Computation, name: str, index: int | None) -> str:
    """Return the type of an operand."""
    type_ = computation[name].type
    return type_ if index is None else hlo.elements(type_)[index]


def _in_hbm(type_: str) -> int:
    return sum(array.bytes_in_hbm for array in hlo.arrays(type_))


def _read_by(fused: hlo.Computation, operands: Sequence[str]) -> int:
    """Return the bytes that a fusion reads of its operands, given their types."""
    parameters = (found for found in fused.values() if found.opcode == "parameter")
    return sum(
        _read_of(fused, parameter, _in_hbm(operands[int(parameter.arguments)]))
        for parameter in parameters
    )


def _read_of(fused: hlo.Computation, value: hlo.Instruction, whole: int) -> int:
    """Return the bytes that a fusion reads of a value: all, some slices, or none.

    Args:
      fused: The computation of the fusion.
      value: An instruction of it.
      whole: The bytes of the value in HBM.
    """
    read = 0
    for user in fused.values():
        positions = [i for i, (name, _) in enumerate(user.operands) if name == value.name]
        if not positions or user.opcode == "tuple":  # which only hands it on
            continue
        if user.opcode == "bitcast":
            read += _read_of(fused, user, whole)
        elif user.opcode in SLICES:
            read += _in_hbm(user.type)
        elif user.opcode != UPDATE or positions != [0]:  # an update in place reads nothing
            return whole
    return min(read, whole)


def _written_by(fused: hlo.Computation, results: Sequence[str]) -> int:
    """Return the bytes that a fusion writes to its results, given their types."""
    (root,) = (found for found in fused.values() if found.is_root)
    values = [fused[name] for name, _ in root.operands] if root.opcode == "tuple" else [root]
    if len(values) != len(results):  # the root itself is a tuple, such as that of a sort
        return sum(_in_hbm(type_) for type_ in results)
    return sum(_written_of(fused, *pair) for pair in zip(values, results, strict=True))


def _written_of(fused: hlo.Computation, value: hlo.Instruction, result: str) -> int:
    """Return the bytes that a fusion writes: all, an update in place, or none if unchanged."""
    while value.opcode == "bitcast":
        value = fused[value.operands[0][0]]
    if value.opcode == "parameter":
        return 0
    if value.opcode == UPDATE:
        update = _type_of(fused, *value.operands[1])
        return min(_in_hbm(update), _in_hbm(result))
    return _in_hbm(result)


def _collectives(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> Iterator[tuple[str, hlo.Computation, hlo.Instruction]]:
    """Yield kind, computation and instruction of a collective, also if it is inside a fusion."""
    kind, inner = instruction.opcode.removesuffix("-start"), instruction.called("calls")
    if kind in COLLECTIVES:
        yield kind, computation, instruction
    elif inner and not (instruction.name.startswith(DONE) or inner.startswith(CONTINUED)):
        for found in program.computations[inner].values():
            for part in _collectives(program, program.computations[inner], found):
                yield ("reduce-scatter", *part[1:]) if inner.startswith(SCATTERED) else part


def _exchanged(computation: hlo.Computation, collective: hlo.Instruction) -> dict[str, int]:
    """Return the bytes of the whole arrays by dtype: a gather gives them, a scatter takes them."""
    result = collective.type
    if collective.opcode in WRITTEN:
        result = hlo.elements(result)[WRITTEN[collective.opcode]]
    operands = " ".join(_type_of(computation, *operand) for operand in collective.operands)
    return max(_by_dtype(result), _by_dtype(operands), key=lambda sums: sum(sums.values()))


def _by_dtype(type_: str) -> dict[str, int]:
    sums: collections.Counter[str] = collections.Counter()
    for array in hlo.arrays(type_):
        sums[array.dtype] += array.bytes
    return dict(sums)
