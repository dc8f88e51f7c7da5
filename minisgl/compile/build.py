# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:6c74f316120d

"""From a piece of C++ to a loaded module: hash it, build it if nobody has yet, load it."""

import hashlib
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import tvm_ffi
from tvm_ffi import libinfo

from minisgl.compile import sources
from minisgl.compile.cache import get_or_build
from minisgl.compile.errors import CompileError
from minisgl.compile.targets import Target

_failures: dict[tuple[str, int], str] = {}
_failures_lock = threading.Lock()


def build(name: str, unit: str, files: Sequence[str | Path], target: Target) -> Path:
    """Compile the C++ text `unit` for `target` and return the path of the result, usually a shared library.

    `files` are the sources that `unit` includes, relative to `csrc/` or absolute, headers apart. What is hashed is
    contents, not dates: all headers, `files`, `unit`, the flags and the version of TVM-FFI; of the compiler it is path,
    size and date. On a hit no process is started. Raises CompileError with the compiler's output. A failure is
    remembered: the same text fails again at once.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"build: name: expected letters, digits and . _ + -, got {name!r}")
    contents = sources.digest(sources.headers() | sources.sources_of(files))
    recipe = [contents, unit, target.name, *target.flags, target.compiler.identity, tvm_ffi.__version__]
    key = f"{name}-{target.name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:24]}"
    attempt = (key, sources.generation())  # an edit that only moves lines changes those in the message
    with _failures_lock:
        if attempt in _failures:
            raise CompileError(_failures[attempt])
    try:
        return get_or_build(key, f"{name}.so", lambda folder: _compile(folder, name, unit, target))
    except CompileError as error:
        with _failures_lock:
            _failures[attempt] = str(error)
        raise


def load(library: Path) -> tvm_ffi.Module:
    """Load a shared library that `build` made; its exported functions are attributes of the module."""
    return tvm_ffi.load_module(str(library))


def _compile(folder: Path, name: str, unit: str, target: Target) -> None:
    source = folder / f"{name}{target.suffix}"
    source.write_text(unit)
    roots = sources.csrc_roots()
    include = [root / "include" for root in roots] + roots
    if target.name == "host":
        include = [root / "host" for root in roots] + include  # shadows NVIDIA's cuda_runtime.h
    include += [Path(path) for path in libinfo.include_paths()]
    output = folder / f"{name}.so"
    command = target.command(source, output, include, [Path(libinfo.find_libtvm_ffi())])
    result = subprocess.run(
        command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if result.returncode != 0 or not output.is_file():
        message = result.stderr.strip() or result.stdout.strip()
        silent = f"{command[0]} ended with exit code {result.returncode} and no message (negative: a signal)"
        raise CompileError(_without_unit(message, source) or silent)
    (folder / f"{name}.log").write_text(result.stdout + result.stderr)


def _without_unit(message: str, source: Path) -> str:
    """Leave the generated unit out of the compiler's list of who included whom: nobody wrote it."""
    unit = re.escape(str(source))
    message = re.sub(rf",\n\s+from {unit}:\d+:\n", ":\n", message)
    return re.sub(rf"^In file included from {unit}:\d+:\n", "", message, flags=re.MULTILINE)
