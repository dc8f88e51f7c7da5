# Exported from notebooks/03_one_source_two_machines.md by "minisgl book export"; edit it there. sha256:103ff0717c83

"""The two machines that one kernel source is compiled for: an NVIDIA GPU, and the CPU that runs this process."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minisgl.compile import sources
from minisgl.compile.errors import ToolchainError
from minisgl.compile.toolchain import Compiler, find_cuda_compiler, find_gcc, find_host_compiler

_SANITIZERS = ("address", "undefined")
_instrumented = False


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
        name: `"host"`, `"microscope"`, or `"cuda-"` and the architecture.
        compiler: the compiler driver.
        flags: what it is called with, apart from files and folders.
        suffix: of the file that is compiled; it tells the compiler the language.
        linker: the prefix that hands an option on to the linker, or None if nothing is linked.
    """

    name: str
    compiler: Compiler
    flags: tuple[str, ...]
    suffix: str
    linker: str | None

    @property
    def is_host(self) -> bool:
        """Whether the code runs on this machine's CPU."""
        return not self.name.startswith("cuda")

    def command(self, source: Path, output: Path, include: Sequence[Path], libraries: Sequence[Path]) -> list[str]:
        """Return the one command that turns `source` into `output`."""
        command = [str(self.compiler.path), *self.flags, *(f"-I{folder}" for folder in include), str(source)]
        if self.linker:
            command += map(str, libraries)
            command += [f"{self.linker}-rpath,{library.parent}" for library in libraries]
            command += self.compiler.flags
        return [*command, "-o", str(output)]

    def preprocess(self, source: Path, output: Path, include: Sequence[Path]) -> list[str]:
        """Return the command that only expands includes and macros."""
        folders = [f"-I{folder}" for folder in include]
        return [str(self.compiler.path), *self.flags, *folders, "-E", str(source), "-o", str(output)]


def host_target(*, instrument: bool = True) -> Target:
    """Compile kernels for the CPU; inside `instrumented`, for the microscope, unless `instrument` is False.

    `MINISGL_SANITIZE=address`, `undefined` or `address,undefined` adds these sanitizers' checks. With
    `MINISGL_HOST_THREADS` above 1 the blocks of a grid run on so many threads of this machine.
    """
    if _instrumented and instrument:
        return microscope_target()
    flags = ["-O3", "-g1", "-shared", *_HOST_FLAGS]
    flags += ["-Wl,-z,defs"]  # a missing function is a linker's message here, not the end of the process later
    if num_host_threads() > 1:
        flags += ["-DMINISGL_HOST_PARALLEL", "-pthread"]
    if configured := os.environ.get("MINISGL_SANITIZE"):
        sanitizers = configured.split(",")
        if not set(sanitizers) <= set(_SANITIZERS):
            raise ValueError(
                f"host_target: MINISGL_SANITIZE: expected {' or '.join(_SANITIZERS)} or both with a comma, "
                f"got {configured!r}"
            )
        if "address" in sanitizers and "libasan" not in Path("/proc/self/maps").read_text():
            raise ToolchainError(
                "MINISGL_SANITIZE=address: its library, and that of C++, must be loaded before Python: start with "
                'LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"'
            )
        flags += [f"-fsanitize={configured}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    return Target("host", find_host_compiler(), tuple(flags), ".cpp", "-Wl,")


# -fno-strict-aliasing: CUDA code reads any tensor through vector types, and nvcc allows it.
# A kernel has no floating-point traps, no errno, and here the same roundings on every processor: nothing is fused.
_HOST_FLAGS = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing"]
_HOST_FLAGS += ["-fno-trapping-math", "-fno-math-errno", "-ffp-contract=off"]
_HOST_FLAGS += ["-fstack-clash-protection"]  # a huge local array meets the guard page, not another thread's stack
_HOST_FLAGS += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-fmax-errors=3"]


def num_host_threads() -> int:
    """Return `MINISGL_HOST_THREADS`, by default 1. Raises ValueError if it is no number from 1 to 1024."""
    text = os.environ.get("MINISGL_HOST_THREADS") or "1"
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1024):
        raise ValueError(f"host_target: MINISGL_HOST_THREADS: expected a number from 1 to 1024, got {text!r}")
    return int(text)


def microscope_target() -> Target:
    """Compile kernels for the CPU with a call in front of every memory access. Raises ToolchainError without g++.

    The calls are those that g++ inserts for ThreadSanitizer and UndefinedBehaviorSanitizer. Their libraries are not
    linked (`-nodefaultlibs`): the microscope's recorder has functions of the same names. Optimisations that join or
    split accesses are off, and small functions are inlined, so that an access names its caller.
    """
    flags = ["-O1", "-fno-tree-sra", "-fno-tree-vectorize", "-finline-functions", "-finline-small-functions"]
    flags += ["-g1", "-shared", *_HOST_FLAGS, "-Wno-tsan", "-DMINISGL_MICROSCOPE", "-nodefaultlibs"]
    flags += ["-fsanitize=thread", "-fsanitize=alignment,bounds,signed-integer-overflow,integer-divide-by-zero"]
    flags += ["-Wl,-z,defs", *(f"-Wl,--wrap={name}" for name in ("memcpy", "memmove", "memset"))]
    compiler = dataclasses.replace(find_gcc(), flags=("-lstdc++", "-lm", "-lc", "-lgcc_s", "-lgcc"))
    return Target("microscope", compiler, tuple(flags), ".cpp", "-Wl,")


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """Compile and load kernels for the CPU with the microscope's calls inside; every kernel is loaded anew."""
    global _instrumented
    _instrumented = True
    sources.next_generation()
    try:
        yield
    finally:
        _instrumented = False
        sources.next_generation()


def cuda_target(arch: str | None = None, *, machine_code_only: bool = False) -> Target:
    """Compile kernels for the GPU architecture `arch`, such as `"sm_90"`; by default see `cuda_arch`.

    With `machine_code_only` the result is a cubin to read, not a library to load, and the assembler reports on it.
    """
    arch = arch or cuda_arch()
    number = arch.removeprefix("sm_")
    digits = number.rstrip("af")  # sm_90a: the features of that chip alone
    if not arch.startswith("sm_") or not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"cuda_target: arch: expected an architecture such as 'sm_90', got {arch!r}")
    flags = ["-std=c++20", "-O3", "-lineinfo", "--expt-relaxed-constexpr"]
    flags += ["-cubin", "-Xptxas=-v"] if machine_code_only else ["-shared", "-cudart=shared"]
    flags += [f"-gencode=arch=compute_{number},code=sm_{number}", f"-DMINISGL_CUDA_ARCH={digits}0"]
    flags += ["-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-unknown-pragmas"]
    return Target(f"cuda-{arch}", find_cuda_compiler(), tuple(flags), ".cu", None if machine_code_only else "-Xlinker=")


def cuda_arch(device: torch.device | None = None) -> str:
    """Return `MINISGL_CUDA_ARCH` if set (`"sm_90"` or `"9.0"`), else that of `device`, by default the current GPU.

    Raises ToolchainError if there is no GPU.
    """
    if configured := os.environ.get("MINISGL_CUDA_ARCH"):
        return configured if configured.startswith("sm_") else f"sm_{configured.replace('.', '')}"
    if not torch.cuda.is_available():
        raise ToolchainError("No GPU to compile for: set MINISGL_CUDA_ARCH, for example to sm_90.")
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
