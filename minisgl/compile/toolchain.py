# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:299c18efc11d

"""Which compilers this machine has. Nothing here starts a process: a cached kernel must load without one."""

import hashlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from minisgl.compile.cache import get_or_build
from minisgl.compile.errors import ToolchainError


@dataclass(frozen=True)
class Compiler:
    """A compiler driver, and the flags that it needs on this machine in particular."""

    path: Path
    flags: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Name this very binary, for cache keys: an upgrade changes its size or its date."""
        binary = self.path.resolve()
        stat = binary.stat()
        return f"{binary} {stat.st_size} {stat.st_mtime_ns}"


def find_host_compiler() -> Compiler:
    """Return the C++ compiler: `CXX` if set, else g++, else clang++ on PATH. Raises ToolchainError."""
    if configured := os.environ.get("CXX"):
        if found := shutil.which(configured):
            return Compiler(Path(found))
        raise ToolchainError(
            f"CXX is set to {configured!r}, which is not a command; unset it or name a C++20 compiler."
        )
    for name in ("g++", "clang++"):
        if found := shutil.which(name):
            return Compiler(Path(found))
    raise ToolchainError("No C++ compiler found: install g++ (Debian and Ubuntu: apt install g++) or set CXX.")


def find_gcc() -> Compiler:
    """Return g++: `CXX` if that is one, else g++ on PATH. Raises ToolchainError."""
    for name in (os.environ.get("CXX", ""), "g++"):
        if "g++" in Path(name).name and "clang" not in name and (found := shutil.which(name)):
            return Compiler(Path(found))
    raise ToolchainError("The microscope needs g++ (clang inserts other calls): apt install g++ on Debian and Ubuntu.")


def find_cuda_compiler() -> Compiler:
    """Return nvcc: from `CUDA_HOME` if set, else on PATH, else the PyPI toolkit. Raises ToolchainError."""
    if home := os.environ.get("CUDA_HOME"):
        nvcc = Path(home, "bin", "nvcc")
        if not (nvcc.is_file() and os.access(nvcc, os.X_OK)):
            raise ToolchainError(
                f"CUDA_HOME is {home!r}, which holds no bin/nvcc; unset it or point it at a CUDA toolkit."
            )
        return _with_runtime(nvcc)
    if found := shutil.which("nvcc"):
        return _with_runtime(Path(found))
    if toolkit := pypi_toolkit():
        return _with_runtime(toolkit / "bin" / "nvcc")
    raise ToolchainError(
        'No CUDA compiler found: pip install "minisgl[nvcc]", or install the CUDA toolkit and set CUDA_HOME.'
    )


def pypi_toolkit() -> Path | None:
    """Return the folder of `cuda-toolkit[nvcc,cudart,cccl]` in site-packages. Raises ToolchainError if parts miss."""
    toolkits = [toolkit for folder in _nvidia_folders() for toolkit in folder.glob("cu*") if _has_nvcc(toolkit)]
    if not toolkits:
        return None
    toolkit = max(toolkits)
    missing = [part for part in ("bin/ptxas", "nvvm/bin/cicc") if not (toolkit / part).is_file()]
    if missing or not list((toolkit / "lib").glob("libcudart.so.*")):
        raise ToolchainError(
            f"The CUDA compiler in {toolkit} is incomplete ({', '.join(missing) or 'no CUDA runtime'}): "
            'pip install "minisgl[nvcc]" brings all its parts.'
        )
    return toolkit


def _nvidia_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []


def _has_nvcc(toolkit: Path) -> bool:
    return (toolkit / "bin" / "nvcc").is_file()


def _with_runtime(nvcc: Path) -> Compiler:
    """Add what the linker needs if this toolkit is laid out as a Python package: it has no `libcudart.so`."""
    lib = nvcc.resolve().parents[1] / "lib"
    runtime = sorted(lib.glob("libcudart.so.*"))
    if not runtime or (lib / "libcudart.so").exists():
        return Compiler(nvcc)

    def link(folder: Path) -> None:
        (folder / "libcudart.so").symlink_to(runtime[0])

    stub = get_or_build(f"cudart-{hashlib.sha256(bytes(runtime[0])).hexdigest()[:24]}", "libcudart.so", link)
    return Compiler(nvcc, (f"-L{stub.parent}", f"-L{lib}", f"-Xlinker=-rpath,{lib}"))
