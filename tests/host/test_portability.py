"""The CPU target with other compilers, on another processor, and without the assembly of the context switch."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from minisgl.compile import sources

SOURCE = Path(__file__).with_name("standalone.cpp")
LINE = 1 + next(i for i, line in enumerate(SOURCE.read_text().splitlines()) if "threadIdx.x < 16" in line)
ORDERS = ("forward", "reverse", "shuffle:7")


def build(tmp_path: Path, compiler: str, *flags: str) -> Path:
    """Compile standalone.cpp and the scheduler with a compiler, or skip if this machine does not have it."""
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    csrc = sources.csrc_roots()[-1]
    program = tmp_path / "standalone"
    files = [SOURCE, csrc / "host" / "scheduler.cpp"]
    command = [compiler, "-std=c++20", "-O2", "-pthread", *flags, f"-I{csrc / 'host'}", f"-I{csrc / 'include'}"]
    subprocess.run([*command, *map(str, files), "-o", str(program)], check=True)
    return program


def check(*command: str) -> None:
    for order in ORDERS:
        environment = os.environ | {"MINISGL_HOST_ORDER": order}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.startswith("divergent barrier: in block ("), result.stdout
        assert f"16 threads (0-15) wait at __syncthreads (tests/host/standalone.cpp:{LINE})" in result.stdout


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_compilers(tmp_path: Path, compiler: str) -> None:
    check(str(build(tmp_path, compiler)))


def test_portable_fibers(tmp_path: Path) -> None:
    check(str(build(tmp_path, "g++", "-DMINISGL_PORTABLE_FIBERS")))


def test_several_os_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_HOST_THREADS", "2")
    check(str(build(tmp_path, "g++", "-DMINISGL_HOST_PARALLEL")))


def test_aarch64(tmp_path: Path) -> None:
    program = build(tmp_path, "aarch64-linux-gnu-g++", "-static")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not emulator:
        pytest.skip("assembled and linked for aarch64, but no emulator is here to run it")
    check(emulator, str(program))
