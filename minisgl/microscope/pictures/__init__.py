from minisgl.microscope.pictures.memory_sectors import sectors
from minisgl.microscope.pictures.shared_banks import banks
from minisgl.microscope.pictures.thread_timeline import timeline
