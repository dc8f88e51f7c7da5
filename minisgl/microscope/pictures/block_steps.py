# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:7737f76fab88

"""A slider over the steps of a block: which threads run, wait or have ended, and what they touch."""

from collections import defaultdict
from typing import TYPE_CHECKING

from minisgl.microscope.pictures import memory_strips, words
from minisgl.microscope.pictures.entries import Entries, Entry, describe, height
from minisgl.microscope.pictures.schedule import Step, schedule
from minisgl.microscope.pictures.slider import Slider
from minisgl.microscope.pictures.thread_map import ThreadMap
from minisgl.microscope.pictures.window import chosen_block, chosen_launch, chosen_range
from minisgl.svg import WIDTH, Drawing

if TYPE_CHECKING:
    from minisgl.microscope.records import View

_MOST_BYTES = 120_000  # of all frames: a picture travels inside a notebook or a page
_MOST_LINES, _MOST_MEMORIES = 4, 8


def steps(view: "View", *, launch: int = 0, block: int | None = None, steps: int | range = 48) -> Slider:
    """Step through a block with a slider: who runs, who waits, who has ended, and which memory is touched.

    In a step each warp does one thing: the lanes of a warp go together, the warps side by side until a barrier holds
    them. Memory is shown as far as the block touches it in the chosen steps, from low to high addresses.

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
    together = {column: _together(by_column[column], entries) for column in columns}
    heights = [sum(height(entry) for entry, _ in found[:_MOST_LINES]) for found in together.values()]
    threads = ThreadMap(plan, entries, 58 + max(heights))
    threads.draw_background(drawing)
    drawing.y = threads.bottom + 18
    strips = memory_strips.strips(view, [step for column in columns for step in by_column[column]])
    for strip in strips[:_MOST_MEMORIES]:
        strip.y = drawing.y
        strip.draw_background(drawing)
        drawing.y += memory_strips.HEIGHT
    background = drawing.take()
    frames: list[str] = []
    for column in columns:
        _say(drawing, together[column], f"Step {column + 1:,} of {plan.num_columns:,}")
        threads.draw(drawing, by_column[column], column)
        for strip in strips[:_MOST_MEMORIES]:
            strip.draw(drawing, by_column[column], entries)
        if frames and sum(map(len, frames)) > _MOST_BYTES:
            break
        frames.append(drawing.take())
    drawing.take()
    _notes(drawing, range(columns.start, columns.start + len(frames)), plan.num_columns, len(strips) - _MOST_MEMORIES)
    notes = drawing.take()
    head, tail = drawing.svg().removesuffix("</svg>") + background + notes, "</svg>"
    return Slider(head, tuple(frames), tail, drawing.title)


def _together(steps: list[Step], entries: Entries) -> list[tuple[Entry, list[Step]]]:
    """Put the warps together that do the same."""
    found: dict[str, tuple[Entry, list[Step]]] = {}
    for step in steps:
        entry = entries.of(step)
        found.setdefault(entry.letter, (entry, []))[1].append(step)
    return list(found.values())


def _say(drawing: Drawing, together: list[tuple[Entry, list[Step]]], title: str) -> None:
    """Write the step's number, and for each source line that runs how many threads and warps are there."""
    drawing.text(0, 40, title, bold=True)
    y = 50
    for entry, steps in together[:_MOST_LINES]:
        threads = sum(len(step.threads) for step in steps)
        describe(drawing, entry, y, f"{words.plural(threads, 'thread')} of {words.plural(len(steps), 'warp')}: ")
        y += height(entry)
    if len(together) > _MOST_LINES:
        more = words.plural(len(together) - _MOST_LINES, "more source line")
        drawing.text(WIDTH, 40, f"and {more}", anchor="end", faint=True)


def _notes(drawing: Drawing, shown: range, total: int, memories: int) -> None:
    """Say what the marks mean and what is left out."""
    if len(shown) < total:
        text = f"Steps {shown.start + 1:,} to {shown.stop:,} of {total:,}; the others are not shown."
        drawing.lines(0, text, width=WIDTH)
    if memories > 0:
        drawing.lines(0, f"{words.plural(memories, 'more tensor')} or shared arrays not shown.", width=WIDTH)
    drawing.lines(
        0,
        "Memory: what this block touches in these steps. Coloured: now. Half as high: in an earlier step. Steps are an "
        "order, not time: the lanes of a warp go together, warps side by side until a barrier holds them.",
        width=WIDTH,
    )
    drawing.y += 6
