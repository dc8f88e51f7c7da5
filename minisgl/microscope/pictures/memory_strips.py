# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:f34b50b9da6e

"""Strips of memory: what a block touches of each tensor and shared array, and what of it in one step."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import COLOURS, Entries
from minisgl.microscope.pictures.schedule import Step
from minisgl.microscope.pictures.window import GLOBAL, pieces
from minisgl.microscope.records import SECTOR_BYTES
from minisgl.svg import INK, WIDTH, Drawing, number

if TYPE_CHECKING:
    from minisgl.microscope.records import Memory, View

_LEFT, _WIDTH, _HEIGHT = 120, 570, 16
_MOST_CELLS = 95
_WORD_BYTES = 4  # of shared memory, that one bank hands out at a time


@dataclass
class Strip:
    """A strip of one memory, from low to high addresses, closed up where the block touches nothing.

    Args:
        memory: what it shows.
        unit: bytes of a piece: a sector of global, a word of shared memory.
        touched: int64, numbers of the pieces that the block touches, in order.
        y: top of the strip.
    """

    memory: "Memory"
    unit: int
    touched: np.ndarray
    y: float = 0
    past: set[int] = field(default_factory=set)

    @property
    def per_cell(self) -> int:
        """How many pieces share a cell."""
        return -(-len(self.touched) // _MOST_CELLS)

    @property
    def num_cells(self) -> int:
        """How many cells the strip has."""
        return -(-len(self.touched) // self.per_cell)

    @property
    def pitch(self) -> float:
        """Width of a cell and the space behind it."""
        return min(12.0, _WIDTH / self.num_cells)

    def draw_background(self, drawing: Drawing) -> None:
        """Draw the empty cells, with the memory's name and where the strip starts and ends."""
        drawing.text(_LEFT - 8, self.y + 13, self.memory.name, anchor="end", bold=True, width=_LEFT - 8)
        self._cells(drawing, set(range(self.num_cells)), INK, 0.12, _HEIGHT)
        base = self.memory.address if self.unit == SECTOR_BYTES else 0
        first = max(int(self.touched[0]) * self.unit - base, 0)
        last = int(self.touched[-1]) * self.unit - base
        what = "sector" if self.unit == SECTOR_BYTES else "word"
        each = f"{words.plural(self.per_cell, what)} of {self.unit} bytes"
        text = f"{words.place(self.memory, first)} … {words.place(self.memory, last)}; a cell: {each}"
        drawing.text(_LEFT, self.y + _HEIGHT + 13, text, size=11, faint=True, width=WIDTH - _LEFT)

    def draw(self, drawing: Drawing, steps: list[Step], entries: Entries) -> None:
        """Mark the cells that a step touches, and fainter those of the steps before."""
        now: dict[str, set[int]] = {}
        for step in steps:
            if found := set(self._touched_by(step)):
                now.setdefault(entries.of(step).kind, set()).update(found)
        self._cells(drawing, self.past.difference(*now.values()), INK, 0.45, _HEIGHT / 2)
        for kind, cells in now.items():
            self._cells(drawing, cells, COLOURS[kind], 1, _HEIGHT)
            self.past |= cells

    def _touched_by(self, step: Step) -> list[int]:
        rows = step.rows[step.rows["memory"] == self.memory.index]
        return np.unique(np.searchsorted(self.touched, _pieces(rows, self.unit)) // self.per_cell).tolist()

    def _cells(self, drawing: Drawing, cells: set[int], colour: str, opacity: float, height: float) -> None:
        gap = min(2.0, self.pitch / 4)
        path = ""
        for first, last in words.spans(cells):
            width = (last - first + 1) * self.pitch - gap
            path += f"M{number(_LEFT + first * self.pitch)} {number(self.y + _HEIGHT / 2)}h{number(width)}"
        if path:
            dashes = f"{self.pitch - gap:g} {gap:g}"
            drawing.add(
                "path", d=path, stroke=colour, stroke_width=height, stroke_dasharray=dashes, stroke_opacity=str(opacity)
            )


HEIGHT = _HEIGHT + 26  # of a strip with its caption


def strips(view: "View", steps: list[Step]) -> list[Strip]:
    """Return a strip for each memory that some steps touch; memories that are not known have none."""
    rows = np.concatenate([step.rows for step in steps]) if steps else view.accesses[:0]
    found = []
    for index in np.unique(rows["memory"]).tolist():
        if index < len(view.memories):
            memory = view.memories[index]
            unit = SECTOR_BYTES if memory.space in GLOBAL else _WORD_BYTES
            found.append(Strip(memory, unit, np.unique(_pieces(rows[rows["memory"] == index], unit))))
    return found


def _pieces(rows: np.ndarray, unit: int) -> np.ndarray:
    # Sectors are a matter of addresses; words of shared memory are counted from the start of their array.
    start = rows["address" if unit == SECTOR_BYTES else "offset"].astype(np.int64)
    return pieces(start // unit, (start + rows["size"] - 1) // unit)[1]
