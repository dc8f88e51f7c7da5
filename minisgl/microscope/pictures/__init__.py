# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:f044eae4092d

"""Pictures of what the microscope recorded: SVG for a notebook or a page, readable on light and dark backgrounds."""

from minisgl.microscope.pictures.block_steps import steps
from minisgl.microscope.pictures.memory_sectors import sectors
from minisgl.microscope.pictures.shared_banks import banks
from minisgl.microscope.pictures.slider import Slider
from minisgl.microscope.pictures.thread_timeline import timeline
from minisgl.svg import Picture

__all__ = ["Picture", "Slider", "banks", "sectors", "steps", "timeline"]
