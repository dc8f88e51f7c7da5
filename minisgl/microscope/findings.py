# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:6297a891b073

"""What is wrong with a kernel, in plain sentences that name both accesses."""

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
FAILED_LAUNCH = "failed launch"


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
            _message(entry, launch, memory, at),
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


def failed_launch(error: Exception, launch: Launch) -> Finding:
    """Make a finding of a launch that failed by itself, as at a divergent barrier."""
    return Finding(FAILED_LAUNCH, str(error), launch=launch.index)


def _message(entry: Mapping[str, Any], launch: Launch, memory: Memory | None, at: Sequence[Instruction]) -> str:
    kind, here, before = entry["kind"], entry["here"], entry.get("before")
    who = _thread(launch, here)
    does = {"load": "reads", "store": "writes", "atomic": "changes atomically"}.get(at[0].kind, "")
    place = at[0].place
    if kind == OUT_OF_BOUNDS and not entry["detail"]:
        where = _outside(memory, entry["offset"], entry["size"]) if memory else "and the kernel has no memory at all"
        return f"{who} {does} {count(entry['size'], 'byte')} {where}, at {place}"
    if kind == READ_BEFORE_WRITE:
        first = "any thread of the block" if memory and memory.space != "global" else "anything"
        return f"{who} {does} {_part(memory, entry)} before {first} has written it, at {place}"
    if kind in (RACE, RACE_BETWEEN_BLOCKS) and before:
        did = {"load": "read", "store": "wrote", "atomic": "changed atomically"}.get(at[1].kind, "")
        why = (
            "nothing orders the two blocks"
            if kind == RACE_BETWEEN_BLOCKS
            else "with no " + ("__syncthreads" if _apart(here, before) else "__syncwarp") + " between"
        )
        other = _thread(launch, before)
        return f"{who} {does} {_part(memory, entry)} at {place}; {other} {did} it at {at[1].place}, {why}"
    verb = "computes" if kind in (INTEGER_OVERFLOW, DIVISION) else "uses"
    return f"{who} {verb} {entry['detail']}, at {place}"


def _apart(here: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return here["thread"] // 32 != before["thread"] // 32


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


def _outside(memory: Memory, offset: int, size: int) -> str:
    if memory.space == "global":
        shape = ", ".join(map(str, memory.shape))
        what = f"{memory.name} [{shape}] {memory.dtype}"
        would = f", where element {_element(memory, offset)} would be" if memory.shape else ""
    else:
        what, would = f"{_name(memory)} of {count(memory.span_bytes, 'byte')}", ""
    if offset < 0:
        return f"{count(-offset, 'byte')} before the start of {what}{would}"
    if offset >= memory.span_bytes:
        past = offset - memory.span_bytes
        return f"{count(past, 'byte')} past the end of {what}{would}" if past else f"just past the end of {what}{would}"
    if offset + size > memory.span_bytes:
        return f"of which {count(offset + size - memory.span_bytes, 'byte')} lie past the end of {what}"
    return f"in a gap between the rows of {what}{would}"


def _element(memory: Memory, offset: int) -> str:
    """Return the index of the element at a byte offset, which may lie outside: `[3, -1]`."""
    rest = offset // memory.itemsize
    index = [0] * len(memory.shape)
    for i in sorted(range(len(memory.shape)), key=lambda i: -memory.strides[i]):
        if (memory.strides[i] > 0 and memory.shape[i] > 1) or len(memory.shape) == 1:
            index[i], rest = divmod(rest, max(memory.strides[i], 1))
    return f"[{', '.join(map(str, index))}]"
