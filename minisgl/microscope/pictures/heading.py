# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:ddffa3575168

"""The head of a picture of one instruction."""

from typing import TYPE_CHECKING

from minisgl.microscope.pictures import words
from minisgl.svg import WIDTH, Drawing

if TYPE_CHECKING:
    from minisgl.microscope.records import Instruction


def heading(drawing: Drawing, instruction: "Instruction", memory: str, where: str) -> None:
    """Write what happens, where, and the line of source that does it."""
    drawing.text(0, 16, f"The lanes of a warp {words.action(instruction, memory)}", size=15, bold=True, width=WIDTH)
    drawing.text(0, 36, f"{words.source(instruction)}: {where}", width=WIDTH)
    drawing.y = 36
    if code := words.code(instruction):
        drawing.y = 54
        drawing.text(0, drawing.y, code, mono=True, faint=True, width=WIDTH)
