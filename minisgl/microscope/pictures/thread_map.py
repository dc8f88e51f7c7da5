# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:193ace4a45fd

"""A map of a block's threads: a row for each warp, a cell for each lane, and in it what the lane is up to."""

from collections import defaultdict
from collections.abc import Iterable

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import COLOURS, Entries
from minisgl.microscope.pictures.schedule import Schedule, Step
from minisgl.microscope.pictures.window import WARP_SIZE
from minisgl.svg import INK, RED, WIDTH, Drawing

_LEFT, _CELL, _PITCH = 64, 11, 13
_LEGEND = 494


class State:
    """What a thread may be up to.

    Args:
        name: in the legend.
        dashes: pattern of a cell, 13 wide. A row is one dashed line, so that alike neighbours cost no bytes.
        part: of a cell's height.
        opacity: of the mark.
    """

    def __init__(self, name: str, dashes: str = "11 2", part: float = 1, opacity: float = 1) -> None:
        self.name, self.dashes, self.part, self.opacity = name, dashes, part, opacity


STATES = {
    "load": State("load"),
    "store": State("store", "4 3 4 2"),
    "atomic": State("update", "3 1 3 1 3 2"),
    "meet": State("meet in their warp", part=0.5),
    "barrier": State("meet their block", part=0.5),
    "wait": State("wait", "0 2 7 4", 0.25),
    "turn": State("let other lanes run", opacity=0),
    "ended": State("are done with memory", "0 4 3 6", 0.3),
    "stuck": State("never met: launch failed", "0 2 7 4", 0.4),
}
LEGEND_HEIGHT = 4 * 18  # of the states that one step shows; more go on below the map's end


class ThreadMap:
    """Where the threads of a schedule are drawn.

    Args:
        plan: the schedule.
        entries: its entries.
        top: y of the map.
    """

    def __init__(self, plan: Schedule, entries: Entries, top: float) -> None:
        self.plan, self.entries = plan, entries
        self.num_warps = -(-plan.num_threads // WARP_SIZE)
        self.row = _PITCH if self.num_warps <= 16 else 10
        self.top = top + 14
        self.bottom = max(self.top + self.num_warps * self.row, self.top + LEGEND_HEIGHT)
        self.turns: dict[int, list[Step]] = defaultdict(list)
        for step in plan.steps:
            for thread in step.threads:
                self.turns[thread].append(step)

    def draw_background(self, drawing: Drawing) -> None:
        """Draw the empty cells of all threads, and the names of lanes and warps."""
        drawing.text(_LEFT - 8, self.top - 5, "lane", size=11, anchor="end")
        for lane in (0, 8, 16, 24, 31):
            drawing.text(_LEFT + lane * _PITCH + _CELL / 2, self.top - 5, str(lane), size=11, anchor="middle")
        for warp in range(0, self.num_warps, 1 if self.row == _PITCH else 2):
            middle = self.top + (warp + 0.5) * self.row
            drawing.text(_LEFT - 8, middle + 4, f"warp {warp}", size=11, anchor="end")
        self._cells(drawing, range(self.plan.num_threads), State("", opacity=0.12), INK)

    def draw(self, drawing: Drawing, steps: list[Step], column: int) -> None:
        """Mark what each thread is up to in a step, and count the threads in the legend."""
        for row, (name, threads) in enumerate(self._states(steps, column).items()):
            state, colour = STATES[name], RED if name == "stuck" else COLOURS.get(name, INK)
            y = self.top + row * 18
            sample = f"M{_LEGEND} {y + 6:g}h{_CELL}"
            _line(drawing, sample, State("", opacity=0.12), _CELL, INK)
            _line(drawing, sample, state, _CELL, colour)
            self._cells(drawing, threads, state, colour)
            drawing.text(_LEGEND + 18, y + 10, f"{len(threads):,} {state.name}", width=WIDTH - _LEGEND - 18)

    def _states(self, steps: list[Step], column: int) -> dict[str, list[int]]:
        """Return the threads in each state, the states in the order of the legend."""
        found: dict[str, list[int]] = defaultdict(list)
        for step in steps:
            found[self.entries.of(step).kind if step.met else "stuck"] += step.threads
        active = {thread for threads in found.values() for thread in threads}
        for thread in range(self.plan.num_threads):
            if thread not in active:
                found[self._idle(thread, column)].append(thread)
        return {name: found[name] for name in STATES if found[name]}

    def _idle(self, thread: int, column: int) -> str:
        turns = self.turns[thread]
        after = next((step for step in turns if step.column > column), None)
        if after is None:
            return "stuck" if turns and not turns[-1].met else "ended"
        return "turn" if after.kind == "access" else "wait"

    def _cells(self, drawing: Drawing, threads: Iterable[int], state: State, colour: str) -> None:
        path = ""
        for first, last in words.spans(threads):
            for warp in range(first // WARP_SIZE, last // WARP_SIZE + 1):
                start = max(first - warp * WARP_SIZE, 0)
                end = min(last - warp * WARP_SIZE, WARP_SIZE - 1)
                y = self.top + (warp + 0.5) * self.row
                path += f"M{_LEFT + start * _PITCH} {y:g}h{(end - start + 1) * _PITCH - 2}"
        _line(drawing, path, state, self.row - 2, colour)


def _line(drawing: Drawing, path: str, state: State, height: float, colour: str) -> None:
    if state.opacity and path:
        more: dict[str, str] = {"stroke_opacity": str(state.opacity)} if state.opacity < 1 else {}
        drawing.add(
            "path", d=path, stroke=colour, stroke_width=height * state.part, stroke_dasharray=state.dashes, **more
        )
