"""The build cache: keyed by contents, built once, never left half-built."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minisgl.compile import CompileError, build, cache, host_target, load, sources

UNIT = """
#include <minisgl/ffi.h>
inline int64_t answer() { return %d; }
MINISGL_EXPORT(answer, answer);
"""
BUILD_AND_CALL = f"""
from minisgl.compile import build, host_target, load
assert load(build("answer", {UNIT % 42!r}, [], host_target())).answer() == 42
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINISGL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a compiler in front of g++ that logs its calls and waits until `MINISGL_TEST_ASKING` processes have asked."""
    log, wrapper = tmp_path / "calls", tmp_path / "logging-g++"
    log.touch()
    asking = f"$(ls {tmp_path}/asking-* 2>/dev/null | wc -l)"
    wait = f'while [ "{asking}" -lt "${{MINISGL_TEST_ASKING:-0}}" ]; do sleep 0.05; done'
    wrapper.write_text(f'#!/bin/sh\necho call >> {log}\n{wait}\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    return log


def calls(log: Path) -> int:
    return len(log.read_text().splitlines())


def start(code: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment, start_new_session=True)


def build_answer(value: int = 42) -> Path:
    return build("answer", UNIT % value, [], host_target())


def test_second_build_runs_nothing(compiler_log: Path) -> None:
    assert load(build_answer()).answer() == 42
    assert build_answer() == build_answer()
    assert calls(compiler_log) == 1


def test_a_hit_starts_no_process(compiler_log: Path) -> None:
    build_answer()
    forbid = (
        "import subprocess, os\ndef refuse(*a, **k): raise AssertionError(a)\nsubprocess.Popen = os.fork = refuse\n"
    )
    # torch and tvm_ffi may start what they like while they are imported; what counts is the load.
    code = "import torch, tvm_ffi, minisgl.compile\n" + forbid + BUILD_AND_CALL
    assert start(code).wait() == 0
    assert calls(compiler_log) == 1


def test_other_text_is_another_library() -> None:
    assert load(build_answer(1)).answer() == 1
    assert load(build_answer(2)).answer() == 2


def test_eight_processes_compile_once(compiler_log: Path, tmp_path: Path) -> None:
    asking = [f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'asking-{i}').touch()" for i in range(8)]
    processes = [start(f"{ask}\n{BUILD_AND_CALL}", MINISGL_TEST_ASKING="8") for ask in asking]
    assert [process.wait() for process in processes] == [0] * 8
    assert calls(compiler_log) == 1


def test_a_killed_build_leaves_nothing_to_trip_over(compiler_log: Path, own_cache: Path) -> None:
    process = start(BUILD_AND_CALL, MINISGL_TEST_ASKING="1")
    deadline = time.monotonic() + 60
    while not calls(compiler_log) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(own_cache.glob("*.building")), "the build was not caught half-way"
    assert load(build_answer()).answer() == 42
    assert not list(own_cache.glob("*.building"))


@pytest.mark.parametrize("damage", ["missing", "empty", "a file in place of the folder"])
def test_a_damaged_entry_is_built_again(damage: str) -> None:
    library = build_answer()
    library.unlink()
    if damage == "empty":
        library.touch()
    elif damage != "missing":
        shutil.rmtree(library.parent)
        library.parent.touch()
    assert load(build_answer()).answer() == 42


def test_a_compiler_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("true", 0), ("false", 1)):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(CompileError, match=f"{name} ended with exit code {code} and no message"):
            build_answer()


def test_a_function_without_a_body_is_a_compile_error() -> None:
    with pytest.raises(CompileError, match="undefined reference to `missing"):
        build(
            "undefined",
            UNIT.replace("inline", "int64_t missing(); inline") % 0 + "int64_t x = missing();",
            [],
            host_target(),
        )


def test_a_header_beside_an_absolute_source_is_hashed(tmp_path: Path) -> None:
    source, header = tmp_path / "a.cu", tmp_path / "a.cuh"
    source.write_text('#include "a.cuh"\ninline long answer() { return kAnswer; }\n')
    unit = f"#include <{source}>\n#include <minisgl/ffi.h>\nMINISGL_EXPORT(answer, answer);\n"
    for value in (1, 2):
        header.write_text(f"inline constexpr int kAnswer = {value};\n")
        assert load(build("beside", unit, [source], host_target())).answer() == value


def test_a_blank_line_after_a_backslash_counts(tmp_path: Path) -> None:
    file = tmp_path / "x.h"
    file.write_text("// a path C:\\\n\nint x;\n")
    before = sources.digest({"x": file})
    file.write_text("// a path C:\\\nint x;\n")
    assert sources.digest({"x": file}) != before


def test_a_failure_is_remembered(compiler_log: Path) -> None:
    for _ in range(2):
        with pytest.raises(CompileError, match="no_such_name"):
            build("bad", "int x = no_such_name;", [], host_target())
    assert calls(compiler_log) == 1


def test_a_failed_build_publishes_nothing(own_cache: Path) -> None:
    with pytest.raises(CompileError):
        build("bad", "int x = no_such_name;", [], host_target())
    assert not [path for path in own_cache.iterdir() if path.is_dir() and path.suffix != ".building"]


@pytest.fixture
def own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile from a copy of the sources that a test may edit."""
    original = sources.csrc_roots()[-1]
    root = tmp_path / "copy" / "csrc"
    for file in original.rglob("*.*"):
        target = root / file.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "copy" / "minisgl")
    return root


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.mark.parametrize("header", ["include/minisgl/utils.h", "host/cuda_runtime.h"])
def test_editing_a_header_rebuilds_whatever_its_date(own_sources: Path, header: str) -> None:
    before = build_answer()
    file = own_sources / header
    dates = file.stat()
    append(file, "\n// one more line\n")
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert build_answer() != before


def test_a_new_date_alone_does_not_rebuild(own_sources: Path) -> None:
    before = build_answer()
    for file in own_sources.rglob("*.h"):
        os.utime(file, (1, 1))
    assert build_answer() == before


def test_the_exporters_header_does_not_rebuild(own_sources: Path) -> None:
    before = build_answer()
    header = own_sources / "include" / "minisgl" / "utils.h"
    text = header.read_text()
    assert text.startswith("// Exported from ")
    header.write_text(text.replace(text.partition("\n")[0], "// Exported from notebooks/99_other.md", 1))
    assert build_answer() == before
    append(header, "\n")
    assert build_answer() != before  # an error message names lines


def test_a_cell_that_was_run_unedited_is_the_shipped_file(own_sources: Path) -> None:
    before, generation = build_answer(), sources.generation()
    shipped = (own_sources / "include" / "minisgl" / "utils.h").read_text()
    path = "csrc/include/minisgl/utils.h"
    sources.set_overlay(path, '#line 7 "notebooks/01_x.md"\n\n' + shipped.partition("\n")[2])
    assert (build_answer(), sources.generation()) == (before, generation)
    sources.set_overlay(path, shipped + "// edited\n")
    assert build_answer() != before
    sources.set_overlay(path, shipped)
    assert build_answer() == before


def test_sanitizers_and_compilers_have_their_own_libraries(compiler_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build_answer()
    monkeypatch.setenv("MINISGL_SANITIZE", "undefined")
    sanitized = build_answer()
    monkeypatch.setenv("CXX", "g++")
    assert len({plain, sanitized, build_answer()}) == 3


def test_an_unwritable_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISGL_CACHE_DIR", "/dev/null/cache")
    with pytest.raises(RuntimeError, match=r"cannot write to the build cache /dev/null/cache .*set MINISGL_CACHE_DIR"):
        build_answer()


def test_cache_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MINISGL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "minisgl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_dir() == Path.home() / ".cache" / "minisgl"


class TestOverlays:
    """A session's edits: used at once, by this process alone, and forgotten on request."""

    PATH = "csrc/include/minisgl/overlay_test.h"

    @pytest.fixture(autouse=True)
    def clean(self) -> object:
        yield
        sources.clear_overlays()

    def value(self) -> int:
        unit = "#include <minisgl/overlay_test.h>\n" + (UNIT % 0).replace("return 0", "return kValue")
        return load(build("overlay", unit, [], host_target())).answer()

    def test_an_edit_shows_at_once(self) -> None:
        generation = sources.generation()
        for value in (3, 4, 3):
            sources.set_overlay(self.PATH, f"inline constexpr int kValue = {value};\n")
            assert self.value() == value
        assert sources.generation() == generation + 3
        sources.clear_overlays()
        assert sources.generation() == generation + 4
        with pytest.raises(CompileError, match="overlay_test"):
            self.value()

    def test_the_same_text_is_no_edit(self) -> None:
        sources.set_overlay(self.PATH, "a")
        generation = sources.generation()
        sources.set_overlay(self.PATH, "a")
        assert sources.generation() == generation

    def test_the_checkout_is_left_alone(self) -> None:
        sources.set_overlay(self.PATH, "inline constexpr int kValue = 1;\n")
        assert not (sources.csrc_roots()[-1].parent / self.PATH).exists()

    @pytest.mark.parametrize("path", ["minisgl/x.py", "csrc/../x.h", "", "/etc/x"])
    def test_only_below_csrc(self, path: str) -> None:
        with pytest.raises(ValueError, match="set_overlay: path: expected a file below csrc/"):
            sources.set_overlay(path, "")


def test_missing_sources_are_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"jit/nothing\.cu: no such source; looked in .*csrc/jit/nothing\.cu"):
        sources.find_source("jit/nothing.cu")


def test_two_libraries_do_not_share_symbols() -> None:
    """Without hidden visibility the second library would call the first one's function."""
    unit = """
    #include <minisgl/ffi.h>
    int64_t shared_name() { return %d; }
    int64_t call() { return shared_name(); }
    MINISGL_EXPORT(call, call);
    """
    libraries = [load(build("clash", unit % value, [], host_target())) for value in (1, 2)]
    assert [library.call() for library in libraries] == [1, 2]
