# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:475da277ab33

"""Lay a block's records out in steps: the lanes of a warp together, the warps side by side, barriers below each other.

The CPU ran one thread after the other. What a GPU shows is closer to this: a warp executes one instruction at a time,
for all of its lanes that have come to it, and no warp passes a barrier before all have come.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures.window import WARP_SIZE
from minisgl.microscope.records import ARRIVED, BLOCK_MET

if TYPE_CHECKING:
    from minisgl.microscope.records import View

_LAST_BLOCK_BARRIER = 3  # of enum Wait: those up to it wait for the block, those behind it for lanes of a warp

# What a thread does next: ("access", instruction, execution), ("meet", site, how many times), ("barrier", phase, 0)
Key = tuple[str, int, int]


@dataclass
class Step:
    """What lanes of one warp do together.

    Attributes:
        column: when, in steps of the block from 0.
        warp: who.
        key: what: an instruction for the k-th time, a warp collective, or a barrier of the block.
        site: index into `view.sites`, or -1 for an access.
        threads: the threads that take part, in order.
        rows: their accesses, dtype ACCESS.
        met: False if the threads still waited when the launch failed.
    """

    column: int
    warp: int
    key: Key
    site: int
    threads: list[int]
    rows: np.ndarray
    met: bool = True

    @property
    def kind(self) -> str:
        """`access`, `meet` or `barrier`."""
        return self.key[0]


@dataclass
class Schedule:
    """The steps of one block.

    Attributes:
        steps: by column, then warp.
        num_threads: of the block.
        num_columns: of the layout.
        last: column of each thread's last step; -1 if it has none.
    """

    steps: list[Step]
    num_threads: int
    num_columns: int = 0
    last: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_columns = max((step.column for step in self.steps), default=-1) + 1
        self.last = [-1] * self.num_threads
        for step in self.steps:
            for thread in step.threads:
                self.last[thread] = max(self.last[thread], step.column)


@dataclass
class _Life:
    """What a thread did, in order."""

    keys: list[Key] = field(default_factory=list)
    sites: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # position among the accesses, or of the event


def schedule(view: "View", launch: int, block: int) -> Schedule:
    """Lay out what was recorded of a block."""
    accesses = view.accesses[(view.accesses["launch"] == launch) & (view.accesses["block"] == block)]
    events = view.events[(view.events["launch"] == launch) & (view.events["block"] == block)]
    finished = view.launches[launch].finished
    passed = int((events["kind"] == BLOCK_MET).sum())
    lives = _lives(accesses, events)
    warps: dict[int, list[Step]] = {}
    for warp in sorted({thread // WARP_SIZE for thread in lives}):
        mine = {thread: life for thread, life in lives.items() if thread // WARP_SIZE == warp}
        warps[warp] = _merge(warp, mine, accesses)
        for step in warps[warp]:
            if not finished and step.kind == "barrier":
                step.met = step.key[1] < passed
            elif not finished and step.kind == "meet":
                step.met = _all_came(step, mine, events)
    _place(warps)
    steps = sorted((step for steps in warps.values() for step in steps), key=lambda step: (step.column, step.warp))
    return Schedule(steps, view.launches[launch].num_threads)


def _lives(accesses: np.ndarray, events: np.ndarray) -> dict[int, _Life]:
    """Return each thread's accesses and arrivals, in the order of their running numbers."""
    arrivals = np.flatnonzero(events["kind"] == ARRIVED)
    order = np.argsort(np.concatenate((accesses["step"], events["step"][arrivals])), kind="stable")
    threads, instructions, executions = (accesses[name].tolist() for name in ("thread", "instruction", "execution"))
    lives: dict[int, _Life] = defaultdict(_Life)
    barriers: dict[int, int] = defaultdict(int)
    meetings: dict[tuple[int, int], int] = defaultdict(int)
    for index in order.tolist():
        if index < len(accesses):
            life = lives[threads[index]]
            life.keys.append(("access", instructions[index], executions[index]))
            life.sites.append(-1)
            life.rows.append(index)
        else:
            row = int(arrivals[index - len(accesses)])
            thread, site = int(events["thread"][row]), int(events["site"][row])
            life = lives[thread]
            if events["wait"][row] <= _LAST_BLOCK_BARRIER:
                life.keys.append(("barrier", barriers[thread], 0))
                barriers[thread] += 1
            else:
                life.keys.append(("meet", site, meetings[thread, site]))
                meetings[thread, site] += 1
            life.sites.append(site)
            life.rows.append(row)
    return lives


def _merge(warp: int, lives: dict[int, _Life], accesses: np.ndarray) -> list[Step]:
    """Let the lanes of a warp go together: one that is ahead on a branch of its own waits for nobody, the others do."""
    alike: dict[tuple[Key, ...], list[int]] = defaultdict(list)
    for thread in sorted(lives):
        alike[tuple(lives[thread].keys)].append(thread)
    groups = list(alike.items())
    places = [{key: position for position, key in enumerate(keys)} for keys, _ in groups]
    next_of = [0] * len(groups)
    steps = []
    while any(at < len(keys) for (keys, _), at in zip(groups, next_of, strict=True)):
        heads: dict[Key, int] = {}
        for (keys, members), at in zip(groups, next_of, strict=True):
            if at < len(keys):
                heads[keys[at]] = heads.get(keys[at], 0) + len(members)
        # An instruction that others have yet to come to can wait for them.
        ahead = {key for key in heads if any(p.get(key, -1) > at for p, at in zip(places, next_of, strict=True))}
        key = next((key for key in heads if key not in ahead), None) or _widest(heads)
        threads, rows, site = [], [], -1
        for index, (keys, members) in enumerate(groups):
            at = next_of[index]
            if at < len(keys) and keys[at] == key:
                next_of[index] += 1
                threads += members
                rows += [lives[thread].rows[at] for thread in members]
                site = lives[members[0]].sites[at]
        touched = accesses[sorted(rows)] if key[0] == "access" else accesses[:0]
        steps.append(Step(0, warp, key, site, sorted(threads), touched))
    return steps


def _widest(heads: dict[Key, int]) -> Key:
    """Choose where branches cross each other: what most lanes are at, a meeting last."""
    return max(heads, key=lambda key: (key[0] == "access", heads[key]))


def _place(warps: dict[int, list[Step]]) -> None:
    """Give the steps their columns: each warp's one after the other, a barrier where the last warp comes to it."""
    column, at = dict.fromkeys(warps, 0), dict.fromkeys(warps, 0)
    while any(at[warp] < len(steps) for warp, steps in warps.items()):
        waiting = []
        for warp, steps in warps.items():
            while at[warp] < len(steps) and steps[at[warp]].kind != "barrier":
                steps[at[warp]].column = column[warp]
                column[warp] += 1
                at[warp] += 1
            if at[warp] < len(steps):
                waiting.append(warp)
        latest = max(column.values())
        for warp in waiting:
            warps[warp][at[warp]].column = latest
            at[warp] += 1
            column[warp] = latest + 1


def _all_came(step: Step, lives: dict[int, _Life], events: np.ndarray) -> bool:
    """Tell if all lanes that a warp collective names have come to it, or one of them went on."""
    if any(lives[thread].keys[-1] != step.key for thread in step.threads):
        return True
    wanted = 0
    for thread in step.threads:
        wanted |= int(events["mask"][lives[thread].rows[-1]])
    came = sum(1 << thread % WARP_SIZE for thread in step.threads)
    return wanted & ~came == 0
