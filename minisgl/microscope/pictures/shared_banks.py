# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:330211f117c3

"""A picture of a warp's lanes by the 32 banks of shared memory, with the conflicts marked."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import COLOURS
from minisgl.microscope.pictures.heading import heading
from minisgl.microscope.pictures.window import (
    MOST_REQUESTS,
    SHARED,
    WARP_SIZE,
    Request,
    Requests,
    chosen_range,
    chosen_requests,
    pieces,
)
from minisgl.svg import INK, RED, WIDTH, Drawing, Picture

if TYPE_CHECKING:
    from minisgl.microscope.records import Figure, Instruction, View

NUM_BANKS, _WORD_BYTES = 32, 4
_LEFT, _CELL = 76, 17.5  # of the map of lanes
_LANE_HEIGHT = 9
_RIGHT = _LEFT + NUM_BANKS * _CELL


def banks(
    view: "View",
    instruction: "Instruction | Figure | int | str | None" = None,
    *,
    launch: int = 0,
    blocks: int | Iterable[int] | None = None,
    warps: int | Iterable[int] | None = None,
    requests: int | range = 8,
) -> Picture:
    """Draw which lane of a warp touches which of the 32 banks of shared memory.

    A bank hands out one word of 4 bytes at a time. Lanes that ask a bank for different words wait for each other: the
    request takes as many passes as the busiest bank has words to give. Lanes that ask for the same word share it.
    The lanes of 8-byte accesses are served in two halves, those of 16-byte accesses in four quarters.
    The first request is drawn lane by lane, the following ones as bars.

    Args:
        view: what `observe` recorded.
        instruction: as for `sectors`, here of shared memory.
        launch: number of the launch.
        blocks: block or blocks to look at; all recorded ones by default.
        warps: warp or warps of those blocks; all by default.
        requests: how many warp requests to draw (at most 48), or which (`range(8, 16)`).

    Returns:
        The picture, SVG.

    Raises:
        ValueError: nothing fits, or more than one instruction.
        TypeError: an argument is of the wrong kind.
    """
    found, window = chosen_requests(
        "banks", view, instruction=instruction, spaces=SHARED, launch=launch, blocks=blocks, warps=warps
    )
    shown = chosen_range("banks", "requests", requests, len(window), MOST_REQUESTS)
    first = window[shown.start]
    use = BankUse(first)
    memory = view.memories[int(first.memories[0])].name
    drawing = Drawing(f"Lanes by shared-memory banks: {words.action(found, memory)}")
    heading(drawing, found, memory, f"{view.launches[launch].function}, block {first.block}, {first.name}")
    _verdict(drawing, use)
    _lanes(drawing, first, use, COLOURS[found.kind])
    _counts(drawing, use)
    if len(shown) > 1:
        _strips(drawing, window, shown[1:], COLOURS[found.kind])
    drawing.y += 8
    if left_out := len(window) - len(shown):
        drawing.lines(0, f"{words.plural(left_out, 'more warp request')} of {len(window):,} not shown.", width=WIDTH)
    _totals(drawing, view, found, launch)
    return drawing.picture()


class BankUse:
    """How a request uses the banks.

    Args:
        request: the request.

    Attributes:
        lane: lane of each touched piece of a word; `word`, `start` and `end`: its word and its bytes in it.
        groups: the lanes that are served together, as ranges.
        counts: int64 [groups, 32], how many different words each bank has to give to each group.
    """

    def __init__(self, request: Request) -> None:
        # Offsets, not addresses: where an array of the CPU target lies says nothing about its place on a GPU.
        first, last = request.offsets, request.offsets + request.sizes - 1
        position, self.word = pieces(first // _WORD_BYTES, last // _WORD_BYTES)
        self.lane = request.lanes[position]
        self.start = np.maximum(first[position] - self.word * _WORD_BYTES, 0)
        self.end = np.minimum(last[position] - self.word * _WORD_BYTES, _WORD_BYTES - 1) + 1
        lanes = WARP_SIZE * _WORD_BYTES // min(max(int(request.sizes.max()), _WORD_BYTES), 16)
        self.groups = [range(start, start + lanes) for start in range(0, WARP_SIZE, lanes)]
        self.group = self.lane // lanes
        self.bank = self.word % NUM_BANKS
        # Two arrays may use equal offsets for different words: those count apart.
        memory = request.memories[position]
        distinct = np.unique(np.stack((self.group, self.bank, memory, self.word)), axis=1)
        self.counts = np.zeros((len(self.groups), NUM_BANKS), np.int64)
        np.add.at(self.counts, (distinct[0], distinct[1]), 1)

    @property
    def passes(self) -> int:
        """How often the banks must be asked for all lanes to be served."""
        return int(self.counts.max(axis=1).sum())

    @property
    def fewest(self) -> int:
        """How many passes the same words would take if they were spread evenly over the banks."""
        return int((-(-self.counts.sum(axis=1) // NUM_BANKS)).sum())


def _verdict(drawing: Drawing, use: BankUse) -> None:
    worst = int(use.counts.max())
    verdict = f"{words.plural(use.passes, 'pass')} through the banks"
    if worst > 1:
        verdict += f": a {worst}-way conflict ({use.fewest} would do)"
    else:
        verdict += ", no conflict"
    drawing.text(_LEFT, drawing.y + 26, verdict, bold=True)
    drawing.y += 34


def _lanes(drawing: Drawing, request: Request, use: BankUse, colour: str) -> None:
    """Draw a row for each lane, with the words it touches below their bank; a cross marks a conflict."""
    drawing.text(_LEFT - 8, drawing.y + 11, "bank", size=11, anchor="end")
    for bank in range(NUM_BANKS):
        drawing.text(_LEFT + (bank + 0.5) * _CELL, drawing.y + 11, str(bank), size=11, anchor="middle")
    top = drawing.y + 16
    height = WARP_SIZE * _LANE_HEIGHT
    drawing.add("rect", x=_LEFT, y=top, width=_RIGHT - _LEFT, height=height, fill=INK, fill_opacity=0.05)
    lines = "".join(f"M{_LEFT + bank * _CELL} {top:.1f}v{height}" for bank in range(NUM_BANKS + 1))
    drawing.add("path", d=lines, stroke=INK, stroke_opacity=0.2)
    for lane in (0, 8, 16, 24, 31):
        drawing.text(_LEFT - 8, top + (lane + 0.5) * _LANE_HEIGHT + 4, f"lane {lane}", size=11, anchor="end")
    for group in use.groups[1:]:
        line = f"M{_LEFT - 70} {top + group.start * _LANE_HEIGHT:.1f}H{_RIGHT}"
        drawing.add("path", d=line, stroke=INK, stroke_opacity=0.7, stroke_dasharray="4 3")
    crosses = ""
    for lane, bank, start, end, group in zip(use.lane, use.bank, use.start, use.end, use.group, strict=True):
        x = _LEFT + int(bank) * _CELL + 1 + (_CELL - 2) * int(start) / _WORD_BYTES
        y, width = top + int(lane) * _LANE_HEIGHT + 1, (_CELL - 2) * int(end - start) / _WORD_BYTES
        conflict = use.counts[group, bank] > 1
        drawing.add("rect", x=x, y=y, width=width, height=_LANE_HEIGHT - 2, fill=RED if conflict else colour)
        if conflict:
            crosses += f"M{x:.1f} {y:.1f}l{width:.1f} {_LANE_HEIGHT - 2}m0 {2 - _LANE_HEIGHT}l{-width:.1f} 7"
    if crosses:
        drawing.add("path", d=crosses, stroke="#fff", stroke_width=1.2)
    drawing.y = top + height


def _counts(drawing: Drawing, use: BankUse) -> None:
    """Write under each bank how many words it has to give; the largest number is the number of passes."""
    for group, counts in zip(use.groups, use.counts, strict=True):
        drawing.y += 15
        label = "words" if len(use.groups) == 1 else f"lanes {group.start}{words.TO}{group[-1]}"
        drawing.text(_LEFT - 8, drawing.y, label, size=11, anchor="end")
        for bank, count in enumerate(counts.tolist()):
            if count:
                x = _LEFT + (bank + 0.5) * _CELL
                drawing.text(x, drawing.y, str(count), size=11, anchor="middle", bold=count > 1)
        drawing.text(_RIGHT + 6, drawing.y, f"max {int(counts.max())}", size=11, bold=True)
    drawing.y += 8
    conflict = " Crossed: lanes that want different words of one bank and wait for each other."
    parts = {2: " Halves of the warp are served apart.", 4: " Quarters of the warp are served apart."}
    drawing.lines(
        _LEFT,
        "Columns: the 32 banks, each 4 bytes wide; below, how many different words each has to give. It gives one in "
        f"a pass.{parts.get(len(use.groups), '')}{conflict if use.counts.max() > 1 else ''}",
        width=WIDTH - _LEFT,
    )


def _strips(drawing: Drawing, requests: Requests, shown: range, colour: str) -> None:
    """Draw one line for each further request: how many words each bank has to give, as bars."""
    drawing.y += 24
    drawing.text(0, drawing.y, "The next warp requests", bold=True)
    drawing.text(210, drawing.y, "words that banks 0 to 31 have to give (full height: 32)", faint=True)
    drawing.y += 6
    for index in shown:
        request = requests[index]
        use = BankUse(request)
        highest = use.counts.max(axis=0)
        base = drawing.y + 20
        drawing.text(0, base - 4, f"block {request.block}: {request.name}", size=11, width=200)
        for bank, count in enumerate(highest.tolist()):
            height = max(16 * min(count, NUM_BANKS) / NUM_BANKS, 2)
            if count:
                fill = RED if count > 1 else colour
                drawing.add("rect", x=210 + bank * 10, y=base - height, width=8, height=height, fill=fill)
        drawing.add("path", d=f"M210 {base:.1f}h318", stroke=INK, stroke_opacity=0.5)
        worst = int(highest.max())
        note = f"{worst}-way conflict" if worst > 1 else "no conflict"
        figure = f"{words.plural(use.passes, 'pass')}, {note}"
        drawing.text(WIDTH - 10, base - 4, figure, size=11, anchor="end")
        drawing.y += 24


def _totals(drawing: Drawing, view: "View", instruction: "Instruction", launch: int) -> None:
    """Say what the instruction did in the whole launch, of which the record is a part."""
    for figure in view.figures:
        if figure.launch == launch and figure.instruction == instruction and figure.wavefronts:
            drawing.lines(
                0,
                f"The whole launch, {figure.memory.name}: {words.plural(figure.requests, 'warp request')}, "
                f"{figure.wavefronts:,} passes through the banks; without conflicts {figure.ideal_wavefronts:,}.",
                width=WIDTH,
            )
    drawing.y += 6
