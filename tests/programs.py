"""Programs of our headers alone, with no Python in them: for other compilers, other processors, and sanitizers."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tvm_ffi import libinfo

from minisgl.compile import sources


def build_program(folder: Path, compiler: str, source: Path, flags: Sequence[str], csrc: Path | None = None) -> Path:
    """Compile `source` with the headers of `csrc` first; skip if the compiler, or a library of `flags`, is not here."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    linked = _run([compiler, *flags, str(empty), "-o", str(folder / "empty")])
    if linked.returncode != 0:
        pytest.skip(f"{compiler} {' '.join(flags)} links no program here: {linked.stderr.strip().splitlines()[-1]}")
    roots = [root / "include" for root in ([csrc] if csrc else []) + sources.csrc_roots()]
    include = [f"-I{root}" for root in roots] + [f"-isystem{path}" for path in libinfo.include_paths()]
    program = folder / source.stem
    standard = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-pthread"]
    built = _run([compiler, *standard, *flags, *include, str(source), "-o", str(program)])
    assert built.returncode == 0, built.stderr
    return program


def run_program(*command: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return _run([str(part) for part in command], timeout)


def _run(command: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    # `make sanitize` preloads a library that is for Python alone. After a race a program may run in circles.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["TSAN_OPTIONS"] = "halt_on_error=1"
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
