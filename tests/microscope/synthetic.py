"""Records as the microscope would make them, of kernels written as Python generators: one per thread."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from minisgl.microscope.records import (
    ACCESS,
    EVENT,
    Figure,
    Instruction,
    Launch,
    Memory,
    Site,
    Source,
    View,
)

FILE = "csrc/jit/demo.cu"
_WAITS = {"__syncthreads": 0, "__syncwarp": 4, "__shfl_xor_sync": 8, "__ballot_sync": 9}


@dataclass(frozen=True)
class Access:
    """What a thread yields to touch memory: `line` and `kind` make an instruction."""

    kind: str
    memory: str
    offset: int
    size: int
    line: int


@dataclass(frozen=True)
class Wait:
    """What a thread yields to wait at a barrier or warp collective."""

    function: str
    line: int
    mask: int = 0xFFFFFFFF

    @property
    def whole_block(self) -> bool:
        return self.function == "__syncthreads"


Thread = Callable[[int, int], Iterator[Access | Wait]]  # block, thread -> its life


@dataclass
class Recorder:
    """Makes a view of one launch.

    Args:
        num_threads: of a block.
        num_blocks: all of them are recorded.
        code: source text by line.
    """

    num_threads: int = 32
    num_blocks: int = 1
    code: dict[int, str] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    instructions: dict[tuple[str, int, int], Instruction] = field(default_factory=dict)
    sites: dict[tuple[str, int], Site] = field(default_factory=dict)
    accesses: list[tuple[int, ...]] = field(default_factory=list)
    events: list[tuple[int, ...]] = field(default_factory=list)
    step: int = 0

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "float32", address: int = 0) -> str:
        itemsize = int(dtype[-2:]) // 8
        strides = tuple(int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape)))
        self._memory("global", name, shape, strides, dtype, itemsize, address, int(np.prod(shape)) * itemsize)
        return name

    def shared(self, name: str, size: int) -> str:
        self._memory("shared", name, (size,), (1,), "", 1, 0, size)
        return name

    def _memory(
        self,
        space: str,
        name: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: str,
        itemsize: int,
        address: int,
        size: int,
    ) -> None:
        index = len(self.memories)
        self.memories.append(
            Memory(
                index=index,
                launch=0,
                space=space,
                name=name,
                position=index if space == "global" else -1,
                shape=shape,
                strides=strides,
                dtype=dtype,
                itemsize=itemsize,
                address=address or 0x100000 * (index + 1),
                span_bytes=size,
                bytes_read=0,
                bytes_written=0,
            )
        )

    def run(self, thread: Thread) -> "Recorder":
        """Run all blocks: each thread until it waits, and on when those it waits for have come."""
        for block in range(self.num_blocks):
            self._run_block(block, {index: thread(block, index) for index in range(self.num_threads)})
        return self

    def _run_block(self, block: int, lives: dict[int, Iterator[Access | Wait]]) -> None:
        waiting: dict[int, Wait] = {}
        executions: dict[tuple[int, int], int] = {}
        phase = 0
        while lives:
            for index in sorted(set(lives) - set(waiting)):
                for found in lives[index]:
                    self.step += 1
                    if isinstance(found, Wait):
                        site = self._site(found).index
                        wait = _WAITS[found.function]
                        self.events.append((block, self.step, found.mask, 0, index, site, 0, wait))
                        waiting[index] = found
                        break
                    self._access(block, index, phase, found, executions)
                else:
                    del lives[index]
            if len(waiting) == self.num_threads and all(wait.whole_block for wait in waiting.values()):
                self.step += 1
                self.events.append((block, self.step, 0, 0, 0, 0xFFFF, 1, 0))
                phase += 1
                waiting.clear()
            elif lives and not self._release_warps(block, lives, waiting):
                break

    def _release_warps(self, block: int, lives: dict[int, Iterator[Access | Wait]], waiting: dict[int, Wait]) -> bool:
        released = False
        for first in range(0, self.num_threads, 32):
            lanes = [lane for lane in range(first, first + 32) if lane in lives]
            for wait in {waiting[lane] for lane in lanes if lane in waiting}:
                named = [lane for lane in lanes if wait.mask >> (lane - first) & 1]
                if not wait.whole_block and all(waiting.get(lane) == wait for lane in named):
                    released = True
                    for lane in named:
                        del waiting[lane]
        return released

    def _access(
        self, block: int, thread: int, phase: int, found: Access, executions: dict[tuple[int, int], int]
    ) -> None:
        memory = next(memory for memory in self.memories if memory.name == found.memory)
        key = (found.kind, found.line, found.size)
        if key not in self.instructions:
            source = Source(file=FILE, line=found.line, function="demo", chapter="", text=self.code.get(found.line, ""))
            self.instructions[key] = Instruction(
                index=len(self.instructions),
                kind=found.kind,
                size=found.size,
                sources=(source,),
                library="demo.so",
                address=len(self.instructions),
            )
        index = self.instructions[key].index
        execution = executions.get((thread, index), 0)
        executions[thread, index] = execution + 1
        place = (block, memory.address + found.offset, found.offset, self.step, execution)
        self.accesses.append((*place, 0, thread, index, memory.index, found.size, phase))

    def _site(self, wait: Wait) -> Site:
        key = (wait.function, wait.line)
        return self.sites.setdefault(key, Site(len(self.sites), wait.function, FILE, wait.line, ""))

    def view(self, figures: tuple[Figure, ...] = (), finished: bool = True, error: Exception | None = None) -> View:
        launch = Launch(
            index=0,
            function="demo",
            grid=(self.num_blocks, 1, 1),
            block=(self.num_threads, 1, 1),
            dynamic_shared_bytes=0,
            finished=finished,
        )
        return View(
            launches=[launch],
            memories=self.memories,
            instructions=list(self.instructions.values()),
            figures=list(figures),
            findings=[],
            accesses=np.array(self.accesses, ACCESS),
            events=np.array(self.events, EVENT),
            sites=list(self.sites.values()),
            notes=[],
            result=None,
            error=error,
        )


def load(memory: str, offset: int, size: int = 4, line: int = 10) -> Access:
    return Access("load", memory, offset, size, line)


def store(memory: str, offset: int, size: int = 4, line: int = 20) -> Access:
    return Access("store", memory, offset, size, line)


def strided(stride: int, start: int = 0, size: int = 4) -> View:
    """One warp, whose lane i loads `size` bytes at byte `start + i * stride`."""
    recorder = Recorder(code={10: "const float x = values[i * stride + start];"})
    recorder.tensor("values", (65536,))
    return recorder.run(lambda block, thread: iter([load("values", start + thread * stride, size)])).view()


def transpose(pitch: int) -> View:
    """A tile of 32 x 32 floats: written to shared memory by rows of `pitch` floats, read by columns. 32 x 8 threads."""
    recorder = Recorder(256, 2, code={10: "tile[y + j][x] = in[...];", 30: "out[...] = tile[x][y + j];"})
    recorder.tensor("input", (32, 64))
    recorder.tensor("output", (64, 32))
    recorder.shared("tile", 32 * pitch * 4)

    def life(block: int, thread: int) -> Iterator[Access | Wait]:
        x, y = thread % 32, thread // 32
        for j in range(0, 32, 8):
            yield load("input", ((y + j) * 64 + block * 32 + x) * 4, line=10)
            yield store("tile", ((y + j) * pitch + x) * 4, line=10)
        yield Wait("__syncthreads", 20)
        for j in range(0, 32, 8):
            yield load("tile", (x * pitch + y + j) * 4, line=30)
            yield store("output", ((block * 32 + y + j) * 32 + x) * 4, line=30)

    return recorder.run(life).view()


def rows(num_blocks: int = 16, row_bytes: int = 512, seed: int = 0) -> View:
    """An index kernel: each warp of 4 copies one row of a table, 16 bytes a lane, from a random place."""
    index = np.random.default_rng(seed).integers(0, 1000, num_blocks * 4)
    recorder = Recorder(128, num_blocks, code={10: "values[i] = from[i * kWarpSize];", 11: "indices[i * stride]"})
    recorder.tensor("weights", (1000, row_bytes // 2), "float16")
    recorder.tensor("indices", (num_blocks * 4,), "int32")
    recorder.tensor("output", (num_blocks * 4, row_bytes // 2), "float16")

    def life(block: int, thread: int) -> Iterator[Access | Wait]:
        warp, lane = block * 4 + thread // 32, thread % 32
        yield load("indices", warp * 4, 4, 11)
        for part in range(0, row_bytes, 512):
            yield load("weights", int(index[warp]) * row_bytes + part + lane * 16, 16, 10)
        for part in range(0, row_bytes, 512):
            yield store("output", warp * row_bytes + part + lane * 16, 16, 20)

    return recorder.run(life).view()


def norm(num_threads: int = 256, width: int = 4096) -> View:
    """An RMSNorm of one row of 16-bit values per block: sums in a warp by shuffles, in the block by shared memory."""
    recorder = Recorder(
        num_threads, 2, code={10: "const uint4 x = row[i];", 15: "partial[warp] = sum;", 31: "out[i] = y;"}
    )
    recorder.tensor("input", (2, width), "float16")
    recorder.tensor("output", (2, width), "float16")
    recorder.shared("partial", num_threads // 32 * 4)

    def life(block: int, thread: int) -> Iterator[Access | Wait]:
        for i in range(thread, width // 8, num_threads):
            yield load("input", (block * width + i * 8) * 2, 16, 10)
        for _ in range(5):
            yield Wait("__shfl_xor_sync", 12)
        if thread % 32 == 0:
            yield store("partial", thread // 32 * 4, 4, 15)
        yield Wait("__syncthreads", 17)
        for warp in range(num_threads // 32):
            yield load("partial", warp * 4, 4, 19)
        for i in range(thread, width // 8, num_threads):
            yield store("output", (block * width + i * 8) * 2, 16, 31)

    return recorder.run(life).view()


def guarded(num_elements: int = 100) -> View:
    """One element per thread, 128 threads: those behind the end return at once."""
    recorder = Recorder(128, code={10: "if (i >= n) return;"})
    recorder.tensor("input", (num_elements,))
    recorder.tensor("output", (num_elements,))

    def life(_: int, thread: int) -> Iterator[Access | Wait]:
        if thread < num_elements:
            yield load("input", thread * 4)
            yield store("output", thread * 4)

    return recorder.run(life).view()


def divergent() -> View:
    """A barrier behind a condition: 48 of 64 threads come, the others go on to their end. The launch fails."""
    recorder = Recorder(64, code={20: "__syncthreads();"})
    recorder.tensor("input", (64,))

    def life(_: int, thread: int) -> Iterator[Access | Wait]:
        yield load("input", thread * 4)
        if thread < 48:
            yield Wait("__syncthreads", 20)
            yield store("input", thread * 4)

    error = RuntimeError("divergent barrier: 48 threads wait at __syncthreads demo.cu:20; 16 have ended")
    return recorder.run(life).view(finished=False, error=error)


def random_life(seed: int = 1) -> View:
    """Every lane of a warp does something else."""
    recorder = Recorder(64)
    recorder.tensor("input", (4096,))
    lines = np.random.default_rng(seed).integers(1, 40, (64, 40))

    def life(_: int, thread: int) -> Iterator[Access | Wait]:
        for line in lines[thread].tolist():
            yield load("input", (thread * 64 + line) * 4, 4, line)
        yield Wait("__syncthreads", 50)
        yield store("input", thread * 4, 4, 51)

    return recorder.run(life).view()


def long_loop(rounds: int = 64) -> View:
    """A tile after the other through shared memory, as in a matrix product."""
    recorder = Recorder(64)
    recorder.tensor("input", (4096,))
    recorder.shared("tile", 256)

    def life(_: int, thread: int) -> Iterator[Access | Wait]:
        for index in range(rounds):
            yield load("input", (index * 64 + thread) * 4, 4, 10)
            yield store("tile", thread * 4, 4, 11)
            yield Wait("__syncthreads", 12)
            yield load("tile", (63 - thread) * 4, 4, 13)
            yield Wait("__syncthreads", 14)
        yield store("input", thread * 4, 4, 16)

    return recorder.run(life).view()
