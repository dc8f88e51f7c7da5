# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:ed6e11726669

"""Compilers, the build cache, and the two targets that kernels are built for."""

from minisgl.compile.build import build, load
from minisgl.compile.errors import CompileError, ToolchainError
from minisgl.compile.targets import Target, cuda_target, host_target, microscope_target

__all__ = [
    "CompileError",
    "Target",
    "ToolchainError",
    "build",
    "cuda_target",
    "host_target",
    "load",
    "microscope_target",
]
