"""Figures as a table to read."""

from collections.abc import Sequence

from minisgl.microscope.records import Figure

_HEADINGS = ("line", "", "bytes", "of", "requests", "moved", "needed", "efficiency", "bank conflicts")


def table(figures: Sequence[Figure]) -> str:
    """Return one row of text per figure.

    The columns are the source line, what it does, the bytes per lane, the memory, how many warp requests, the bytes of
    their sectors, the distinct bytes that their lanes asked for, the coalescing efficiency, and the passes through the
    banks of shared memory that conflicts cost. What does not apply is a dash.
    """
    rows = [_HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join("  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in rows)


def _row(figure: Figure) -> tuple[str, ...]:
    source = figure.instruction.source
    shared = figure.memory.space != "global"
    return (
        f"{source.file}:{source.line}",
        figure.instruction.kind,
        str(figure.instruction.size),
        figure.memory.name,
        f"{figure.requests:,}",
        "-" if shared else f"{figure.bytes_moved:,}",
        f"{figure.bytes_needed:,}",
        f"{figure.efficiency:.0%}",
        f"{figure.bank_conflicts:,}" if shared else "-",
    )


def _aligned(text: str, width: int, column: int) -> str:
    """Numbers to the right, words to the left."""
    return text.ljust(width) if column in (0, 1, 3) else text.rjust(width)
