# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:70b18749b024

"""Choose what of a record a picture shows, and say plainly why a choice is not possible."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures.words import ordinal
from minisgl.microscope.records import SECTOR_BYTES

if TYPE_CHECKING:
    from minisgl.microscope.records import Figure, Instruction, Launch, Memory, View

WARP_SIZE = 32
MOST_REQUESTS = 48  # in one picture
_ENDED = ", which ended early: view.findings says why"
GLOBAL, SHARED = ("global", "unknown"), ("shared", "dynamic shared")


@dataclass(frozen=True)
class Request:
    """What the lanes of one warp touch when they execute one instruction together."""

    block: int
    warp: int
    execution: int
    lanes: np.ndarray
    addresses: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    memories: np.ndarray

    @property
    def name(self) -> str:
        """Which warp, and for how many times it comes here: "warp 2, 1st time"."""
        return f"warp {self.warp}, {ordinal(self.execution + 1)} time"


class Requests:
    """The warp requests of one instruction, by block, warp and execution.

    Args:
        view: what was recorded.
        rows: the accesses of one instruction and launch, dtype ACCESS.
    """

    def __init__(self, view: "View", rows: np.ndarray) -> None:
        warps = rows["thread"] // WARP_SIZE
        order = np.lexsort((rows["thread"], rows["execution"], warps, rows["block"]))
        self.view, self.rows, warps = view, rows[order], warps[order]
        keys = (self.rows["block"], warps, self.rows["execution"])
        fresh = np.any([np.diff(key.astype(np.int64), prepend=-1) != 0 for key in keys], axis=0)
        self.starts = np.flatnonzero(fresh)
        self.ids = np.cumsum(fresh) - 1  # of the request that each row belongs to

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Request:
        end = self.starts[index + 1] if index + 1 < len(self) else len(self.rows)
        rows = self.rows[self.starts[index] : end]
        first = rows[0]
        return Request(
            block=int(first["block"]),
            warp=int(first["thread"]) // WARP_SIZE,
            execution=int(first["execution"]),
            lanes=rows["thread"].astype(np.int64) % WARP_SIZE,
            addresses=rows["address"].astype(np.int64),
            offsets=rows["offset"].astype(np.int64),
            sizes=rows["size"].astype(np.int64),
            memories=rows["memory"].astype(np.int64),
        )

    @cached_property
    def sectors(self) -> np.ndarray:
        """How many 32-byte sectors each request touches, int64."""
        return self._distinct(SECTOR_BYTES)

    @cached_property
    def bytes_needed(self) -> np.ndarray:
        """How many distinct bytes each request touches, int64."""
        return self._distinct(1)

    def _distinct(self, unit: int) -> np.ndarray:
        start = self.rows["address"].astype(np.int64)
        rows, units = pieces(start // unit, (start + self.rows["size"] - 1) // unit)
        return np.bincount(np.unique(np.stack((self.ids[rows], units)), axis=1)[0], minlength=len(self))


def pieces(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take ranges apart: ranges 4..5 and 9..9 are positions 0, 0, 1 and numbers 4, 5, 9."""
    counts = (last - first + 1).astype(np.int64)
    positions = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions, first.astype(np.int64)[positions] + within


def chosen_launch(function: str, view: "View", launch: int) -> "Launch":
    """Return a launch of the record by its number."""
    if not 0 <= launch < len(view.launches):
        raise ValueError(f"{function}: launch: expected 0 to {len(view.launches) - 1}, got {launch}")
    return view.launches[launch]


def recorded_blocks(view: "View", launch: int) -> list[int]:
    """Return the blocks of a launch whose accesses or events were kept, in order."""
    found = [records["block"][records["launch"] == launch] for records in (view.accesses, view.events)]
    return [int(block) for block in np.unique(np.concatenate(found))]


def chosen_block(function: str, view: "View", launch: int, block: int | None) -> int:
    """Return a recorded block of a launch: the one asked for, else the first."""
    blocks = recorded_blocks(view, launch)
    if not blocks:
        remedy = ": observe it with blocks=..." if view.launches[launch].finished else _ENDED
        raise ValueError(f"{function}: nothing was recorded of launch {launch}{remedy}")
    if block is None:
        return blocks[0]
    if block not in blocks:
        kept = f"{blocks[0]}" if len(blocks) == 1 else f"one of {len(blocks)} from {blocks[0]} to {blocks[-1]}"
        raise ValueError(f"{function}: block: expected a recorded one ({kept}), got {block}: observe with blocks=...")
    return block


def chosen_requests(
    function: str,
    view: "View",
    *,
    instruction: "Instruction | Figure | int | str | None",
    spaces: Sequence[str],
    launch: int,
    blocks: int | Iterable[int] | None,
    warps: int | Iterable[int] | None,
) -> tuple["Instruction", Requests]:
    """Return an instruction and its recorded warp requests in some kinds of memory."""
    chosen_launch(function, view, launch)
    in_space = np.array([memory.space in spaces for memory in view.memories] or [False])
    rows = view.accesses[(view.accesses["launch"] == launch) & (view.accesses["memory"] < len(view.memories))]
    rows = rows[in_space[rows["memory"]]]
    if blocks is not None:
        rows = rows[np.isin(rows["block"], _numbers(function, "blocks", blocks))]
    if warps is not None:
        rows = rows[np.isin(rows["thread"] // WARP_SIZE, _numbers(function, "warps", warps))]
    if not len(rows):
        ended = "" if view.launches[launch].finished else _ENDED
        raise ValueError(f"{function}: no access to {spaces[0]} memory was recorded in this window{ended}")
    found = _chosen_instruction(function, view, instruction, rows)
    rows = rows[rows["instruction"] == found.index]
    if not len(rows):
        raise ValueError(f"{function}: instruction: {found} has no access to {spaces[0]} memory in this window")
    return found, Requests(view, rows)


def chosen_range(function: str, name: str, wanted: int | range, total: int, most: int = 1 << 62) -> range:
    """Return the positions to show: the first few, or a range of them, cut to what there is and fits a picture."""
    if isinstance(wanted, bool) or not isinstance(wanted, int | range):
        raise TypeError(f"{function}: {name}: expected how many, or a range, got {wanted!r}")
    chosen = range(wanted) if isinstance(wanted, int) else wanted
    if chosen.step != 1:
        raise ValueError(f"{function}: {name}: expected a range without gaps, got {wanted}")
    chosen = range(max(chosen.start, 0), min(chosen.stop, total, max(chosen.start, 0) + most))
    if not chosen:
        raise ValueError(f"{function}: {name}: expected at least one of 0 to {total - 1}, got {wanted}")
    return chosen


def _numbers(function: str, name: str, wanted: int | Iterable[int]) -> list[int]:
    numbers = [wanted] if isinstance(wanted, int) else list(wanted)
    if not all(isinstance(number, int | np.integer) for number in numbers):
        raise TypeError(f"{function}: {name}: expected whole numbers, got {wanted!r}")
    return [int(number) for number in numbers]


def _chosen_instruction(
    function: str, view: "View", wanted: "Instruction | Figure | int | str | None", rows: np.ndarray
) -> "Instruction":
    """Return one instruction of `rows`: the busiest, or by number, object, or words such as "load index.cu:49"."""
    if isinstance(wanted, bool):
        raise TypeError(f"{function}: instruction: expected an instruction, its number or words, got {wanted}")
    if wanted is None:
        counts = np.bincount(rows["instruction"], weights=rows["size"], minlength=len(view.instructions))
        return view.instructions[int(counts.argmax())]
    if isinstance(wanted, int):
        if not 0 <= wanted < len(view.instructions):
            last = len(view.instructions) - 1
            raise ValueError(f"{function}: instruction: expected 0 to {last}, got {wanted}")
        return view.instructions[wanted]
    if not isinstance(wanted, str):
        known = [one for one in view.instructions if one == getattr(wanted, "instruction", wanted)]
        if not known:
            raise ValueError(f"{function}: instruction: expected one of this record's, got {wanted!r}")
        return known[0]
    used = [view.instructions[index] for index in np.unique(rows["instruction"])]
    memories = {one.index: _memories(view, rows[rows["instruction"] == one.index]) for one in used}
    fitting = [one for one in used if all(_fits(one, memories[one.index], word) for word in wanted.split())]
    if len(fitting) != 1:
        listing = "".join(
            f"\n  {one.index}: {one.kind} {memory.name}: {one}"
            for one in fitting or used
            for memory in memories[one.index][:1]
        )
        count = "several" if fitting else "none"
        raise ValueError(f"{function}: instruction: {wanted!r} fits {count}; say its number or more words:{listing}")
    return fitting[0]


def _memories(view: "View", rows: np.ndarray) -> list["Memory"]:
    return [view.memories[index] for index in np.unique(rows["memory"])]


def _fits(instruction: "Instruction", memories: list["Memory"], word: str) -> bool:
    """Tell if a word is the instruction's kind, a memory it touches, or the end of a place: "index.cu:49"."""
    places = [f"{found.file}:{found.line}" for found in instruction.sources]
    files = [found.file for found in instruction.sources]
    return (
        word == instruction.kind
        or any(word == memory.name for memory in memories)
        or any(f"/{name}".endswith(f"/{word}") for name in places + files)
    )
