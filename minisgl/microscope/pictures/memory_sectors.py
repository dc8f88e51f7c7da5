# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:24125614bc0a

"""A picture of a warp's lanes by the 32-byte sectors of memory that they touch."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from minisgl.microscope.pictures import words
from minisgl.microscope.pictures.entries import COLOURS
from minisgl.microscope.pictures.heading import heading
from minisgl.microscope.pictures.window import (
    GLOBAL,
    MOST_REQUESTS,
    WARP_SIZE,
    Request,
    Requests,
    chosen_range,
    chosen_requests,
    pieces,
)
from minisgl.microscope.records import SECTOR_BYTES
from minisgl.svg import INK, WIDTH, Drawing, Picture, number, text_width

if TYPE_CHECKING:
    from minisgl.microscope.records import Figure, Instruction, View

_LEFT, _RIGHT = 76, WIDTH - 10  # of the map of lanes
_LANE_HEIGHT = 9
_MOST_COLUMNS = 64  # 32 lanes of up to 16 bytes touch 32 sectors, or 64 if every one lies across a border
_MOST_BARS = 120
_STRIP_PLACE, _STRIP = 178, 310  # where the columns of the further requests start


def sectors(
    view: "View",
    instruction: "Instruction | Figure | int | str | None" = None,
    *,
    launch: int = 0,
    blocks: int | Iterable[int] | None = None,
    warps: int | Iterable[int] | None = None,
    requests: int | range = 8,
) -> Picture:
    """Draw which lane of a warp touches which 32-byte sector of global memory.

    A GPU moves whole sectors. The first warp request of the window is drawn lane by lane, below a strip of its sectors
    with the bytes that some lane asked for; the following ones as strips; all others as a profile.

    Args:
        view: what `observe` recorded.
        instruction: an instruction or figure of the view, an instruction's number, or words that fit only one: a kind
            (`load`, `store`, `atomic`), an argument, a place (`index.cu:49`). Default: the one that touches most bytes.
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
        "sectors", view, instruction=instruction, spaces=GLOBAL, launch=launch, blocks=blocks, warps=warps
    )
    shown = chosen_range("sectors", "requests", requests, len(window), MOST_REQUESTS)
    first = window[shown.start]
    map_of = SectorMap(first)
    memory = view.memories[int(first.memories[0])].name
    drawing = Drawing(f"Lanes by 32-byte sectors: {words.action(found, memory)}")
    heading(drawing, found, memory, f"{view.launches[launch].function}, block {first.block}, {first.name}")
    _verdict(drawing, map_of)
    _strip_of_first(drawing, map_of, COLOURS[found.kind])
    _lanes(drawing, first, map_of, COLOURS[found.kind])
    _offsets(drawing, view, first, map_of)
    if len(shown) > 1:
        _strips(drawing, view, window, shown[1:], COLOURS[found.kind])
    _rest(drawing, window, shown, COLOURS[found.kind])
    _totals(drawing, view, found, launch)
    return drawing.picture()


class SectorMap:
    """The sectors of one request as columns from left to right, closed up where memory between them is not touched.

    Args:
        request: the request.
        most: columns at most; what lies behind is left out.
    """

    def __init__(self, request: Request, most: int = _MOST_COLUMNS) -> None:
        self.position, self.byte = pieces(request.addresses, request.addresses + request.sizes - 1)
        needed, self.order = np.unique(self.byte, return_index=True)
        every = np.unique(needed // SECTOR_BYTES)
        self.num_sectors, self.bytes_needed = len(every), len(needed)
        self.sectors, self.needed = every[:most], needed
        self.gaps = np.diff(self.sectors, prepend=self.sectors[0] - 1) > 1  # is memory left out before a column?

    def lay_out(self, left: float, right: float, widest: float) -> None:
        """Give the columns their places: `x` of each, and `width`."""
        gap = min(8.0, (right - left) / (4 * len(self.sectors)))
        self.width = min(widest, (right - left - gap * float(self.gaps.sum())) / len(self.sectors))
        self.x = left + self.width * np.arange(len(self.sectors)) + gap * np.cumsum(self.gaps)

    def runs(self, needed: np.ndarray) -> list[tuple[float, float]]:
        """Return where touched bytes lie, as (x, width) of runs of neighbours in one sector, in order."""
        needed = np.unique(needed)
        cuts = np.flatnonzero((np.diff(needed) > 1) | (needed[1:] % SECTOR_BYTES == 0)) + 1
        found = []
        for run in np.split(needed, cuts):
            column = int(np.searchsorted(self.sectors, run[0] // SECTOR_BYTES))
            if column < len(self.sectors):
                start = self.x[column] + self.width * float(run[0] % SECTOR_BYTES) / SECTOR_BYTES
                found.append((float(start), self.width * len(run) / SECTOR_BYTES))
        return found


def _verdict(drawing: Drawing, columns: SectorMap) -> None:
    moved = columns.num_sectors * SECTOR_BYTES
    sectors = f"{words.plural(columns.num_sectors, 'sector')} {words.TIMES} 32 = {words.plural(moved, 'byte')}"
    used = words.percent(columns.bytes_needed, moved)
    verdict = f"Needs {words.plural(columns.bytes_needed, 'byte')}, moves {sectors}: {used} used"
    if columns.num_sectors > (fewest := -(-columns.bytes_needed // SECTOR_BYTES)):
        verdict += f" ({fewest:,} would do)"
    drawing.text(_LEFT, drawing.y + 26, verdict, bold=True)
    drawing.y += 34


def _strip_of_first(drawing: Drawing, columns: SectorMap, colour: str) -> None:
    """Draw the sectors that move, and in them the bytes that are needed."""
    columns.lay_out(_LEFT, _RIGHT, 76)
    drawing.text(_LEFT - 8, drawing.y + 16, "moved", anchor="end")
    _sector_boxes(drawing, columns, drawing.y, 24, colour)
    drawing.y += 24
    left_out = columns.num_sectors - len(columns.sectors)
    if left_out:
        drawing.y += 16
        drawing.text(_LEFT, drawing.y, f"{words.plural(left_out, 'sector')} to the right not shown", faint=True)


def _sector_boxes(drawing: Drawing, columns: SectorMap, y: float, height: float, colour: str) -> None:
    used = [len(bytes_) for bytes_ in np.split(columns.needed, _sector_cuts(columns.needed))][: len(columns.sectors)]
    partly = [x for x, count in zip(columns.x.tolist(), used, strict=True) if count < SECTOR_BYTES]
    drawing.hatch(partly, y, columns.width, height)
    drawing.bars(columns.runs(columns.needed), y, height, colour)
    path = "".join(
        f"M{number(x)} {number(y)}h{number(columns.width)}v{number(height)}h{number(-columns.width)}z"
        for x in columns.x.tolist()
    )
    drawing.add("path", d=path, fill="none", stroke=INK)


def _sector_cuts(needed: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(needed // SECTOR_BYTES)) + 1


def _lanes(drawing: Drawing, request: Request, columns: SectorMap, colour: str) -> None:
    """Draw a row for each lane, with the bytes it touches below their sector."""
    top = drawing.y + 10
    height = WARP_SIZE * _LANE_HEIGHT
    right = float(columns.x[-1]) + columns.width
    for x in columns.x.tolist():
        drawing.add("rect", x=x, y=top, width=columns.width, height=height, fill=INK, fill_opacity=0.05)
    borders = "".join(f"M{number(x)} {number(top)}v{height}" for x in [*columns.x.tolist(), right])
    drawing.add("path", d=borders, stroke=INK, stroke_opacity=0.25)
    for lane in (0, 8, 16, 24, 31):
        middle = top + (lane + 0.5) * _LANE_HEIGHT
        drawing.text(_LEFT - 8, middle + 4, f"lane {lane}", size=11, anchor="end")
        if lane % 8 == 0 and lane:
            line = f"M{_LEFT} {top + lane * _LANE_HEIGHT:.1f}H{right:.1f}"
            drawing.add("path", d=line, stroke=INK, stroke_opacity=0.15)
    for position, lane in enumerate(request.lanes.tolist()):
        for x, width in columns.runs(columns.byte[columns.position == position]):
            y = top + lane * _LANE_HEIGHT + 1
            drawing.add("rect", x=x, y=y, width=max(width, 2), height=_LANE_HEIGHT - 2, fill=colour)
    drawing.y = top + height


def _offsets(drawing: Drawing, view: "View", request: Request, columns: SectorMap) -> None:
    """Name under the columns which element is the first that is touched in each, as far as there is room."""
    first_of = np.concatenate(([0], _sector_cuts(columns.needed)))[: len(columns.sectors)]
    free = 0.0
    drawing.y += 14
    for column, index in enumerate(first_of.tolist()):
        position = int(columns.position[columns.order[index]])
        memory = view.memories[int(request.memories[position])]
        offset = int(columns.needed[index] - request.addresses[position] + request.offsets[position])
        label, x = words.place(memory, offset), float(columns.x[column])
        if column:
            label = label.removeprefix(memory.name)
        width = text_width(label, 11)
        if x >= free and x + width <= WIDTH:
            drawing.add("path", d=f"M{x + 0.5:.1f} {drawing.y - 14:.1f}v5", stroke=INK)
            drawing.text(x, drawing.y, label, size=11)
            free = x + width + 10
    gaps = ". A gap between columns: memory that is not touched" if columns.gaps.any() else ""
    drawing.y += 8
    drawing.lines(
        _LEFT,
        f"Columns: 32-byte sectors in the order of their addresses, each named by its first touched element{gaps}. "
        "Filled: bytes that a lane asks for. Hatched: bytes that move with them unasked.",
        width=WIDTH - _LEFT,
    )


def _strips(drawing: Drawing, view: "View", requests: Requests, shown: range, colour: str) -> None:
    """Draw one line for each further request: its sectors alone."""
    drawing.y += 24
    drawing.text(0, drawing.y, "The next warp requests", bold=True)
    drawing.text(_STRIP_PLACE, drawing.y, "first element", faint=True)
    drawing.text(_STRIP, drawing.y, "sectors moved", faint=True)
    drawing.y += 6
    several_blocks = len(np.unique(requests.rows["block"])) > 1
    for index in shown:
        request = requests[index]
        columns = SectorMap(request)
        columns.lay_out(_STRIP, 530, 12)
        name = f"{request.block}: {request.name}" if several_blocks else request.name
        first = int(request.addresses.argmin())
        label = words.place(view.memories[int(request.memories[first])], int(request.offsets[first]))
        drawing.text(0, drawing.y + 14, f"block {name}" if several_blocks else name, size=11, width=_STRIP_PLACE - 4)
        drawing.text(_STRIP_PLACE, drawing.y + 14, label, size=11, width=_STRIP - _STRIP_PLACE - 4)
        _sector_boxes(drawing, columns, drawing.y + 4, 13, colour)
        moved = columns.num_sectors * SECTOR_BYTES
        figure = f"{columns.num_sectors} {words.TIMES} 32 bytes, {words.percent(columns.bytes_needed, moved)} used"
        drawing.text(_RIGHT, drawing.y + 14, figure, size=11, anchor="end")
        drawing.y += 20


def _rest(drawing: Drawing, requests: Requests, shown: range, colour: str) -> None:
    """Say how many requests are not drawn, and draw a profile of all."""
    left_out = len(requests) - len(shown)
    if not left_out:
        return
    drawing.y += 26
    total = len(requests)
    bins = min(total, _MOST_BARS)
    edges = np.arange(bins + 1) * total // bins
    moved = np.add.reduceat(requests.sectors, edges[:-1]) / np.diff(edges)
    needed = np.add.reduceat(requests.bytes_needed, edges[:-1]) / np.diff(edges) / SECTOR_BYTES
    each = f", {total // bins} or {total // bins + 1} to a bar" if total % bins else f", {total // bins} to a bar"
    drawing.text(0, drawing.y, f"All {total:,} recorded warp requests, {left_out:,} of them not drawn above", bold=True)
    drawing.y += 18
    caption = f"Sectors moved in each{each if total > bins else ''}; filled: what is needed"
    drawing.text(0, drawing.y, caption, faint=True)
    top, height, highest = drawing.y + 8, 44.0, float(max(moved.max(), 1))
    step = (_RIGHT - _LEFT) / bins
    for bar, (mean, part) in enumerate(zip(moved.tolist(), needed.tolist(), strict=True)):
        x, width = _LEFT + bar * step, min(step * 0.8, 20)
        tall, used = height * mean / highest, height * part / highest
        drawing.add("rect", x=x, y=top + height - used, width=width, height=used, fill=colour)
        outline = f"M{x:.1f} {top + height:.1f}v{-tall:.1f}h{width:.1f}v{tall:.1f}"
        drawing.add("path", d=outline, fill="none", stroke=INK, stroke_opacity=0.6)
    drawing.text(_LEFT - 8, top + 9, f"{highest:,.4g}", size=11, anchor="end")
    drawing.text(_LEFT - 8, top + height, "0", size=11, anchor="end")
    drawing.add("path", d=f"M{_LEFT - 4} {top + height:.1f}H{_RIGHT}", stroke=INK, stroke_opacity=0.6)
    drawing.y = top + height + 4


def _totals(drawing: Drawing, view: "View", instruction: "Instruction", launch: int) -> None:
    """Say what the instruction did in the whole launch, of which the record is a part."""
    drawing.y += 8
    for figure in view.figures:
        if figure.launch == launch and figure.instruction == instruction and figure.sectors:
            moved = figure.sectors * SECTOR_BYTES
            drawing.lines(
                0,
                f"The whole launch, {figure.memory.name}: {words.plural(figure.requests, 'warp request')}, needs "
                f"{words.plural(figure.bytes_needed, 'byte')}, moves {words.plural(moved, 'byte')}: "
                f"{words.percent(figure.bytes_needed, moved)} used.",
                width=WIDTH,
            )
    drawing.y += 6
