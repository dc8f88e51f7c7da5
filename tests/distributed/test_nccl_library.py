"""Which NCCL is found, and what is said about one that does not do."""

import _ctypes
import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import tvm_ffi.libinfo

from minisgl.compile import ToolchainError, sources, toolchain
from minisgl.kernel.nccl_library import find_nccl_library

API = "include/minisgl/nccl_api.h"
OPTIONAL = ("ncclMemAlloc", "ncclMemFree", "ncclCommWindowRegister", "ncclCommWindowDeregister")
WHEELS = ("nvidia-nccl-cu12", "nvidia-nccl-cu13")


def compile_with(*arguments: object) -> None:
    subprocess.run([str(toolchain.find_host_compiler().path), *map(str, arguments)], check=True)


# Finding


def find(*sites: Path) -> str:
    """Find NCCL with nothing installed but what lies in `sites`."""
    own = [path for path in sys.path if "site-packages" not in path]
    modules = {name: module for name, module in sys.modules.items() if name != "nvidia"}
    with mock.patch.object(sys, "path", [*map(str, sites), *own]), mock.patch.dict(sys.modules, modules, clear=True):
        return find_nccl_library()


def install(site: Path, *wheels: str, library: bool = True) -> Path:
    """Put into `site` what pip would."""
    path = site / "nvidia/nccl/lib/libnccl.so.2"
    path.parent.mkdir(parents=True)
    if library:
        path.touch()
    for wheel in wheels:
        info = site / f"{wheel.replace('-', '_')}-2.27.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel}\nVersion: 2.27.3\n")
    return path


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what PyTorch may have loaded."""
    monkeypatch.delenv("MINISGL_NCCL_LIBRARY", raising=False)
    monkeypatch.setattr("minisgl.kernel.nccl_library._loaded", lambda: None)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Load a library of NCCL's name into this process, as PyTorch would."""
    monkeypatch.delenv("MINISGL_NCCL_LIBRARY", raising=False)
    if "/libnccl.so" in Path("/proc/self/maps").read_text():
        pytest.skip("PyTorch has loaded one already")
    folder = tmp_path / "loaded by someone"
    folder.mkdir()
    path = folder / "libnccl.so.2"
    compile_with("-shared", "-fPIC", "-x", "c++", "/dev/null", "-o", path)
    handle = ctypes.CDLL(str(path))._handle
    yield path
    _ctypes.dlclose(handle)


@pytest.mark.usefixtures("not_loaded")
def test_the_systems_library_is_the_last_choice() -> None:
    assert find() == "libnccl.so.2"


@pytest.mark.usefixtures("not_loaded")
@pytest.mark.parametrize("wheel", WHEELS)
def test_a_wheel(wheel: str, tmp_path: Path) -> None:
    path = install(tmp_path, wheel)
    assert find(tmp_path) == str(path)


@pytest.mark.usefixtures("not_loaded")
def test_a_wheel_that_has_lost_its_library(tmp_path: Path) -> None:
    install(tmp_path, WHEELS[0], library=False)
    assert find(tmp_path) == "libnccl.so.2"


@pytest.mark.usefixtures("loaded")
def test_both_wheels_are_refused(tmp_path: Path) -> None:
    install(tmp_path / "site", *WHEELS)
    with pytest.raises(ToolchainError, match=r"nvidia-nccl-cu12 and nvidia-nccl-cu13 are both.*: uninstall both, then"):
        find(tmp_path / "site")


def test_the_loaded_library_comes_before_a_wheel(tmp_path: Path, loaded: Path) -> None:
    install(tmp_path / "site", WHEELS[1])
    assert find(tmp_path / "site") == str(loaded)


@pytest.mark.usefixtures("loaded")
def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path / "site", *WHEELS)
    chosen = tmp_path / "mine.so"
    chosen.touch()
    monkeypatch.setenv("MINISGL_NCCL_LIBRARY", str(chosen))
    assert find(tmp_path / "site") == str(chosen)


@pytest.mark.parametrize("name", ["nothing.so", "."])
def test_the_environment_names_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    configured = str(tmp_path / name)
    monkeypatch.setenv("MINISGL_NCCL_LIBRARY", configured)
    message = f"MINISGL_NCCL_LIBRARY is {configured!r}, which is not a file; unset it or name libnccl.so.2."
    with pytest.raises(ToolchainError, match=f"^{re.escape(message)}$"):
        find_nccl_library()


# Opening

OPEN = r"""
#include <minisgl/nccl_api.h>

#include <cstdio>

int main(int, char** arguments) {
  try {
    const auto api = minisgl::nccl::open_library(arguments[1]);
    std::printf("%d, windows: %d", api.version, api.has_windows());
  } catch (const minisgl::Error& error) {
    std::printf("%s: %s", error.kind(), error.what());
  }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that opens a library and prints what comes of it."""
    folder = tmp_path_factory.mktemp("open")
    (folder / "open.cpp").write_text(OPEN)
    own = sources.find_source(API).parents[2]
    includes = [f"-I{own / 'host'}", f"-I{own / 'include'}", f"-I{tvm_ffi.libinfo.find_dlpack_include_path()}"]
    compile_with("-std=c++20", *includes, folder / "open.cpp", "-o", folder / "open")
    return folder / "open"


def opening(program: Path, library: Path | str) -> str:
    return subprocess.run([program, library], capture_output=True, text=True, timeout=60, check=True).stdout


def make_library(folder: Path, version: int, *missing: str, result: int = 0) -> Path:
    """Compile a library with all the functions that are looked for, but those that shall be missing."""
    names = re.findall(r'find\("(nccl\w+)"', sources.find_source(API).read_text())
    assert len(names) == 24
    functions = [f"int {name}() {{ return 0; }}" for name in names if name not in {"ncclGetVersion", *missing}]
    if "ncclGetVersion" not in missing:
        functions.append(f"int ncclGetVersion(int* version) {{ *version = {version}; return {result}; }}")
    source, library = folder / "nccl.c", folder / "libnccl.so.2"
    source.write_text("\n".join(functions))
    compile_with("-shared", "-fPIC", "-x", "c", source, "-o", library)
    return library


@pytest.mark.parametrize(
    ("version", "missing", "answer"),
    [
        (23203, (), "23203, windows: 1"),
        (22703, (), "22703, windows: 1"),
        (22702, (), "22702, windows: 0"),
        (21801, OPTIONAL, "21801, windows: 0"),
        *((23203, (name,), "23203, windows: 0") for name in OPTIONAL),
        (21800, (), "RuntimeError: NCCL: {path} is version 2.18.0; 2.18.1 or newer is needed"),
        (2804, (), "RuntimeError: NCCL: {path} is version 2.8.4; 2.18.1 or newer is needed"),
        (
            23203,
            ("ncclGetVersion",),
            "RuntimeError: NCCL: {path} has no ncclGetVersion; version 2.18 or newer is needed",
        ),
        (23203, ("ncclCommSplit",), "RuntimeError: NCCL: {path} has no ncclCommSplit; version 2.18 or newer is needed"),
        (23203, ("ncclRecv",), "RuntimeError: NCCL: {path} has no ncclRecv; version 2.18 or newer is needed"),
    ],
    ids=lambda value: ",".join(value) or "all" if isinstance(value, tuple) else str(value)[:25],
)
def test_open_library(program: Path, tmp_path: Path, version: int, missing: tuple[str, ...], answer: str) -> None:
    library = make_library(tmp_path, version, *missing)
    assert opening(program, library) == answer.format(path=library)


def test_a_library_that_cannot_tell_its_version(program: Path, tmp_path: Path) -> None:
    library = make_library(tmp_path, 23203, result=3)
    assert opening(program, library).startswith(f"RuntimeError: NCCL: {library} ")


def test_what_is_no_library(program: Path, tmp_path: Path) -> None:
    start = "RuntimeError: NCCL: cannot open the library: "
    missing = tmp_path / "libnccl.so.2"
    assert opening(program, missing) == f"{start}{missing}: cannot open shared object file: No such file or directory"
    missing.write_text("no library, but long enough to have the header of one " * 10)
    assert opening(program, missing) == f"{start}{missing}: invalid ELF header"
