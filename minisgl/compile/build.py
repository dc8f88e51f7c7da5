# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:62600fbeec14

"""From a piece of C++ to a loaded module: hash it, build it if nobody has yet, load it."""

import hashlib
import subprocess
import threading
from pathlib import Path

import tvm_ffi
from tvm_ffi import libinfo

from minisgl.compile import sources
from minisgl.compile.cache import get_or_build
from minisgl.compile.errors import CompileError
from minisgl.compile.targets import Target

_failures: dict[str, CompileError] = {}
_failures_lock = threading.Lock()


def build(name: str, unit: str, files: list[Path], target: Target) -> Path:
    """Compile the C++ text `unit` for `target` and return the path of the shared library.

    `files` are the sources that `unit` includes, relative to `csrc/` or absolute, headers apart. What is hashed is
    contents, never dates: all headers, `files`, `unit`, the flags, the compiler and the version of TVM-FFI. On a hit
    no process is started. Raises CompileError with the compiler's output. A failure is remembered: the same text
    fails again at once.
    """
    contents = sources.digest(sources.headers() | {str(file): sources.find_source(file) for file in files})
    recipe = [contents, unit, target.name, *target.flags, target.compiler.identity, tvm_ffi.__version__]
    key = f"{name}-{target.name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:24]}"
    with _failures_lock:
        if key in _failures:
            raise CompileError(*_failures[key].args)
    try:
        return get_or_build(key, lambda folder: _compile(folder, name, unit, target)) / f"{name}.so"
    except CompileError as error:
        with _failures_lock:
            _failures[key] = error
        raise


def load(library: Path) -> tvm_ffi.Module:
    """Load a shared library that `build` made; its exported functions are attributes of the module."""
    return tvm_ffi.load_module(str(library))


def _compile(folder: Path, name: str, unit: str, target: Target) -> None:
    source = folder / (f"{name}.cpp" if target.name == "host" else f"{name}.cu")
    source.write_text(unit)
    roots = sources.csrc_roots()
    include = [root / "include" for root in roots] + roots
    if target.name == "host":
        include = [root / "host" for root in roots] + include  # shadows NVIDIA's cuda_runtime.h
    include += [Path(path) for path in libinfo.include_paths()]
    command = target.command(source, folder / f"{name}.so", include, [Path(libinfo.find_libtvm_ffi())])
    result = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if result.returncode != 0:
        raise CompileError(result.stderr.strip() or result.stdout.strip())
    (folder / f"{name}.log").write_text(result.stdout + result.stderr)
