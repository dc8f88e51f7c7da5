# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:a6aa0c47f348

"""Compile a kernel and load it: just in time, one library per list of template arguments, or ahead of time."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tvm_ffi

from minisgl.compile import (
    Target,
    ToolchainError,
    build,
    cuda_target,
    host_target,
    load,
    microscope_target,
    prebuilt,
    sources,
)

TargetName = Literal["host", "cuda", "microscope"]


@dataclass(frozen=True)
class KernelConfig:
    """How a kernel is launched.

    Args:
        num_threads: threads per block, a multiple of 32 up to 1024.
        max_occupancy: at least so many blocks should fit on one multiprocessor at once. The name is Mini-SGLang's;
            CUDA means a minimum by it (`__launch_bounds__`'s second argument).
        use_pdl: programmatic dependent launch, from sm_90 on; ignored on older chips and on the CPU.
        vectors_per_thread: how many of a row's vectors (of up to 16 bytes) one thread carries, which decides how many
            threads share a row; 0 leaves the choice to the kernel, by row size, batch size and device.
    """

    num_threads: int = 128
    max_occupancy: int = 1
    use_pdl: bool = False
    vectors_per_thread: int = 0

    def __post_init__(self) -> None:
        for name, kind in self.__annotations__.items():
            if type(value := getattr(self, name)) is not kind:
                raise TypeError(f"KernelConfig: {name}: expected {kind.__name__}, got {value!r}")
        if self.num_threads % 32 or not 32 <= self.num_threads <= 1024:
            raise ValueError(
                f"KernelConfig: num_threads: expected a multiple of 32 from 32 to 1024, got {self.num_threads}"
            )
        if self.max_occupancy < 1:
            raise ValueError(f"KernelConfig: max_occupancy: expected at least 1, got {self.max_occupancy}")

        if not 0 <= self.vectors_per_thread <= 64:
            raise ValueError(f"KernelConfig: vectors_per_thread: expected 0 to 64, got {self.vectors_per_thread}")

    @property
    def template_args(self) -> tuple[int, int, int, bool]:
        """The values in the order in which every kernel of this package takes them."""
        return self.vectors_per_thread, self.num_threads, self.max_occupancy, self.use_pdl


def make_cpp_args(*args: int | float | bool) -> str:
    """Spell Python numbers as a C++ template argument list: `make_cpp_args(128, True)` is `"128, true"`.

    Raises TypeError for anything but bool, int and float, and ValueError for a float that is not finite.
    """
    return ", ".join(_cpp_literal(arg) for arg in args)


def _cpp_literal(value: int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"make_cpp_args: expected finite numbers, got {value}")
        return repr(float(value))
    raise TypeError(f"make_cpp_args: expected bool, int or float, got {type(value).__name__} {value!r}")


def load_jit(
    name: str,
    *args: int | float | bool | str,
    cuda_files: Sequence[str | Path],
    cuda_wrappers: Sequence[tuple[str, str]],
    target: TargetName | None = None,
    arch: str | None = None,
) -> tvm_ffi.Module:
    """Compile kernels for one list of template arguments, or find them compiled, and load them.

    Args:
        name: a name for the library, used in file names and error messages.
        args: what tells this specialisation from others of the same name; it becomes part of the file name.
        cuda_files: sources, relative to `csrc/jit/`, or absolute.
        cuda_wrappers: pairs of an exported name and the C++ function behind it, such as
            `("indexing", "IndexKernel<8192, 4, 128, 1, false>::run")`.
        target: `"cuda"`, `"host"` (the CPU) or `"microscope"` (the CPU, every memory access recorded by
            `minisgl.microscope`); by default `"cuda"` where PyTorch sees a GPU.
        arch: the GPU architecture, such as `"sm_90"`; by default `MINISGL_CUDA_ARCH`, else that of PyTorch's
            current GPU, whatever device the tensors will be on.

    Returns:
        A module with one attribute per exported name. Its functions take tensors, numbers and None.

    Raises:
        CompileError: the compiler refused a source; its output is the message.
        ToolchainError: there is no compiler, or no GPU to compile for; the message says what to install.
        FileNotFoundError: one of `cuda_files` does not exist.
    """
    files = _below("jit", "load_jit", "cuda_files", cuda_files)
    return load(build(_library_name(name, args), make_unit(files, cuda_wrappers), files, _target(target, arch)))


def load_aot(
    name: str,
    *,
    cpp_files: Sequence[str | Path] = (),
    cuda_files: Sequence[str | Path] = (),
    target: TargetName | None = None,
    arch: str | None = None,
) -> tvm_ffi.Module:
    """Load a library that needs no template arguments, of sources that export their own functions.

    `cpp_files` and `cuda_files` are relative to `csrc/src/`, or absolute. A library of `cpp_files` alone is for the
    CPU: the one that was built with the package is loaded if it is made of what these files hold now, else it is built
    here, by the C++ compiler. The other arguments and the errors are those of `load_jit`.
    """
    files = _below("src", "load_aot", "cpp_files", cpp_files) + _below("src", "load_aot", "cuda_files", cuda_files)
    if not cuda_files:
        if target == "cuda":
            raise ValueError("load_aot: cuda_files: expected at least one for target 'cuda', got none")
        if library := prebuilt.find(name, files, sources.csrc_roots()):
            return load(library)
    try:
        # Without kernels there is nothing for the microscope to see.
        machine = _target(target, arch) if cuda_files else host_target(instrument=False)
    except ToolchainError as error:
        raise ToolchainError(f"load_aot: {name}: no library for its sources came with the package. {error}") from None
    return load(build(name, make_unit(files, ()), files, machine))


def make_unit(files: Sequence[Path], wrappers: Sequence[tuple[str, str]]) -> str:
    """Return the text that is compiled: it includes `files` (relative to `csrc/`) and exports `wrappers`."""
    lines = [f"#include <{file}>" for file in files]
    lines += ["#include <minisgl/ffi.h>"]
    lines += [f"MINISGL_EXPORT({export}, {function});" for export, function in wrappers]
    return "\n".join(lines) + "\n"


def _below(folder: str, function: str, argument: str, files: Sequence[str | Path]) -> list[Path]:
    if isinstance(files, str):
        raise TypeError(f"{function}: {argument}: expected a list of files, got the str {files!r}")
    return [Path(folder, file) for file in files]


def _library_name(name: str, args: Sequence[int | float | bool | str]) -> str:
    suffix = "_".join(str(arg).lower() for arg in args)
    if len(suffix) > 60 or not suffix.replace("_", "").replace(".", "").isalnum():
        suffix = hashlib.sha256(suffix.encode()).hexdigest()[:12] if suffix else ""
    return f"{name}_{suffix}" if suffix else name


def _target(name: TargetName | None, arch: str | None) -> Target:
    if name not in (None, "host", "cuda", "microscope"):
        raise ValueError(f"load_jit: target: expected 'host', 'cuda' or 'microscope', got {name!r}")
    if name == "microscope":
        return microscope_target()
    if name == "host" or (name is None and arch is None and not torch.cuda.is_available()):
        return host_target()
    return cuda_target(arch)
