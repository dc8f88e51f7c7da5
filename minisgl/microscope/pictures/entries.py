# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:964d60d00c75

"""The different things that threads do in a schedule, each with a letter, a colour and a shape."""

from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.schedule import Step
from minisgl.microscope.pictures.window import SHARED
from minisgl.svg import BLUE, GREEN, INK, ORANGE, PINK, WIDTH, Drawing

if TYPE_CHECKING:
    from minisgl.microscope.records import View

COLOURS = {"load": BLUE, "store": ORANGE, "atomic": PINK, "meet": GREEN, "barrier": INK}
_ON_COLOUR = {"load": "#fff", "store": "#000", "atomic": "#000", "meet": "#fff"}
SIZE = 18  # of a mark


@dataclass(frozen=True)
class Entry:
    """One kind of step.

    Args:
        kind: `load`, `store`, `atomic`, `meet` (a warp collective) or `barrier` (of the block).
        number: instruction or site.
        letter: its name in the picture.
        shared: does it touch shared memory?
        what: what it does.
        where: its place in the source.
        code: the source line, `""` if the other words say all.
    """

    kind: str
    number: int
    letter: str
    shared: bool
    what: str
    where: str
    code: str


def letter(number: int) -> str:
    """Return A, B ... Z, A2, B2 ..."""
    again = number // len(ascii_uppercase)
    return ascii_uppercase[number % len(ascii_uppercase)] + (str(again + 1) if again else "")


class Entries:
    """All entries of a schedule, lettered in the order of their first appearance."""

    def __init__(self, view: "View", steps: list[Step]) -> None:
        self._view = view
        self._memories: dict[int, set[int]] = {}
        for step in steps:
            if step.kind == "access":
                self._memories.setdefault(step.key[1], set()).update(np.unique(step.rows["memory"]).tolist())
        self._known: dict[tuple[bool, int], Entry] = {}
        for step in steps:
            self.of(step)

    def of(self, step: Step) -> Entry:
        """Return the entry of a step."""
        access = step.kind == "access"
        key = (access, step.key[1] if access else step.site)
        if key not in self._known:
            name = letter(len(self._known))
            self._known[key] = self._access(key[1], name) if access else self._wait(step.kind, key[1], name)
        return self._known[key]

    def _access(self, number: int, name: str) -> Entry:
        instruction = self._view.instructions[number]
        memories = [self._view.memories[index] for index in sorted(self._memories[number])]
        what = words.action(instruction, memories[0].name if len(memories) == 1 else "several places")
        shared = all(memory.space in SHARED for memory in memories)
        source = words.source(instruction)
        return Entry(instruction.kind, number, name, shared, what, source, words.code(instruction))

    def _wait(self, kind: str, number: int, name: str) -> Entry:
        site = self._view.sites[number]
        where = f"{site.file.rpartition('/')[2]}:{site.line}"
        return Entry(kind, number, name, False, f"meet at {site.function}", where, "")


def mark(drawing: Drawing, entry: Entry, x: float, y: float) -> None:
    """Draw an entry's letter in its shape, `SIZE` wide and high."""
    colour = COLOURS[entry.kind]
    box = partial(drawing.add, "rect", x=x + 0.5, y=y + 0.5, width=SIZE - 1, height=SIZE - 1)
    if entry.kind == "barrier":
        box(fill="none", stroke=INK, stroke_width=1.5)
    elif entry.shared:
        box(rx=4, fill=colour, fill_opacity=0.2, stroke=colour, stroke_width=2)
    else:
        box(rx=9 if entry.kind == "meet" else 3, fill=colour)
    ink = INK if entry.shared or entry.kind == "barrier" else _ON_COLOUR[entry.kind]
    drawing.text(x + SIZE / 2, y + 13, entry.letter, size=11, bold=True, anchor="middle", fill=ink)


def height(entry: Entry) -> int:
    """Return how much room `describe` takes."""
    return SIZE + (18 if entry.code else 4)


def describe(drawing: Drawing, entry: Entry, y: float, who: str = "") -> None:
    """Write from `y` on: mark, what it does, where, and below it the source line."""
    mark(drawing, entry, 0, y)
    drawing.text(26, y + 13, who + entry.what + (" (shared)" if entry.shared else ""), width=390)
    drawing.text(424, y + 13, entry.where, width=WIDTH - 424, faint=True)
    if entry.code:
        drawing.text(26, y + 28, entry.code, size=11, mono=True, faint=True, width=WIDTH - 26)


def legend(drawing: Drawing, entries: list[Entry], most: int = 16) -> None:
    """Describe entries below each other."""
    for entry in entries[:most]:
        describe(drawing, entry, drawing.y)
        drawing.y += height(entry)
    if len(entries) > most:
        drawing.y += 4
        drawing.lines(0, f"{len(entries) - most} more source lines not listed.", width=WIDTH)
