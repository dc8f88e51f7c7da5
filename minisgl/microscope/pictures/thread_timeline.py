# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:c758d26be957

"""A picture of threads' lives: what each does, one step after the other, and where it waits."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import SIZE, Entries, Entry, legend, mark
from minisgl.microscope.pictures.schedule import Schedule, schedule
from minisgl.microscope.pictures.window import chosen_block, chosen_launch, chosen_range
from minisgl.svg import INK, RED, WIDTH, Drawing, Picture, number

if TYPE_CHECKING:
    from minisgl.microscope.records import View

_LEFT, _COLUMN, _ROW = 180, 20, 34
_COLUMNS = (WIDTH - _LEFT) // _COLUMN  # in a line of the picture
_MOST_BYTES, _MARK_BYTES, _CELL_BYTES = 120_000, 200, 25  # the last of a cell without a mark, and of its row's name
_LONGEST_PATTERN = 12  # columns of a loop that are drawn once, with the number of its rounds


def timeline(
    view: "View",
    *,
    threads: int | Iterable[int] | None = None,
    launch: int = 0,
    block: int | None = None,
    steps: int | range = 4 * _COLUMNS,
    rows: int = 12,
) -> Picture:
    """Draw the lives of a block's threads: loads, stores, shuffles and barriers in order, and where they wait.

    From left to right are steps, not time: the lanes of a warp go together, the warps side by side until a barrier
    holds them. Threads that do the same share a row; of the rounds of a long loop the first is drawn.

    Args:
        view: what `observe` recorded.
        threads: a thread or threads of the block (x + blockDim.x * (y + blockDim.y * z)); all by default.
        launch: number of the launch.
        block: a recorded block; by default the first.
        steps: how many steps to draw, or which (`range(100, 150)`), counted from 0.
        rows: how many rows to draw at most.

    Returns:
        The picture, SVG.

    Raises:
        ValueError: nothing was recorded there, or there is no such thread.
    """
    function = chosen_launch("timeline", view, launch).function
    block = chosen_block("timeline", view, launch, block)
    plan = schedule(view, launch, block)
    chosen = _chosen_threads(plan, threads)
    entries = Entries(view, plan.steps)
    lives = _lives(plan, entries, chosen)
    if rows < 1:
        raise ValueError(f"timeline: rows: expected at least 1, got {rows}")
    shown, hidden = lives[:rows], lives[rows:]
    wanted = chosen_range("timeline", "steps", steps, plan.num_columns)
    folded = _fold(shown, range(plan.num_columns))[:steps] if isinstance(steps, int) else _fold(shown, wanted)
    folded = _cut(shown, folded)
    drawing = Drawing(f"Threads of block {block} of {function}, step by step")
    drawing.text(0, 16, f"What the threads of block {block} do", size=15, bold=True)
    drawing.text(0, 36, f"{function}: {_summary(plan, folded)}", width=WIDTH)
    drawing.y = 48
    for start in range(0, len(folded), _COLUMNS):
        _Band(drawing, shown, folded, start).draw(view.launches[launch].finished)
    _say_hidden(drawing, hidden)
    _explain(drawing, view, shown, folded, launch)
    return drawing.picture()


@dataclass(frozen=True)
class _Life:
    """What some threads do alike.

    Args:
        threads: who.
        entries: what they do, by column.
        last: column of the last entry, -1 if there is none.
        stuck: do they still wait there when the launch failed?
    """

    threads: list[int]
    entries: dict[int, Entry]
    last: int
    stuck: bool

    def state(self, column: int) -> str:
        """Return what the threads are up to in a column without an entry: `wait`, `turn` or `ended`."""
        if column > self.last:
            return "wait" if self.stuck else "ended"
        after = min(at for at in self.entries if at > column)
        return "wait" if self.entries[after].kind in ("barrier", "meet") else "turn"


@dataclass(frozen=True)
class _Column:
    """A column of the picture: a step, and of how many rounds of a loop it is the first."""

    step: int
    rounds: int = 1
    opens: int = 0  # so many columns of a loop start here


def _chosen_threads(plan: Schedule, threads: int | Iterable[int] | None) -> list[int]:
    if threads is None:
        return list(range(plan.num_threads))
    chosen = [threads] if isinstance(threads, int) else sorted(set(threads))
    if not chosen or not all(0 <= thread < plan.num_threads for thread in chosen):
        raise ValueError(f"timeline: threads: expected some of 0 to {plan.num_threads - 1}, got {threads}")
    return chosen


def _lives(plan: Schedule, entries: Entries, chosen: list[int]) -> list[_Life]:
    """Put threads together that do the same in the same columns, in the order of their first threads."""
    done: dict[int, dict[int, Entry]] = {thread: {} for thread in chosen}
    stuck = set()
    for step in plan.steps:
        for thread in step.threads:
            if thread in done:
                done[thread][step.column] = entries.of(step)
                if not step.met:
                    stuck.add(thread)
    alike: dict[tuple[bool, tuple[tuple[int, str], ...]], list[int]] = {}
    for thread, life in done.items():
        key = (thread in stuck, tuple((column, entry.letter) for column, entry in life.items()))
        alike.setdefault(key, []).append(thread)
    return [_Life(found, done[found[0]], plan.last[found[0]], key[0]) for key, found in alike.items()]


def _fold(lives: list[_Life], columns: range) -> list[_Column]:
    """Leave out the second and later rounds of what all rows repeat, unless there is room for all."""
    if len(columns) <= _COLUMNS:
        return [_Column(column) for column in columns]
    content = [tuple(life.entries.get(column) for life in lives) for column in columns]
    folded, at = [], 0
    while at < len(content):
        length, rounds = _best_pattern(content, at)
        for index in range(length):
            folded.append(_Column(columns[at + index], rounds, length if index == 0 and rounds > 1 else 0))
        at += length * rounds
    return folded


def _cut(lives: list[_Life], columns: list[_Column]) -> list[_Column]:
    """Keep as many columns as a picture can hold."""
    marks = np.array([sum(column.step in life.entries for life in lives) for column in columns])
    size = np.cumsum(marks * _MARK_BYTES + (len(lives) + 1) * _CELL_BYTES)
    return columns[: max(int(np.searchsorted(size, _MOST_BYTES)), 1)]


def _best_pattern(content: list[tuple[Entry | None, ...]], at: int) -> tuple[int, int]:
    """Return length and rounds of the repetition from `at` on that saves most columns; at least 3 rounds."""
    best = (1, 1)
    for length in range(1, _LONGEST_PATTERN + 1):
        pattern, rounds = content[at : at + length], 1
        while content[at + rounds * length : at + (rounds + 1) * length] == pattern:
            rounds += 1
        if rounds >= 3 and length * (rounds - 1) > best[0] * (best[1] - 1):
            best = (length, rounds)
    return best


def _summary(plan: Schedule, folded: list[_Column]) -> str:
    first, last = folded[0], folded[-1]
    end = last.step + 1
    for column in folded:
        if column.opens:
            end = max(end, column.step + column.opens * column.rounds)
    if first.step == 0 and end >= plan.num_columns:
        return f"{words.plural(plan.num_columns, 'step')} of {words.plural(plan.num_threads, 'thread')}"
    return f"steps {first.step + 1:,} to {end:,} of {plan.num_columns:,}; the others are not shown"


class _Band:
    """One line of the picture: a few columns of all rows."""

    def __init__(self, drawing: Drawing, lives: list[_Life], columns: list[_Column], start: int) -> None:
        self.drawing, self.lives, self.columns = drawing, lives, columns[start : start + _COLUMNS]
        self.before = columns[start - 1].step if start else -1
        self.top = drawing.y + 34

    def draw(self, finished: bool) -> None:
        """Draw the line and move on below it; in a launch that failed nobody has ended."""
        self._header()
        for row, life in enumerate(self.lives):
            self._row(life, self.top + row * _ROW, finished)
        self.drawing.y = self.top + len(self.lives) * _ROW + 8

    def _header(self) -> None:
        drawing, height = self.drawing, len(self.lives) * _ROW
        drawing.text(_LEFT - 12, self.top - 6, "step", size=11, anchor="end", faint=True)
        wide = self.columns[-1].step + 1 >= 100
        for index, column in enumerate(self.columns):
            x = _LEFT + index * _COLUMN
            entries = [life.entries.get(column.step) for life in self.lives]
            if any(entry and entry.kind == "barrier" for entry in entries):
                drawing.add("rect", x=x - 1, y=self.top - 2, width=_COLUMN, height=height, fill=INK, fill_opacity=0.15)
            if not wide or index % 2 == 0:
                drawing.text(x + SIZE / 2, self.top - 6, f"{column.step + 1}", size=11, anchor="middle", faint=True)
            if column.opens:
                width = min(column.opens, len(self.columns) - index) * _COLUMN - 2
                line = f"M{x} {self.top - 16:.1f}v-3h{width}v3"
                drawing.add("path", d=line, fill="none", stroke=INK)
                rounds = f"{words.TIMES}{column.rounds}"
                drawing.text(x + width / 2, self.top - 23, rounds, size=11, bold=True, anchor="middle")

    def _row(self, life: _Life, y: float, finished: bool) -> None:
        drawing, middle = self.drawing, y + SIZE / 2
        alike = len(life.threads)
        name = f"{'thread' if alike == 1 else 'threads'} {words.listed(life.threads)}"
        drawing.text(0, y + 10, name, width=_LEFT - 10)
        if alike > 1:
            drawing.text(0, y + 23, f"{alike:,} alike", size=11, faint=True)
        lines = {"wait": "", "turn": ""}
        for index, column in enumerate(self.columns):
            x = _LEFT + index * _COLUMN
            if entry := life.entries.get(column.step):
                mark(drawing, entry, x, y)
            elif (state := life.state(column.step)) == "wait":
                lines[state] += f"M{x - 1} {number(middle)}h{_COLUMN}"
            elif state == "turn":
                lines[state] += f"M{x + 8} {number(middle)}h2"
            elif finished and self._first_after(life.last, index):
                drawing.add("rect", x=x + 5, y=middle - 4, width=8, height=8, fill=INK)
        _gaps(drawing, lines["wait"], lines["turn"])
        last = [index for index, column in enumerate(self.columns) if column.step == life.last]
        if life.stuck and last:
            x = min(_LEFT + (last[0] + 1) * _COLUMN, WIDTH - 60)
            drawing.text(x, y + 29, "never met", size=11, bold=True, fill=RED)

    def _first_after(self, step: int, index: int) -> bool:
        """Tell if a column is the first of the picture behind a step."""
        before = self.columns[index - 1].step if index else self.before
        return before <= step < self.columns[index].step


def _gaps(drawing: Drawing, waiting: str, turn: str) -> None:
    """Draw the paths of steps in which threads wait, and of those in which other lanes run."""
    if waiting:
        drawing.add("path", d=waiting, stroke=INK, stroke_width=2.5, stroke_dasharray="6 4")
    if turn:
        drawing.add("path", d=turn, stroke=INK, stroke_width=2)


def _say_hidden(drawing: Drawing, hidden: list[_Life]) -> None:
    drawing.y += 4
    if hidden:
        threads = sum(len(life.threads) for life in hidden)
        text = f"{words.plural(len(hidden), 'more row')} ({words.plural(threads, 'thread')}) not shown."
        drawing.lines(0, text, width=WIDTH)


def _explain(drawing: Drawing, view: "View", shown: list[_Life], folded: list[_Column], launch: int) -> None:
    if not view.launches[launch].finished:
        drawing.lines(
            0,
            f"The launch did not finish: {view.error}" if view.error else "The launch did not finish.",
            width=WIDTH,
            faint=False,
        )
    _states(drawing, shown, folded, view.launches[launch].finished)
    drawing.y += 10
    used: dict[str, Entry] = {}
    for column in folded:
        for life in shown:
            if entry := life.entries.get(column.step):
                used.setdefault(entry.letter, entry)
    legend(drawing, [used[name] for name in sorted(used, key=lambda name: (len(name), name))])
    drawing.lines(
        0,
        "Steps are an order, not time: the lanes of a warp go together, warps side by side until a barrier holds them.",
        width=WIDTH,
    )
    drawing.y += 6


def _states(drawing: Drawing, shown: list[_Life], folded: list[_Column], finished: bool) -> None:
    """Explain the marks that stand for no access, as far as they occur."""
    states = {life.state(column.step) for life in shown for column in folded if column.step not in life.entries}
    x, y = 0.0, drawing.y + 18
    if "wait" in states:
        _gaps(drawing, f"M{x} {y - 4:.1f}h26", "")
        drawing.text(x + 34, y, "waits for others")
        x += 160
    if "turn" in states:
        _gaps(drawing, "", f"M{x + 8} {y - 4:.1f}h2")
        drawing.text(x + 20, y, "other lanes of its warp run")
        x += 210
    if "ended" in states and finished:
        drawing.add("rect", x=x, y=y - 8, width=8, height=8, fill=INK)
        drawing.text(x + 16, y, "is done with memory")
        x += 1
    drawing.y = y if x else drawing.y
