# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:63b9d566e64c

"""What is wrong with a kernel, in plain sentences that name both accesses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minisgl.microscope.records import Instruction, Launch, Memory, Source, count

OUT_OF_BOUNDS = "out of bounds"
MISALIGNED = "misaligned"
RACE = "race"
RACE_BETWEEN_BLOCKS = "race between blocks"
READ_BEFORE_WRITE = "read before write"
INTEGER_OVERFLOW = "integer overflow"
DIVISION = "division"
ENDLESS_WAIT = "endless wait"
FAILED_LAUNCH = "failed launch"

_DOES = {"load": "reads", "store": "writes", "atomic": "atomically changes"}
_FIRST_PAGE = 4096  # nobody has memory there: a pointer that is null, or an index from one
_FAR = 2**20  # farther from all memory than a wrong index is likely to lead


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `str` makes a sentence of it.

    Attributes:
        kind: one of the constants of this module, such as `"race"`.
        message: what happened, with threads, blocks, argument and source lines.
        count: how often these lines did it.
        sources: the line of the access, and for a race the line of the access before it.
        launch: index of the launch.
        memory: the argument or shared array; None if there is none.
        block: of the first time, linear.
        thread: of the first time, linear in its block.
    """

    kind: str
    message: str
    count: int = 1
    sources: tuple[Source, ...] = ()
    launch: int = 0
    memory: Memory | None = None
    block: int = 0
    thread: int = 0

    def __str__(self) -> str:
        often = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.kind}: {self.message}{often}"


def make_findings(
    raw: Sequence[Mapping[str, Any]],
    launches: Sequence[Launch],
    memories: Sequence[Memory],
    instructions: Sequence[Instruction],
) -> list[Finding]:
    """Make sentences of the recorder's findings, one for each kind and pair of lines."""
    merged: dict[tuple[object, ...], Finding] = {}
    for entry in raw:
        memory = memories[entry["memory"]] if entry["memory"] >= 0 else None
        launch = launches[entry["launch"]]
        here, before = entry["here"], entry.get("before")
        at = [instructions[side["instruction"]] for side in (here, before) if side]
        finding = Finding(
            entry["kind"],
            _message(entry, launch, memories, at),
            entry["count"],
            tuple(instruction.source for instruction in at),
            launch.index,
            memory,
            here["block"],
            here["thread"],
        )
        lines = tuple((source.file, source.line) for source in finding.sources)
        key = (finding.kind, lines, memory and memory.name)
        known = merged.get(key)
        merged[key] = replace(known, count=known.count + finding.count) if known else finding
    return list(merged.values())


def failed_launch(error: Exception | None, launch: Launch) -> Finding:
    """Make a finding of a launch that failed by itself, as at a divergent barrier.

    `error` is None if the observed function has caught it.
    """
    caught = f"{launch.function or 'a kernel'} did not finish, and the observed function caught its error"
    return Finding(FAILED_LAUNCH, caught if error is None else str(error), launch=launch.index)


def _message(entry: Mapping[str, Any], launch: Launch, memories: Sequence[Memory], at: Sequence[Instruction]) -> str:
    kind, here = entry["kind"], entry["here"]
    memory = memories[entry["memory"]] if entry["memory"] >= 0 else None
    who, place = _thread(launch, here), at[0].place
    does = f"{who} {_DOES.get(at[0].kind, '')}"
    if kind == OUT_OF_BOUNDS and not entry["detail"]:
        of_launch = [memory for memory in memories if memory.launch == launch.index]
        return f"{does} {count(entry['size'], 'byte')} {_where_outside(entry, memory, of_launch)}, at {place}"
    if kind == OUT_OF_BOUNDS:
        array = _indexed(at[0].source.text, [memory for memory in memories if memory.launch == launch.index])
        return f"{who} uses {entry['detail'].replace('an array', array)}, at {place}"
    if kind == MISALIGNED:
        what = f"{who} uses {entry['detail']}" if entry["detail"] else f"{does} {count(entry['size'], 'byte')}"
        where = f"byte {entry['offset']} of {_name(memory)}" if memory else f"address {entry['address']:#x}"
        return f"{what} at {where}, whose address is no multiple of {entry['size']}, at {place}"
    if kind == READ_BEFORE_WRITE:
        first = "any thread of the block" if memory and memory.space != "global" else "anything"
        return f"{does} {_part(memory, entry)} before {first} has written it, at {place}"
    if kind == ENDLESS_WAIT:
        return f"{who} seems to wait in a loop for another thread to change {_part(memory, entry)}, at {place}"
    if kind in (RACE, RACE_BETWEEN_BLOCKS):
        return f"{does} {_part(memory, entry)} at {place}; {_the_other(entry, launch, at)}"
    verb = "computes" if kind in (INTEGER_OVERFLOW, DIVISION) else "uses"
    return f"{who} {verb} {entry['detail']}, at {place}"


def _the_other(entry: Mapping[str, Any], launch: Launch, at: Sequence[Instruction]) -> str:
    """Say of a race who touched the memory before, and why that is wrong."""
    here, before = entry["here"], entry["before"]
    did = {"load": "read it", "store": "wrote it", "atomic": "changed it atomically"}.get(at[1].kind, "")
    barrier = "__syncthreads" if here["thread"] // 32 != before["thread"] // 32 else "__syncwarp"
    between_blocks = entry["kind"] == RACE_BETWEEN_BLOCKS
    why = "nothing orders the two blocks" if between_blocks else f"with no {barrier} between"
    kinds = {instruction.kind for instruction in at}
    if kinds == {"load", "atomic"}:
        why += ": a plain read of a value that others change atomically"
    if kinds == {"store", "atomic"}:
        why += ": a plain write of a value that others change atomically"
    return f"{_thread(launch, before)} {did} at {at[1].place}, {why}"


def _thread(launch: Launch, side: Mapping[str, Any]) -> str:
    return f"thread {_position(side['thread'], launch.block)} of block {_position(side['block'], launch.grid)}"


def _position(linear: int, extent: tuple[int, int, int]) -> str:
    """Write a linear number as CUDA counts: `5`, or `(1, 2, 0)` in a grid of several dimensions."""
    if extent[1] == extent[2] == 1:
        return str(linear)
    return str((linear % extent[0], linear // extent[0] % extent[1], linear // extent[0] // extent[1]))


def _part(memory: Memory | None, entry: Mapping[str, Any]) -> str:
    """Name what was touched inside a memory: an element of a tensor, or bytes of a shared array."""
    if memory is None:
        return count(entry["size"], "byte")
    if memory.space == "global":
        return f"{memory.name}{_element(memory, entry['offset'])}"
    first, last = entry["offset"], entry["offset"] + entry["size"] - 1
    where = f"byte {first}" if first == last else f"bytes {first} to {last}"
    return f"{where} of {_name(memory)}"


def _name(memory: Memory) -> str:
    return {"shared": f"the shared {memory.name}", "dynamic shared": "dynamic shared memory"}.get(
        memory.space, memory.name
    )


def _indexed(line: str, memories: Sequence[Memory]) -> str:
    """Name the array that a line of source indexes, if it is clear which: no tensor, and one name in front of a `[`."""
    tensors = {memory.name for memory in memories if memory.space == "global"}
    names = set(re.findall(r"\b([A-Za-z_]\w*)\s*\[", line.partition("//")[0])) - tensors
    return f"{names.pop()}, an array" if len(names) == 1 else "an array"


def _where_outside(entry: Mapping[str, Any], nearest: Memory | None, memories: Sequence[Memory]) -> str:
    if entry["address"] < _FIRST_PAGE:
        empty = [memory.name for memory in memories if memory.address == 0]
        return "through a null pointer" + (f", as an empty tensor has it ({', '.join(empty)})" if empty else "")
    if nearest is None:
        return "and the kernel has no memory at all"
    if -_FAR <= entry["offset"] <= nearest.span_bytes + _FAR:
        return _outside(nearest, entry["offset"], entry["size"])
    arguments = [_described(memory) for memory in memories if memory.space == "global"]
    return f"at address {entry['address']:#x}, far from every argument ({', '.join(arguments)})"


def _outside(memory: Memory, offset: int, size: int) -> str:
    what = _described(memory)
    would = f", where element {_element(memory, offset)} would be" if not _is_inside(memory, offset) else ""
    if memory.space == "dynamic shared" and offset >= 0:
        return f"at byte {offset} of dynamic shared memory, of which the launch asked for {memory.span_bytes}"
    if offset < 0:
        return f"{count(-offset, 'byte')} before the start of {what}{would}"
    if offset >= memory.span_bytes:
        past = offset - memory.span_bytes
        return f"{count(past, 'byte')} past the end of {what}{would}" if past else f"just past the end of {what}{would}"
    if offset + size > memory.span_bytes:
        return f"of which {count(offset + size - memory.span_bytes, 'byte')} lie past the end of {what}"
    if len(memory.shape) == 1:
        return f"in the gap behind element {_element(memory, offset)} of {what}"
    return f"in a gap between the rows of {what}{would}"


def _described(memory: Memory) -> str:
    if memory.space != "global":
        return f"{_name(memory)} of {count(memory.span_bytes, 'byte')}"
    return f"{memory.name} [{', '.join(map(str, memory.shape))}] {memory.dtype}"


def _is_inside(memory: Memory, offset: int) -> bool:
    """Whether the element at a byte offset has an index that fits the shape, or there is no index to speak of."""
    if memory.space != "global" or not memory.shape:
        return True
    return all(0 <= i < size for i, size in zip(_index(memory, offset), memory.shape, strict=True))


def _element(memory: Memory, offset: int) -> str:
    """Write the index of the element at a byte offset, which may lie outside: `[3, -1]`."""
    return f"[{', '.join(map(str, _index(memory, offset)))}]"


def _index(memory: Memory, offset: int) -> list[int]:
    rest = offset // memory.itemsize
    index = [0] * len(memory.shape)
    for i in sorted(range(len(memory.shape)), key=lambda i: -memory.strides[i]):
        if (memory.strides[i] > 0 and memory.shape[i] > 1) or len(memory.shape) == 1:
            index[i], rest = divmod(rest, max(memory.strides[i], 1))
    return index
