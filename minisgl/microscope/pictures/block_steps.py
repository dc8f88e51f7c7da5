"""A slider over the steps of a block: which threads run, wait or have ended, and what they touch."""

from collections import defaultdict
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import COLOURS, SIZE, Entries, Entry, mark
from minisgl.microscope.pictures.schedule import Schedule, Step, schedule
from minisgl.microscope.pictures.slider import Slider
from minisgl.microscope.pictures.svg import INK, RED, WIDTH, Drawing
from minisgl.microscope.pictures.window import (
    GLOBAL,
    SECTOR_BYTES,
    WARP_SIZE,
    chosen_block,
    chosen_launch,
    chosen_range,
    pieces,
)

if TYPE_CHECKING:
    from minisgl.microscope.records import View

_MOST_BYTES = 120_000  # of all frames: a picture has to travel inside a notebook or a page
_MOST_LINES, _MOST_MEMORIES, _MOST_CELLS = 4, 8, 95
_LEFT, _CELL, _PITCH = 64, 11, 13  # of the map of threads
_STRIP_LEFT, _STRIP_WIDTH, _STRIP_HEIGHT = 120, 570, 16
_WORD_BYTES = 4  # of shared memory, that one bank hands out at a time

# A thread's mark is a dash of a row's line, so that neighbours cost no bytes: dash pattern and part of the row's height.
_DASHES = {
    "load": ("11 2", 1.0),
    "store": ("4 3 4 2", 1.0),
    "atomic": ("3 1 3 1 3 2", 1.0),
    "meet": ("11 2", 0.5),
    "barrier": ("11 2", 0.5),
    "wait": ("0 2 7 4", 0.25),
    "ended": ("0 4.5 2 6.5", 0.2),
}
_NAMES = {
    "load": "loads",
    "store": "stores",
    "atomic": "updates",
    "meet": "meets lanes of its warp",
    "barrier": "meets its block",
    "wait": "waits",
    "turn": "not its turn",
    "ended": "ended, or touches no more",
}


def steps(view: "View", *, launch: int = 0, block: int | None = None, steps: int | range = 48) -> Slider:
    """Step through a block with a slider: who runs, who waits, who has ended, and which memory is touched.

    In a step, each warp does one thing: the lanes of a warp go together, the warps side by side until a barrier holds
    them. Memory is shown as what this block touches of it in the shown steps, from low to high addresses.

    Args:
        view: what `observe` recorded.
        launch: number of the launch.
        block: a recorded block; by default the first.
        steps: how many steps to draw, or which (`range(100, 150)`), counted from 0.

    Returns:
        The slider, HTML with SVG. Without JavaScript its first frame is shown.

    Raises:
        ValueError: nothing was recorded there.
    """
    function = chosen_launch("steps", view, launch).function
    block = chosen_block("steps", view, launch, block)
    plan = schedule(view, launch, block)
    columns = chosen_range("steps", "steps", steps, plan.num_columns)
    by_column: dict[int, list[Step]] = defaultdict(list)
    for step in plan.steps:
        by_column[step.column].append(step)
    entries = Entries(view, plan.steps)
    drawing = Drawing(f"Block {block} of {function}, step by step")
    drawing.text(0, 16, drawing.title, size=15, bold=True, width=WIDTH)
    lines = min(max(len({entries.of(step).letter for step in by_column[column]}) for column in columns), _MOST_LINES)
    top = 52 + lines * (SIZE + 4) + 10
    threads = _Threads(plan, view.launches[launch].finished, top)
    threads.draw_background(drawing)
    drawing.y = max(threads.bottom, top + 7 * 18) + 20
    shown = [step for column in columns for step in by_column[column]]
    strips = _strips(drawing, view, shown)
    background = drawing.take()
    frames: list[str] = []
    for column in columns:
        _Frame(drawing, by_column[column], entries, column, plan.num_columns).draw()
        threads.draw(drawing, by_column[column], column)
        for strip in strips:
            strip.draw(drawing, by_column[column])
        frames.append(drawing.take())
        if sum(map(len, frames)) > _MOST_BYTES:
            break
    _notes(drawing, plan, columns, len(frames), strips, shown)
    return Slider(drawing.svg().replace("</svg>", ""), background, tuple(frames), "</svg>")


class _Frame:
    """The words of one step: how many warps do what."""

    def __init__(self, drawing: Drawing, steps: list[Step], entries: Entries, column: int, total: int) -> None:
        self.drawing, self.title = drawing, f"Step {column + 1:,} of {total:,}"
        self.lines: dict[str, tuple[Entry, list[Step]]] = {}
        for step in steps:
            entry = entries.of(step)
            self.lines.setdefault(entry.letter, (entry, []))[1].append(step)

    def draw(self) -> None:
        """Write one line for each source line that runs."""
        drawing = self.drawing
        drawing.text(0, 40, self.title, bold=True)
        y = 50
        for entry, steps in list(self.lines.values())[:_MOST_LINES]:
            mark(drawing, entry, 0, y)
            threads = sum(len(step.threads) for step in steps)
            who = f"{words.plural(len(steps), 'warp')}, {words.plural(threads, 'thread')}: "
            what = f"{_NAMES[entry.kind]}" if entry.kind in ("meet", "barrier") else entry.what
            drawing.text(26, y + 13, who + what.replace(" its ", " their "), width=330)
            drawing.text(362, y + 13, entry.where, width=130, faint=True)
            drawing.text(498, y + 13, entry.code, size=11, mono=True, faint=True, width=WIDTH - 498)
            y += SIZE + 4
        if len(self.lines) > _MOST_LINES:
            more = len(self.lines) - _MOST_LINES
            drawing.text(WIDTH, 40, f"and {words.plural(more, 'more source line')}", anchor="end", faint=True)


class _Threads:
    """The map of a block's threads: a row for each warp, a cell for each lane."""

    def __init__(self, plan: Schedule, finished: bool, top: float) -> None:
        self.plan, self.finished = plan, finished
        self.num_warps = -(-plan.num_threads // WARP_SIZE)
        self.row = _PITCH if self.num_warps <= 16 else 10
        self.top = top + 14
        self.bottom = self.top + self.num_warps * self.row
        self.turns: dict[int, list[Step]] = defaultdict(list)
        for step in plan.steps:
            for thread in step.threads:
                self.turns[thread].append(step)

    def draw_background(self, drawing: Drawing) -> None:
        """Draw the empty cells of all threads, and the names of lanes and warps."""
        drawing.text(_LEFT - 8, self.top - 5, "lane", size=11, anchor="end")
        for lane in (0, 8, 16, 24, 31):
            drawing.text(_LEFT + lane * _PITCH + _CELL / 2, self.top - 5, str(lane), size=11, anchor="middle")
        every = -(-14 // self.row) if self.num_warps > 1 else 1
        for warp in range(0, self.num_warps, every):
            middle = self.top + (warp + 0.5) * self.row
            drawing.text(_LEFT - 8, middle + 4, f"warp {warp}", size=11, anchor="end")
        self._cells(drawing, range(self.plan.num_threads), "11 2", 1, INK, 0.12)

    def draw(self, drawing: Drawing, steps: list[Step], column: int) -> None:
        """Mark what each thread does in a step, and count them in the legend."""
        states = self._states(steps, column)
        for row, (state, threads) in enumerate(states.items()):
            y = self.top + row * 18
            colour = COLOURS.get(state, INK)
            label = "never meets: the launch failed" if state == "stuck" else _NAMES[state]
            if state != "turn":
                dashes, part = _DASHES["wait" if state == "stuck" else state]
                colour = RED if state == "stuck" else colour
                self._cells(drawing, threads, dashes, part, colour)
                self._line(drawing, f"M500 {y + 6:.1f}h{_CELL}", dashes, 11 * part, colour)
            else:
                self._line(drawing, f"M500 {y + 6:.1f}h{_CELL}", "11 2", 11, INK, 0.12)
            drawing.text(518, y + 10, f"{len(threads):,} {label}", width=WIDTH - 518)

    def _states(self, steps: list[Step], column: int) -> dict[str, list[int]]:
        """Return the threads in each state, the states in the order of the legend."""
        found: dict[str, list[int]] = defaultdict(list)
        for step in steps:
            kind = step.kind
            if kind == "access":
                kind = step_kind(step)
            found[kind if step.met else "stuck"] += step.threads
        active = {thread for threads in found.values() for thread in threads}
        for thread in range(self.plan.num_threads):
            if thread not in active:
                after = next((step for step in self.turns[thread] if step.column > column), None)
                if after is None:
                    last = self.turns[thread][-1:]
                    found["stuck" if last and not last[0].met else "ended"].append(thread)
                else:
                    found["turn" if after.kind == "access" else "wait"].append(thread)
        return {state: found[state] for state in (*_NAMES, "stuck") if found[state]}

    def _cells(
        self, drawing: Drawing, threads: "list[int] | range", dashes: str, part: float, colour: str, opacity: float = 1
    ) -> None:
        path = ""
        for first, last in words.spans(threads):
            for warp in range(first // WARP_SIZE, last // WARP_SIZE + 1):
                start = max(first, warp * WARP_SIZE) % WARP_SIZE
                count = min(last - warp * WARP_SIZE, WARP_SIZE - 1) - start + 1
                y = self.top + (warp + 0.5) * self.row
                path += f"M{_LEFT + start * _PITCH} {y:g}h{count * _PITCH - 2}"
        self._line(drawing, path, dashes, (self.row - 2) * part, colour, opacity)

    @staticmethod
    def _line(drawing: Drawing, path: str, dashes: str, width: float, colour: str, opacity: float = 1) -> None:
        drawing.add(
            "path", d=path, stroke=colour, stroke_width=width, stroke_dasharray=dashes, stroke_opacity=str(opacity)
        )


def step_kind(step: Step) -> str:
    """Return what `Entries` knows an access as."""
    return _KINDS[step]


@dataclass
class _Strip:
    """What a block touches of one memory: sectors of global, words of shared memory, closed up where it touches none.

    Args:
        memory: index into `view.memories`.
        unit: bytes of a piece.
        touched: numbers of the pieces, in order.
        y: top of the strip.
    """

    memory: int
    unit: int
    touched: np.ndarray
    y: float

    def __post_init__(self) -> None:
        self.per_cell = -(-len(self.touched) // _MOST_CELLS)
        self.num_cells = -(-len(self.touched) // self.per_cell)
        self.pitch = min(12.0, _STRIP_WIDTH / self.num_cells)
        self.past: set[int] = set()

    def cells(self, step: Step) -> set[int]:
        """Return the cells that a step touches."""
        return {
            int(cell)
            for cell in np.unique(np.searchsorted(self.touched, _units(step.rows, self.memory, self.unit)))
            // self.per_cell
        }
