"""`load_jit`, `load_aot` and their small helpers."""

from pathlib import Path

import pytest
import torch

from minisgl.compile import CompileError
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
    assert f"{source}:8:" in str(caught.value)
    assert "kAmuont" in str(caught.value)


def test_a_wrong_target(source: Path) -> None:
    with pytest.raises(ValueError, match="target: expected 'host' or 'cuda', got 'tpu'"):
        load_jit("add", cuda_files=[source], cuda_wrappers=[], target="tpu")  # type: ignore[arg-type]


def test_make_cpp_args() -> None:
    assert make_cpp_args(8192, True, False, 1.5) == "8192, true, false, 1.5"
    with pytest.raises(TypeError, match="make_cpp_args: expected bool, int or float, got str 'x'"):
        make_cpp_args("x")  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, 48, 2048, -32])
def test_kernel_config_refuses_thread_counts(threads: int) -> None:
    with pytest.raises(ValueError, match=f"num_threads: expected a multiple of 32 from 32 to 1024, got {threads}"):
        KernelConfig(num_threads=threads)


def test_kernel_config_refuses_no_occupancy() -> None:
    with pytest.raises(ValueError, match="max_occupancy: expected at least 1, got 0"):
        KernelConfig(max_occupancy=0)


def test_kernel_config_as_template_arguments() -> None:
    assert make_cpp_args(*KernelConfig().template_args) == "128, 1, false"
