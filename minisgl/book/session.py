"""What one session knows of a C++ file: the chapter's cells, with those run here in their places.

However often and in whatever order cells are run, each counts exactly once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

_SIMILAR = 0.5


@dataclass(frozen=True)
class DiskCell:
    """A cell of the chapter as it is on disk."""

    id: str
    text: str
    line: int
    append: bool


@dataclass
class Run:
    """A cell as it was last run in this session."""

    id: str | None
    """The frontend's id of the cell, if it sends one."""
    text: str
    append: bool
    disk: DiskCell | None = None
    """The cell on disk that it stood for when it ran; None for a new cell."""


@dataclass
class Slot:
    """One place in the file: a cell on disk, a cell of the session, or both."""

    disk: DiskCell | None
    run: Run | None

    @property
    def text(self) -> str:
        """The text that counts: the session's edit if there is one, else what is on disk."""
        if self.run is None:
            assert self.disk is not None
            return self.disk.text
        unedited = self.run.disk is not None and self.run.disk.text == self.run.text
        return self.disk.text if self.disk and unedited else self.run.text

    @property
    def append(self) -> bool:
        """Whether the cell continues the file."""
        return self.run.append if self.run else self.disk is not None and self.disk.append


@dataclass
class SessionFile:
    """The runs of one file's cells, in the order of their first run."""

    runs: list[Run] = field(default_factory=list)

    def run(self, cells: list[DiskCell], cell_id: str | None, text: str, append: bool) -> list[Slot]:
        """Take in a cell that was just run; `cells` is the file as the chapter has it on disk now."""
        slots = self.slots(cells)
        slot = next((slot for slot in slots if not slot.append), None) if not append else None
        slot = slot or (_find(slots, cell_id, text) if append else None)
        if slot is None:
            self.runs.append(Run(cell_id, text, append))
        elif slot.run is None:
            self.runs.append(Run(cell_id, text, append, slot.disk))
        else:
            slot.run.id, slot.run.text, slot.run.disk = cell_id, text, slot.disk
        return self.slots(cells)

    def slots(self, cells: list[DiskCell]) -> list[Slot]:
        """Return the file's cells in order: those on disk, each with its run, then the new ones."""
        slots = [Slot(cell, None) for cell in cells]
        waiting = list(self.runs)
        for rule in (_same_start, _same_text, _same_base, _same_id):
            for run in list(waiting):
                if slot := next((slot for slot in slots if slot.run is None and rule(run, slot.disk)), None):
                    slot.run = run
                    waiting.remove(run)
        for run in list(waiting):
            free = [slot for slot in slots if slot.run is None and run.append and slot.append]
            if run.disk and (slot := _most_similar(free, run.disk.text)):
                slot.run = run
                waiting.remove(run)
        new = [Slot(None, run) for run in sorted(waiting, key=lambda run: run.append)]
        if any(not slot.append for slot in new):
            return new + slots
        return slots + new


def _same_start(run: Run, cell: DiskCell | None) -> bool:
    return cell is not None and not run.append and not cell.append


def _same_text(run: Run, cell: DiskCell | None) -> bool:
    return cell is not None and run.append and cell.append and run.text == cell.text


def _same_base(run: Run, cell: DiskCell | None) -> bool:
    return cell is not None and run.append and cell.append and run.disk is not None and run.disk.text == cell.text


def _same_id(run: Run, cell: DiskCell | None) -> bool:
    known = {run.id, run.disk.id if run.disk else None} - {None}
    return cell is not None and run.append and cell.append and cell.id in known


def _find(slots: list[Slot], cell_id: str | None, text: str) -> Slot | None:
    """Find the place of a continuing cell among those that may be it; None for a new cell."""
    slots = [slot for slot in slots if slot.append]
    if cell_id and (slot := next((slot for slot in slots if slot.run and slot.run.id == cell_id), None)):
        return slot
    # A frontend that sends ids names each cell by its own, so a place that another id has taken is not this cell's.
    free = [slot for slot in slots if slot.run is None or slot.run.id is None or cell_id is None]
    tests: list[Callable[[Slot], bool]] = [
        lambda slot: slot.text == text and slot.disk is not None and slot.disk.id == cell_id,
        lambda slot: text in _texts(slot),
        lambda slot: slot.disk is not None and cell_id is not None and slot.disk.id == cell_id,
    ]
    for test in tests:
        if slot := next((slot for slot in free if test(slot)), None):
            return slot
    return _most_similar(free, text)


def _most_similar(slots: list[Slot], text: str) -> Slot | None:
    best, found = _SIMILAR, None
    for slot in slots:
        ratio = max(SequenceMatcher(None, other, text, autojunk=False).ratio() for other in _texts(slot))
        if ratio > best:
            best, found = ratio, slot
    return found


def _texts(slot: Slot) -> Iterator[str]:
    yield slot.text
    if slot.disk:
        yield slot.disk.text
