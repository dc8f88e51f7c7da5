"""`load_jit`, `load_aot` and their small helpers."""

import importlib.metadata
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from minisgl.compile import CompileError, ToolchainError, build, host_target, prebuilt, sources, targets
from minisgl.kernel.utils import KernelConfig, load_aot, load_jit, make_cpp_args

ADD = """
#include <minisgl/tensor.h>
namespace test {
template <int kAmount>
void add(minisgl::TensorView x) {
  auto N = minisgl::SymbolicSize("N");
  minisgl::TensorMatcher({N}).verify("x", x);
  for (int64_t i = 0; i < N.value(); ++i) static_cast<float*>(x.data())[i] += kAmount;
}
}  // namespace test
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "add.cu"
    file.write_text(ADD)
    return file


def test_load_jit_per_argument(source: Path) -> None:
    x = torch.zeros(3)
    for amount in (1, 10):
        function = f"test::add<{make_cpp_args(amount)}>"
        load_jit("add", amount, cuda_files=[source], cuda_wrappers=[("add", function)], target="host").add(x)
    assert x.tolist() == [11.0] * 3


def test_load_aot(tmp_path: Path) -> None:
    file = tmp_path / "add.cpp"
    file.write_text(ADD + "#include <minisgl/ffi.h>\nMINISGL_EXPORT(add_two, test::add<2>);\n")
    x = torch.zeros(3)
    load_aot("add", cpp_files=[file]).add_two(x)
    assert x.tolist() == [2.0] * 3


def test_an_edited_file_is_a_new_library(source: Path) -> None:
    def run() -> float:
        x = torch.zeros(1)
        load_jit("add", cuda_files=[source], cuda_wrappers=[("add", "test::add<1>")], target="host").add(x)
        return x.item()

    assert run() == 1.0
    source.write_text(ADD.replace("+= kAmount", "-= kAmount"))
    assert run() == -1.0


def test_the_compilers_message_is_the_error(source: Path) -> None:
    source.write_text(ADD.replace("kAmount;\n", "kAmuont;\n"))
    with pytest.raises(CompileError) as caught:
        load_jit("add", cuda_files=[source], cuda_wrappers=[("add", "test::add<1>")], target="host")
    assert str(caught.value).startswith(f"{source}: In function")
    assert f"{source}:8:" in str(caught.value)
    assert "kAmuont" in str(caught.value)


def test_the_generated_unit_is_not_in_the_message(source: Path, tmp_path: Path) -> None:
    header = tmp_path / "broken.h"
    header.write_text("int x = no_such_name;\n")
    source.write_text(f'#include "{header}"\n')
    with pytest.raises(CompileError) as caught:
        load_jit("add", cuda_files=[source], cuda_wrappers=[], target="host")
    assert str(caught.value).startswith(f"In file included from {source}:1:\n{header}:1:9: error:")
    assert ".building" not in str(caught.value)


def test_aot_for_a_gpu_needs_cuda_files(source: Path) -> None:
    with pytest.raises(ValueError, match="load_aot: cuda_files: expected at least one for target 'cuda', got none"):
        load_aot("add", cpp_files=[source], target="cuda")


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", ""])
def test_a_name_becomes_a_file_name(name: str, source: Path) -> None:
    with pytest.raises(ValueError, match="build: name: expected letters, digits and"):
        load_jit(name, cuda_files=[source], cuda_wrappers=[], target="host")


def test_a_wrong_target(source: Path) -> None:
    with pytest.raises(ValueError, match="load_jit: target: expected 'host', 'cuda' or 'microscope', got 'tpu'"):
        load_jit("add", cuda_files=[source], cuda_wrappers=[], target="tpu")  # type: ignore[arg-type]


def test_make_cpp_args() -> None:
    assert make_cpp_args(8192, True, False, 1.5) == "8192, true, false, 1.5"
    assert make_cpp_args(np.float64(0.5)) == "0.5"
    with pytest.raises(TypeError, match="make_cpp_args: expected bool, int or float, got str 'x'"):
        make_cpp_args("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="make_cpp_args: expected finite numbers, got inf"):
        make_cpp_args(float("inf"))


@pytest.mark.parametrize("threads", [0, 48, 2048, -32])
def test_kernel_config_refuses_thread_counts(threads: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads: expected a multiple of 32 from 32 to 1024, got {threads}"):
        KernelConfig(num_threads=threads)


@pytest.mark.parametrize(
    "wrong",
    [{"num_threads": 128.0}, {"max_occupancy": True}, {"use_pdl": 1}, {"vectors_per_thread": None}],
)
def test_kernel_config_refuses_other_types(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"KernelConfig: {next(iter(wrong))}: expected"):
        KernelConfig(**wrong)  # type: ignore[arg-type]


def test_one_file_is_still_a_list(source: Path) -> None:
    with pytest.raises(TypeError, match="load_jit: cuda_files: expected a list of files, got the str"):
        load_jit("add", cuda_files=str(source), cuda_wrappers=[])


def test_kernel_config_refuses_no_occupancy() -> None:
    with pytest.raises(ValueError, match="max_occupancy: expected at least 1, got 0"):
        KernelConfig(max_occupancy=0)


@pytest.mark.parametrize("number", [-1, 65])
def test_kernel_config_refuses_shares_that_no_thread_can_carry(number: int) -> None:
    with pytest.raises(ValueError, match=f"KernelConfig: vectors_per_thread: expected 0 to 64, got {number}"):
        KernelConfig(vectors_per_thread=number)


def test_kernel_config_as_template_arguments() -> None:
    assert make_cpp_args(*KernelConfig().template_args) == "0, 128, 1, false"
    config = KernelConfig(num_threads=64, max_occupancy=24, use_pdl=True, vectors_per_thread=4)
    assert make_cpp_args(*config.template_args) == "4, 64, 24, true"


PREBUILT, FROM_SOURCE, EDITED = 1, 2, 3
ANSWER = "#include <minisgl/ffi.h>\ninline int64_t answer() { return %d; }\nMINISGL_EXPORT(answer, answer);\n"


class TestPrebuilt:
    """A library that answers 1 lies there under the name for sources that answer 2: so one sees who answered."""

    @pytest.fixture(autouse=True)
    def csrc(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        csrc, folder = tmp_path / "csrc", tmp_path / "prebuilt"
        shutil.copytree(sources.csrc_roots()[-1], csrc)
        files = {
            "src/answer.cpp": '#include <minisgl/ffi.h>\n#include "answer.h"\n'
            "int64_t exported() { return answer(); }\nMINISGL_EXPORT(answer, exported);\n",
            "src/answer.h": "#pragma once\n#include <minisgl/answer.h>\ninline int64_t answer() { return kAnswer; }\n",
            "include/minisgl/answer.h": "#pragma once\n#  include  <minisgl/ffi.h>\n"
            f"inline constexpr int64_t kAnswer = {FROM_SOURCE};\n",
            "include/minisgl/unrelated.h": "#pragma once\n",
        }
        for path, text in files.items():
            (csrc / path).parent.mkdir(exist_ok=True)
            (csrc / path).write_text(text)
        folder.mkdir()
        monkeypatch.delenv("MINISGL_SANITIZE", raising=False)
        library = build("answer", ANSWER % PREBUILT, [], host_target())
        shutil.copy(library, folder / prebuilt.file_name("answer", ["src/answer.cpp"], [csrc]))
        monkeypatch.setattr(sources, "_PACKAGE", tmp_path / "minisgl")
        monkeypatch.setattr(prebuilt, "_FOLDER", folder)
        yield csrc
        sources.clear_overlays()

    @staticmethod
    def answer() -> int:
        return load_aot("answer", cpp_files=["answer.cpp"]).answer()

    def test_it_is_taken_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
        assert self.answer() == PREBUILT

    @pytest.mark.parametrize(
        ("path", "value"),
        [("src/answer.cpp", "answer()"), ("src/answer.h", "kAnswer"), ("include/minisgl/answer.h", str(FROM_SOURCE))],
    )
    def test_not_after_an_edit(self, csrc: Path, path: str, value: str) -> None:
        original = (csrc / path).read_text()
        (csrc / path).write_text(original.replace(f" {value};", f" {EDITED};"))
        assert self.answer() == EDITED
        (csrc / path).write_text(original)
        assert self.answer() == PREBUILT

    def test_other_headers_do_not_matter(self, csrc: Path) -> None:
        (csrc / "include/minisgl/unrelated.h").write_text("#error\n")
        assert self.answer() == PREBUILT

    def test_a_sessions_edit_is_built_while_it_lasts(self) -> None:
        sources.set_overlay("csrc/include/minisgl/unrelated.h", "// edited\nint x;\n")
        assert self.answer() == PREBUILT
        text = sources.find_source("include/minisgl/answer.h").read_text()
        sources.set_overlay("csrc/include/minisgl/answer.h", text.replace(f"= {FROM_SOURCE}", f"= {EDITED}"))
        assert self.answer() == EDITED
        sources.clear_overlays()
        assert self.answer() == PREBUILT

    def test_a_sanitizer_has_a_build_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINISGL_SANITIZE", "undefined")
        assert self.answer() == FROM_SOURCE

    def test_the_microscope_looks_at_kernels_only(self, csrc: Path) -> None:
        (csrc / "src/answer.h").write_text(f"inline int64_t answer() {{ return {EDITED}; }}\n")
        with targets.instrumented():
            assert self.answer() == EDITED

    def test_another_version_of_tvm_ffi(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.0.0")
        assert self.answer() == FROM_SOURCE

    def test_neither_a_library_nor_a_compiler(self, csrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (csrc / "src/answer.h").write_text("#error\n")
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
        with pytest.raises(ToolchainError) as caught:
            self.answer()
        assert str(caught.value) == (
            "load_aot: answer: no library for its sources came with the package. "
            "No C++ compiler found: install g++ (Debian and Ubuntu: apt install g++) or set CXX."
        )

    def test_a_source_that_is_not_there(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"src/missing\.cpp: no such source"):
            load_aot("answer", cpp_files=["missing.cpp"])

    def test_what_a_library_is_made_of(self, csrc: Path) -> None:
        (csrc / "src/answer.h").write_text('#include "../src/answer.cpp"\n#include "nobody.h"\n#include <vector>\n')
        (csrc / "src/answer.cpp").write_text(
            "#if 0\n\t# include<minisgl/unrelated.h>\n#endif\n#include <src/answer.h>\n"
        )
        found = prebuilt.contents(["src/answer.cpp"], [csrc])
        assert found.keys() == {"src/answer.cpp", "src/answer.h", "include/minisgl/unrelated.h"}

    def test_the_builder_gets_the_loaders_name(self, csrc: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["prebuilt.py", str(csrc), "answer", "src/answer.cpp"])
            patch.setitem(sys.modules, "torch", None)  # the environment of a build has none
            patch.setitem(sys.modules, "tvm_ffi", None)
            runpy.run_path(prebuilt.__file__, run_name="__main__")
        assert capsys.readouterr().out == prebuilt.file_name("answer", ["src/answer.cpp"], [csrc]) + "\n"
