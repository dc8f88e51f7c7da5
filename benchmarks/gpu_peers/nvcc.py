"""Compile a peer's kernel as our own are compiled, with its headers."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tvm_ffi
from tvm_ffi import libinfo

from minisgl.compile import cuda_target


def compile_peer(unit: str, include: Sequence[Path], flags: Sequence[str] = ()) -> tvm_ffi.Module:
    """Compile the CUDA text `unit` for the current GPU and load it. Raises RuntimeError with nvcc's output."""
    target = cuda_target()
    folders = [*include, *map(Path, libinfo.include_paths())]
    folder = Path(tempfile.mkdtemp(prefix="minisgl-peer-"))
    source, library = folder / "peer.cu", folder / "peer.so"
    source.write_text(unit)
    command = target.command(source, library, folders, [Path(libinfo.find_libtvm_ffi())])
    result = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr or result.stdout)
    return tvm_ffi.load_module(str(library))
