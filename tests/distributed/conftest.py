"""The double of NCCL, compiled once, and processes that share it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import Ranks  # type: ignore[import-not-found]  # tests/distributed is on the path

from minisgl.compile.toolchain import find_host_compiler

FOLDER = Path(__file__).parent


def compile_double(output: Path, *flags: str) -> Path:
    compiler = str(find_host_compiler().path)
    command = [compiler, "-std=c++20", "-O2", "-g1", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{FOLDER}", *flags]
    subprocess.run([*command, str(FOLDER / "fake_nccl.cpp"), "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the double of NCCL."""
    return compile_double(tmp_path_factory.mktemp("nccl") / "libnccl.so.2")


@pytest.fixture(scope="session")
def old_double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a double of the oldest NCCL that is taken: no windows, no float8."""
    return compile_double(tmp_path_factory.mktemp("nccl") / "libnccl.so.2", "-DFAKE_VERSION=21801", "-DFAKE_NO_WINDOWS")


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, double: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Return 2 or 4 processes that a module's tests share."""
    made = Ranks(request.param, double, tmp_path_factory.mktemp("ranks"))
    yield made
    made.close()


@pytest.fixture
def new_ranks(double: Path, tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    """Return a function that starts processes for one test."""
    started: list[Ranks] = []

    def start(size: int, library: Path = double) -> Ranks:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Ranks(size, library, folder))
        return started[-1]

    yield start
    for made in started:
        made.close()
