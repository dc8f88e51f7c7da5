# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:b703a2d98408

"""Run a kernel on the CPU and see every memory access of every thread: what is wrong, what it costs, how it looks."""

from minisgl.microscope.findings import Finding
from minisgl.microscope.observe import observe
from minisgl.microscope.records import Figure, Instruction, Launch, Memory, Source, View

__all__ = ["Figure", "Finding", "Instruction", "Launch", "Memory", "Source", "View", "observe"]
