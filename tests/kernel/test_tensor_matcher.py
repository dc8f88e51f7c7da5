"""What TensorMatcher accepts, refuses and says; and how arguments and errors cross from Python to C++."""

from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl.kernel.tensor import require_match
from minisgl.kernel.utils import load_jit

SOURCE = Path(__file__).with_name("matcher.cu")
FUNCTIONS = ["agree", "square", "anything", "kept", "unbound", "scale"]


@pytest.fixture(scope="module")
def cpp() -> tvm_ffi.Module:
    wrappers = [(name, f"minisgl::test::{name}") for name in FUNCTIONS]
    return load_jit("matcher", cuda_files=[SOURCE], cuda_wrappers=wrappers, target="host")


def test_symbols_agree_across_arguments(cpp: tvm_ffi.Module) -> None:
    assert cpp.agree(torch.zeros(2, 3), torch.zeros(3, 2)) == 2


def test_zero_is_a_size(cpp: tvm_ffi.Module) -> None:
    assert cpp.agree(torch.zeros(0, 3), torch.zeros(3, 0)) == 0
    with pytest.raises(
        ValueError, match=r"agree: b: expected \[D=3, L=0\] float32 on cpu, got \[3, 1\] float32 on cpu"
    ):
        cpp.agree(torch.zeros(0, 3), torch.zeros(3, 1))


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(4, 2),
            ValueError,
            "agree: b: expected [D=3, L=2] float32 on cpu, got [4, 2] float32 on cpu",
        ),
        (
            torch.zeros(2, 3),
            torch.zeros(3, 2).half(),
            TypeError,
            "agree: b: expected [D=3, L=2] float32 on cpu, got [3, 2] float16 on cpu",
        ),
        (
            torch.zeros(2, 3).double(),
            torch.zeros(3, 2),
            TypeError,
            "agree: a: expected [L, D] float16|float32 on cpu, got [2, 3] float64 on cpu",
        ),
        (
            torch.zeros(2),
            torch.zeros(3, 2),
            ValueError,
            "agree: a: expected [L, D] float32 on cpu, got [2] float32 on cpu",
        ),
        (
            torch.zeros(3, 2).t(),
            torch.zeros(3, 2),
            ValueError,
            "agree: a: expected [L=2, D=3] float32 on cpu contiguous, got [2, 3] float32 on cpu with strides [1, 2]",
        ),
    ],
)
def test_refusals(cpp: tvm_ffi.Module, a: torch.Tensor, b: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        cpp.agree(a, b)
    assert str(caught.value) == message


def test_the_dtype_is_looked_at_first_then_the_device_then_the_shape(cpp: tvm_ffi.Module) -> None:
    with pytest.raises(TypeError, match=r"got \[7\] int32 on cpu"):
        cpp.agree(torch.zeros(7, dtype=torch.int32), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"b: expected \[D=3, L=2\] float32 on cpu, got \[5, 4\] float32 on cpu$"):
        cpp.agree(torch.zeros(2, 3), torch.zeros(4, 5).t())


def test_python_says_the_same(cpp: tvm_ffi.Module) -> None:
    wrong = torch.zeros(7, 2)
    with pytest.raises(ValueError, match="expected") as from_cpp:
        cpp.agree(torch.zeros(2, 3), wrong)
    shape = (("D", 3), ("L", 2))
    with pytest.raises(ValueError, match="expected") as from_python:
        require_match("agree", "b", wrong, shape, dtypes=[torch.float32], device=torch.device("cpu"))
    assert str(from_cpp.value) == str(from_python.value)


def test_literals_and_one_symbol_twice(cpp: tvm_ffi.Module) -> None:
    assert cpp.square(torch.zeros(7, 4, 5, 5)[::2, :]) == 5
    with pytest.raises(ValueError, match=r"square: x: expected \[any, 4, N=5, N=5\], got \[7, 4, 5, 6\] float32"):
        cpp.square(torch.zeros(7, 4, 5, 6))
    with pytest.raises(ValueError, match=r"square: x: expected \[any, 4, N, N\], got \[7, 3, 5, 5\]"):
        cpp.square(torch.zeros(7, 3, 5, 5))
    with pytest.raises(ValueError, match=r"with strides \[any, any, N=5, 1\], got .* with strides \[100, 25, 1, 5\]"):
        cpp.square(torch.zeros(7, 4, 5, 5).mT)


def test_a_dimension_of_size_one_has_no_stride(cpp: tvm_ffi.Module) -> None:
    assert cpp.agree(torch.zeros(1, 3).as_strided((1, 3), (99, 1)), torch.zeros(3, 1)) == 1


def test_any_binds_nothing(cpp: tvm_ffi.Module) -> None:
    assert cpp.anything(torch.zeros(2), torch.zeros(9)[::3].int()) == 5


def test_the_matcher_owns_its_lists(cpp: tvm_ffi.Module) -> None:
    assert cpp.kept(torch.zeros(4, 5)[:, :3]) == 4
    with pytest.raises(ValueError, match=r"with strides \[5, 1\], got \[4, 3\] float32 on cpu with strides \[6, 1\]"):
        cpp.kept(torch.zeros(4, 6)[:, :3])


def test_reading_an_unbound_symbol(cpp: tvm_ffi.Module) -> None:
    with pytest.raises(RuntimeError, match="unbound: L is read before a tensor has bound it"):
        cpp.unbound()


def test_numbers_cross(cpp: tvm_ffi.Module) -> None:
    assert cpp.scale(1.5, True, 4) == -6.0
    assert cpp.scale(2, False, None) == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, True), "scale: expected 3 arguments, got 2"),
        ((1.5, 1, 4), "scale: argument 1: expected a bool, got an int"),
        (("x", True, 4), "scale: argument 0: expected a float, got a str"),
        ((1.5, True, 0.5), "scale: argument 2: expected an int or None, got a float"),
        ((torch.zeros(1), True, 1), "scale: argument 0: expected a float, got a tensor"),
    ],
)
def test_wrong_arguments(cpp: tvm_ffi.Module, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        cpp.scale(*arguments)
    assert str(caught.value) == message
