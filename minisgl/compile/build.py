# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:66e041db6f82

"""From a piece of C++ to a loaded module: hash it, build it if nobody has yet, load it."""

import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import tvm_ffi
from tvm_ffi import libinfo

from minisgl.compile import sources
from minisgl.compile.cache import get_or_build
from minisgl.compile.errors import CompileError
from minisgl.compile.shared_declarations import is_unusual, may_be_hidden, rewritten
from minisgl.compile.static_shared import require_static_shared_fits
from minisgl.compile.targets import Target, host_target

_failures: dict[str, str] = {}
_failures_lock = threading.Lock()

_SCHEDULER = ("host/scheduler.cpp", "host/fiber.h", "host/runtime.h")


def build(name: str, unit: str, files: Sequence[str | Path], target: Target) -> Path:
    """Compile the C++ text `unit` for `target` and return the path of the result, usually a shared library.

    `files` are the sources that `unit` includes, relative to `csrc/` or absolute, headers apart. What is hashed is
    contents, not dates: all headers, `files`, `unit`, the flags, the libraries it links and the version of TVM-FFI; of
    the compiler it is path, size and date. On a hit no process is started. Raises CompileError with the compiler's
    output. A failure is remembered: the same text fails again at once.
    """
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"build: name: expected letters, digits and . _ + -, got {name!r}")
    libraries = [Path(libinfo.find_libtvm_ffi())]
    if any(Path(file).suffix == ".cu" for file in files):
        libraries += runtime_libraries(target)
    return _build(name, unit, sources.headers() | sources.sources_of(files), target, libraries)


def load(library: Path) -> tvm_ffi.Module:
    """Load a shared library that `build` made; its exported functions are attributes of the module."""
    return tvm_ffi.load_module(str(library))


def runtime_libraries(target: Target) -> list[Path]:
    """Return what kernels of `target` link to run on the CPU: the scheduler, and the microscope's recorder."""
    if not target.is_host:
        return []
    plain = host_target() if target.name == "host" else host_target(instrument=False)
    scheduler = _build("scheduler", "#include <host/scheduler.cpp>\n", sources.sources_of(_SCHEDULER), plain, [])
    if target.name == "host":
        return [scheduler]
    files = sources.headers() | sources.sources_of(["host/recorder.cpp"])
    libraries = [scheduler, Path(libinfo.find_libtvm_ffi())]
    return [_build("recorder", "#include <host/recorder.cpp>\n", files, plain, libraries), scheduler]


def _build(name: str, unit: str, files: dict[str, Path], target: Target, libraries: Sequence[Path]) -> Path:
    """Compile `unit`, which includes nothing of ours but `files`, or find it compiled."""
    recipe = [sources.digest(files), unit, target.name, *target.flags, target.compiler.identity, tvm_ffi.__version__]
    recipe += [library.parent.name for library in libraries]
    key = f"{name}-{target.name}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:24]}"
    with _failures_lock:
        if key in _failures:
            raise CompileError(_failures[key])
    try:
        compile_into = partial(_compile, name=name, unit=unit, files=files, target=target, libraries=libraries)
        return get_or_build(key, f"{name}.so", compile_into)
    except CompileError as error:
        with _failures_lock:
            _failures[key] = str(error)
        raise


def _compile(
    folder: Path, name: str, unit: str, *, files: dict[str, Path], target: Target, libraries: Sequence[Path]
) -> None:
    source, preprocessed, output = (folder / f"{name}{suffix}" for suffix in (target.suffix, ".ii", ".so"))
    source.write_text(unit)
    include = _include_path(target)

    def compile_file(file: Path) -> str:
        return _run(target.command(file, output, include, libraries), output, source)

    def rewrite() -> bool:
        _run(target.preprocess(source, preprocessed, include), preprocessed, source)
        before = preprocessed.read_text()
        after = rewritten(before, guarded=target.name == "microscope")
        preprocessed.write_text(after)
        return before != after

    if target.is_host and (target.name == "microscope" or is_unusual(files)):
        rewrite()
        log = compile_file(preprocessed)
    else:
        try:
            log = compile_file(source)
        except CompileError as error:
            if not (target.is_host and may_be_hidden(str(error)) and rewrite()):
                raise
            log = compile_file(preprocessed)
    if target.is_host:
        require_static_shared_fits(output)
    (folder / f"{name}.log").write_text(log)


def _include_path(target: Target) -> list[Path]:
    roots = sources.csrc_roots()
    include = [root / "include" for root in roots] + roots
    if target.is_host:
        include = [root / "host" for root in roots] + include  # shadows NVIDIA's cuda_runtime.h
    return include + [Path(path) for path in libinfo.include_paths()]


def _run(command: list[str], output: Path, unit: Path) -> str:
    """Run a compiler and return what it said. Raises CompileError with that if there is no `output`."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer's, for us
    result = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if result.returncode != 0 or not output.is_file():
        message = result.stderr.strip() or result.stdout.strip()
        silent = f"{command[0]} ended with exit code {result.returncode} and no message (negative: a signal)"
        raise CompileError(_without_unit(message, unit) or silent)
    return result.stdout + result.stderr


def _without_unit(message: str, source: Path) -> str:
    """Leave the generated unit out of the compiler's list of who included whom: nobody wrote it."""
    unit = re.escape(str(source))
    message = re.sub(rf",\n\s+from {unit}:\d+:\n", ":\n", message)
    return re.sub(rf"^In file included from {unit}:\d+:\n", "", message, flags=re.MULTILINE)
