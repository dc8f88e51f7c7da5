# Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:f1b899ae70aa

"""What the microscope recorded of the launches of one observation."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from minisgl.microscope.figures import Table
    from minisgl.microscope.findings import Finding

SECTOR_BYTES = 32

ACCESS = np.dtype(
    [
        ("block", "<u8"),  # linear: x + gridDim.x * (y + gridDim.y * z)
        ("address", "<u8"),
        ("offset", "<i8"),  # from the first byte of the memory
        ("step", "<u4"),  # running number shared with events: the order in which the CPU executed them
        ("execution", "<u4"),  # the thread executes the instruction for the k-th time in its block, from 0
        ("launch", "<u2"),
        ("thread", "<u2"),  # linear: x + blockDim.x * (y + blockDim.y * z)
        ("instruction", "<u2"),
        ("memory", "<u2"),
        ("size", "<u4"),  # bytes
        ("phase", "<u4"),  # how many __syncthreads the block has passed
    ]
)

EVENT = np.dtype(
    [
        ("block", "<u8"),
        ("step", "<u4"),
        ("mask", "<u4"),  # arrived: the lanes it waits for; warp met: the lanes that met
        ("launch", "<u2"),
        ("thread", "<u2"),  # warp met: the warp's first thread; block met: 0
        ("site", "<u2"),  # arrived: an index into View.sites
        ("kind", "u1"),  # ARRIVED, BLOCK_MET or WARP_MET
        ("wait", "u1"),  # arrived: the enum Wait of csrc/host/runtime.h
    ]
)
ARRIVED, BLOCK_MET, WARP_MET = range(3)


@dataclass(frozen=True)
class Source:
    """A line of kernel source.

    Attributes:
        file: relative to the repository.
        line: from 1.
        function: that it belongs to, without template arguments.
        chapter: that the file is exported from, or `""`.
        text: of the line, without the space around it; `""` if the file is not there.
    """

    file: str
    line: int
    function: str = ""
    chapter: str = ""
    text: str = ""

    def __str__(self) -> str:
        chapter = f" (chapter {self.chapter})" if self.chapter else ""
        return f"{self.file}:{self.line}{chapter}"


@dataclass(frozen=True)
class Instruction:
    """One place in the machine code that touches memory.

    Attributes:
        index: its place in `View.instructions`.
        kind: `"load"`, `"store"`, `"atomic"`, or `"check"`, which touches nothing.
        size: bytes per lane.
        sources: the line itself, then the line that the function around it is called from, and so on to the kernel.
        library: the compiled file.
        address: in that file.
    """

    index: int
    kind: str
    size: int
    sources: tuple[Source, ...]
    library: str = ""
    address: int = 0

    @property
    def source(self) -> Source:
        """The line itself."""
        return self.sources[0]

    @property
    def place(self) -> str:
        """All lines in words, from the inside to the kernel."""
        return ", called from ".join(map(str, self.sources))

    def __str__(self) -> str:
        return f"{self.kind} of {count(self.size, 'byte')} at {self.place}"


@dataclass(frozen=True)
class Memory:
    """Memory that a launch may touch.

    Attributes:
        index: its place in `View.memories`.
        launch: index of the launch.
        space: `"global"` (a tensor argument), `"shared"` (an array) or `"dynamic shared"`.
        name: of the argument or array; `"argument 2"` if the launcher gives none.
        position: of a tensor among the arguments; -1 of shared memory.
        shape: elements; of shared memory its bytes.
        strides: in elements.
        dtype: `"float16"`, ...; `""` for shared memory.
        itemsize: bytes per element.
        address: of the first byte.
        span_bytes: from the first byte to behind the last.
        bytes_read: distinct bytes of a tensor that the launch read.
        bytes_written: distinct bytes of a tensor that the launch wrote.
    """

    index: int
    launch: int
    space: str
    name: str
    position: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    itemsize: int
    address: int
    span_bytes: int
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        index: its place in `View.launches`.
        function: the exported function that launched it, such as `"indexing"`.
        grid: blocks in x, y, z.
        block: threads of a block in x, y, z.
        dynamic_shared_bytes: asked for by the launch.
        finished: False if it failed, or was ended because of a finding.
    """

    index: int
    function: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_shared_bytes: int = 0
    finished: bool = True

    @property
    def num_blocks(self) -> int:
        """Blocks in the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def num_threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


@dataclass(frozen=True)
class Figure:
    """What one instruction of one launch asked of one memory.

    A request is what the lanes of a warp ask for when they execute the instruction for the k-th time.

    Attributes:
        launch: index of the launch.
        instruction: which one.
        memory: which one.
        accesses: how many lanes executed it, summed over requests.
        bytes: that they asked for.
        requests: how many. What is longer than 16 bytes, or of an odd size, is asked for in pieces of 1 to 16 bytes, as
            its address allows, and each counts as an execution.
        bytes_needed: the distinct bytes of each request, summed.
        sectors: the distinct 32-byte sectors of each request, summed; 0 for shared memory.
        ideal_sectors: the fewest that those bytes would fit into.
        wavefronts: passes through the 32 banks of shared memory, summed; 0 for global memory.
        ideal_wavefronts: without conflicts.
    """

    launch: int
    instruction: Instruction
    memory: Memory
    accesses: int
    bytes: int
    requests: int
    bytes_needed: int
    sectors: int = 0
    ideal_sectors: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0

    @property
    def bytes_moved(self) -> int:
        """Bytes of the sectors; 0 for shared memory."""
        return self.sectors * SECTOR_BYTES

    @property
    def efficiency(self) -> float:
        """Coalescing efficiency: the fewest possible sectors (or wavefronts) over those that were needed, at most 1."""
        if self.sectors:
            return self.ideal_sectors / self.sectors
        return self.ideal_wavefronts / self.wavefronts if self.wavefronts else 1.0

    @property
    def bank_conflicts(self) -> int:
        """Passes through the banks that conflicts cost; 0 for global memory."""
        return self.wavefronts - self.ideal_wavefronts


@dataclass(frozen=True)
class Site:
    """Where a barrier or warp collective is called: `View.events` refer to these."""

    index: int
    function: str
    file: str
    line: int
    chapter: str = ""


@dataclass(frozen=True)
class View:
    """What `observe` saw.

    Attributes:
        launches: in order.
        memories: tensor arguments and shared arrays, of each launch.
        instructions: that touched them.
        figures: one per launch, instruction and memory, in the order of execution.
        findings: what is wrong; empty for a kernel without a fault in what it did this time.
        accesses: of the window of blocks, of dtype `ACCESS`, in the order of execution.
        events: arrivals at barriers and collectives in the window, of dtype `EVENT`.
        sites: where those are called.
        notes: what was left out, in words.
        result: what the observed function returned; None if a launch failed.
        error: the error of a launch that failed, or was ended because of a finding.
    """

    launches: list[Launch]
    memories: list[Memory]
    instructions: list[Instruction]
    figures: list[Figure]
    findings: list["Finding"]
    accesses: np.ndarray
    events: np.ndarray
    sites: list[Site]
    notes: list[str] = field(default_factory=list)
    result: object = None
    error: Exception | None = None

    @cached_property
    def bytes_needed(self) -> int:
        """Distinct bytes of tensors that each launch read, and those that it wrote, summed over launches."""
        return sum(memory.bytes_read + memory.bytes_written for memory in self.memories)

    @cached_property
    def bytes_moved(self) -> int:
        """Bytes of all sectors that the requests touched, as if there were no cache."""
        return sum(figure.bytes_moved for figure in self.figures)

    def table(self) -> "Table":
        """Return the figures as text, one row per instruction and memory; a notebook shows it as an HTML table."""
        from minisgl.microscope.figures import table

        return table(self.figures)

    def sectors(self, *args: Any, **kwargs: Any) -> object:
        """Draw warps by the memory sectors they touch: `minisgl.microscope.pictures.sectors`."""
        return self._draw("sectors", *args, **kwargs)

    def banks(self, *args: Any, **kwargs: Any) -> object:
        """Draw lanes by the banks of shared memory: `minisgl.microscope.pictures.banks`."""
        return self._draw("banks", *args, **kwargs)

    def timeline(self, *args: Any, **kwargs: Any) -> object:
        """Draw the lives of some threads: `minisgl.microscope.pictures.timeline`."""
        return self._draw("timeline", *args, **kwargs)

    def steps(self, *args: Any, **kwargs: Any) -> object:
        """Draw a block step by step: `minisgl.microscope.pictures.steps`."""
        return self._draw("steps", *args, **kwargs)

    def _draw(self, picture: str, *args: Any, **kwargs: Any) -> object:
        from minisgl.microscope import pictures

        return getattr(pictures, picture)(self, *args, **kwargs)


def count(number: int, noun: str) -> str:
    """Return `"1 byte"` or `"2 bytes"`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
