# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:9827f10e86ef

"""Say in plain words what the records hold in numbers."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minisgl.microscope.records import Instruction, Memory

TIMES, TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"

_PREPOSITIONS = {"load": "from", "store": "to", "atomic": "in"}
_VERBS = {"load": "load", "store": "store", "atomic": "update"}


def plural(count: int, noun: str) -> str:
    """`plural(1, "sector")` is "1 sector", `plural(1200, "pass")` "1,200 passes"."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending if count != 1 else ''}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th ... 11th ... 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{suffix}"


def percent(part: float, whole: float) -> str:
    """Return a percentage of three digits; 100 % only if it is whole."""
    share = 100 * part / whole if whole else 0.0
    return f"{share if share == 100 else min(share, 99.9):.3g} %"


def action(instruction: "Instruction", memory: str) -> str:
    """Return what each lane does: "load 16 bytes from weights"."""
    verb, preposition = _VERBS.get(instruction.kind, instruction.kind), _PREPOSITIONS.get(instruction.kind, "of")
    return f"{verb} {plural(instruction.size, 'byte')} {preposition} {memory}"


def source(instruction: "Instruction") -> str:
    """Return where an instruction is written, short: "warp.cuh:50, called from index.cu:49"."""
    if not instruction.sources:
        return "source line not known"
    first, last = instruction.sources[0], instruction.sources[-1]
    place = f"{PurePosixPath(first.file).name}:{first.line}"
    if len(instruction.sources) == 1:
        return place
    caller = f"line {last.line}" if last.file == first.file else f"{PurePosixPath(last.file).name}:{last.line}"
    return f"{place}, called from {caller}"


def code(instruction: "Instruction") -> str:
    """Return the source line of an instruction, or nothing."""
    return " ".join(instruction.sources[0].text.split()) if instruction.sources else ""


def place(memory: "Memory", offset: int) -> str:
    """Name the element at a byte offset: "weights[9, 0]"; what is no element is named by its distance in bytes."""
    if memory.dtype and memory.itemsize and offset >= 0:
        rest, position = offset // memory.itemsize, [0] * len(memory.shape)
        for axis in sorted(range(len(memory.shape)), key=lambda axis: -memory.strides[axis]):
            if memory.strides[axis] and memory.shape[axis] > 1:
                position[axis], rest = divmod(rest, memory.strides[axis])
        if not rest and all(index < size for index, size in zip(position, memory.shape, strict=True)):
            return f"{memory.name}[{', '.join(map(str, position))}]" if position else memory.name
    return f"{memory.name} {'+' if offset >= 0 else '-'} {plural(abs(offset), 'byte')}"


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive numbers as (first, last): 0, 1, 2, 7 is (0, 2), (7, 7)."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def listed(numbers: Sequence[int], most: int = 2) -> str:
    """List numbers by their first runs: 1 to 31, 33 to 63 and so on."""
    runs = spans(numbers)
    shown = ", ".join(f"{first}" if first == last else f"{first}{TO}{last}" for first, last in runs[:most])
    return f"{shown}, …" if len(runs) > most else shown
