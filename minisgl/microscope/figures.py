# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:255be735f11a

"""Figures as a table to read."""

from collections.abc import Sequence
from html import escape

from minisgl.microscope.records import Figure

_HEADINGS = ("line", "", "bytes", "of", "requests", "moved", "needed", "efficiency", "bank conflicts")
_WORDS = (0, 1, 3)  # columns of words stand to the left, numbers to the right


class Table(str):
    """Columns of text, which a notebook shows as an HTML table where it is the last value of a cell."""

    rows: Sequence[Sequence[str]]

    def _repr_html_(self) -> str:
        headings, *rows = self.rows
        body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
        return f"<table><thead><tr>{_cells('th', headings)}</tr></thead><tbody>{body}</tbody></table>"


def table(figures: Sequence[Figure]) -> Table:
    """Return one row of text per figure.

    The columns are the source line, what it does, the bytes per lane, the memory, how many warp requests, the bytes of
    their sectors, the distinct bytes that their lanes asked for, the coalescing efficiency, and the passes through the
    banks of shared memory that conflicts cost. What does not apply is a dash.
    """
    rows = [_HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    text = Table("\n".join("  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in rows))
    text.rows = rows
    return text


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
    return text.ljust(width) if column in _WORDS else text.rjust(width)


def _cells(tag: str, row: Sequence[str]) -> str:
    """Return a row of HTML. Of a file its name is enough: a table should fit beside other things on a page."""
    row = [row[0].rpartition("/")[2], *row[1:]]
    sides = ("left" if column in _WORDS else "right" for column in range(len(row)))
    opening = '<{} style="text-align:{};min-width:0;padding:.4em .8em">'
    return "".join(f"{opening.format(tag, side)}{escape(text)}</{tag}>" for side, text in zip(sides, row, strict=True))
