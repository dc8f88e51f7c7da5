# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:aaeaeb7e9d32

"""Pictures of what the microscope recorded: SVG for a notebook or a page, readable on light and dark backgrounds."""

from minisgl.microscope.pictures.block_steps import steps
from minisgl.microscope.pictures.memory_sectors import sectors
from minisgl.microscope.pictures.shared_banks import banks
from minisgl.microscope.pictures.slider import Slider
from minisgl.microscope.pictures.svg import Picture
from minisgl.microscope.pictures.thread_timeline import timeline

__all__ = ["Picture", "Slider", "banks", "sectors", "steps", "timeline"]
