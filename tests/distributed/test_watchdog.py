"""The watchdog of the NCCL wrapper, under ThreadSanitizer and AddressSanitizer, with work that ends late or never."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tvm_ffi import libinfo

from minisgl.compile import sources

SOURCE = Path(__file__).with_name("watchdog.cpp")
HEADER = "include/minisgl/watchdog.h"


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    # `make sanitize` preloads a library that is for Python alone.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["TSAN_OPTIONS"] = "halt_on_error=1"
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def run_sanitized(folder: Path, sanitizer: str, header: str | None = None) -> subprocess.CompletedProcess[str]:
    """Build and run the program; with `header` in place of the shipped one."""
    if not shutil.which("g++"):
        pytest.skip("no g++ here")
    if header is not None:
        (folder / HEADER).parent.mkdir(parents=True)
        (folder / HEADER).write_text(header)
    roots = [folder, *sources.csrc_roots()]
    include = [f"-I{root / name}" for root in roots for name in ("host", "include")]
    include += [f"-isystem{path}" for path in libinfo.include_paths()]
    flags = ["-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-pthread", f"-fsanitize={sanitizer}"]
    program = folder / "watchdog"
    built = run(["g++", *flags, "-fno-sanitize-recover=all", *include, SOURCE, "-o", program])
    if "cannot find -l" in built.stderr or "cannot find /" in built.stderr:
        pytest.skip(f"no program with -fsanitize={sanitizer} links here")
    assert built.returncode == 0, built.stderr
    return run([program])


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_watchdog(tmp_path: Path, sanitizer: str) -> None:
    result = run_sanitized(tmp_path, sanitizer)
    assert (result.returncode, result.stdout) == (0, "well\n"), result.stderr


def test_the_mutex_is_needed(tmp_path: Path) -> None:
    """The same without a lock: if ThreadSanitizer found nothing then, the test above would say nothing."""
    text = sources.find_source(HEADER).read_text()
    begin = text.index("cudaEvent_t begin(")
    guard = "const std::lock_guard guard(mutex_);"
    result = run_sanitized(tmp_path, "thread", text[:begin] + text[begin:].replace(guard, "", 1))
    assert result.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in result.stderr
