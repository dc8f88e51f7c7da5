# Exported from notebooks/03_one_source_two_machines.md by "minisgl book export"; edit it there. sha256:73cae442098f

"""The two machines that one kernel source is compiled for: an NVIDIA GPU, and the CPU that runs this process."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from minisgl.compile.errors import ToolchainError
from minisgl.compile.toolchain import Compiler, find_cuda_compiler, find_host_compiler

_SANITIZERS = ("address", "undefined")


@dataclass(frozen=True)
class Target:
    """A machine to compile for.

    Attributes:
        name: `"host"`, or `"cuda-"` and the architecture.
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

    def command(self, source: Path, output: Path, include: list[Path], libraries: list[Path]) -> list[str]:
        """Return the one command that turns `source` into `output`."""
        command = [str(self.compiler.path), *self.flags, *(f"-I{folder}" for folder in include), str(source)]
        if self.linker:
            command += map(str, libraries)
            command += [f"{self.linker}-rpath,{library.parent}" for library in libraries]
            command += self.compiler.flags
        return [*command, "-o", str(output)]


def host_target() -> Target:
    """Compile kernels for the CPU. `MINISGL_SANITIZE=address` or `undefined` adds that sanitizer's checks."""
    # -fno-strict-aliasing: CUDA code reads any tensor through vector types, and nvcc allows it.
    flags = ["-std=c++20", "-O3", "-g1", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing"]
    flags += ["-Wl,-z,defs"]  # a missing function is a linker's message here, not the end of the process later
    flags += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-fmax-errors=3"]
    if sanitizer := os.environ.get("MINISGL_SANITIZE"):
        if sanitizer not in _SANITIZERS:
            raise ValueError(
                f"host_target: MINISGL_SANITIZE: expected one of {', '.join(_SANITIZERS)}, got {sanitizer!r}"
            )
        if sanitizer == "address" and "libasan" not in Path("/proc/self/maps").read_text():
            raise ToolchainError(
                "MINISGL_SANITIZE=address: its library must be loaded before Python: start with "
                'LD_PRELOAD="$(g++ -print-file-name=libasan.so)"'
            )
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    return Target("host", find_host_compiler(), tuple(flags), ".cpp", "-Wl,")


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
