"""Static and dynamic shared memory hold what the threads of one block write, in every thread order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import tvm_ffi

from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import load_jit, make_unit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

SOURCE = Path(__file__).with_name("shared.cu")
NAMES = ["static_arrays", "carve", "reverse_rows", "weighted_row", "count_positive", "large_local_array"]
FUNCTIONS = [(name, name) for name in NAMES]


@pytest.fixture
def kernels(machine: Machine) -> tvm_ffi.Module:
    return machine.load(SOURCE, FUNCTIONS)


def test_static_arrays(machine: Machine, kernels: tvm_ffi.Module) -> None:
    output = torch.empty(64, device=machine.device)
    machine.in_every_order(lambda: kernels.static_arrays(output), output)
    opposite = torch.arange(63, -1, -1)
    assert torch.equal(output.cpu(), opposite * 3.5 + 0.25)


@pytest.mark.parametrize("num_threads", [2, 48, 256, 1024])
def test_one_buffer_of_several_dtypes(machine: Machine, kernels: tvm_ffi.Module, num_threads: int) -> None:
    values = torch.randint(-999, 999, (num_threads,), dtype=torch.int32, device=machine.device)
    output = torch.empty(num_threads, dtype=torch.float64, device=machine.device)
    machine.in_every_order(lambda: kernels.carve(values, output), output)
    assert torch.equal(output, values.roll(-1) * 2 + (0.125 + 3 + 0.5))


@pytest.mark.parametrize("length", [1, 63, 1000, 12 * 1024, 12 * 1024 + 1, 40_000, 58_112])
def test_dynamic_shared_memory_of_any_size(machine: Machine, kernels: tvm_ffi.Module, length: int) -> None:
    """Up to 227 KiB, the most on sm_90: above 48 KiB a kernel must be told, which is LaunchKernel's task."""
    rows = torch.randint(-999, 999, (3, length), dtype=torch.int32, device=machine.device)
    output = torch.empty_like(rows)
    machine.in_every_order(lambda: kernels.reverse_rows(rows, output), output)
    assert torch.equal(output, rows.flip(1))


def test_static_beside_dynamic(machine: Machine, kernels: tvm_ffi.Module) -> None:
    values = torch.randint(-999, 999, (32,), dtype=torch.int32, device=machine.device)
    output = torch.empty(32, device=machine.device)
    machine.in_every_order(lambda: kernels.weighted_row(values, output), output)
    assert torch.equal(output, (values * 0.5 * torch.arange(32, device=machine.device)).flip(0))


def test_shared_variable_of_a_device_function(machine: Machine, kernels: tvm_ffi.Module) -> None:
    values = torch.randint(-9, 9, (5, 200), dtype=torch.int32, device=machine.device)
    output = torch.empty(5, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.count_positive(values, output), output)
    assert torch.equal(output.long(), (values > 0).sum(1))


DECLARATIONS = {
    "dynamic": "extern __shared__ int values[];",
    "dynamic, aligned behind": "extern __shared__ __align__(16) int values[];",
    "dynamic, aligned between": "extern __align__(16) __shared__ int values[];",
    "dynamic, aligned at the end": "extern __shared__ int values[] __attribute__((aligned(16)));",
    "dynamic, volatile": "extern volatile __shared__ int values[];",
    "dynamic, two names": "extern __shared__ int values[], same_values[];",
    "dynamic, the other way round": "__shared__ extern int values[];",
    "dynamic, on many lines": "extern\n__shared__\nint\nvalues\n[\n]\n;",
    "dynamic, by its address": "extern __shared__ char bytes[]; int* values = reinterpret_cast<int*>(&bytes);",
    "static": "__shared__ int values[32];",
    "static, said twice": "static __shared__ int values[32];",
    "static, aligned before": "alignas(1024) __shared__ int values[32];",
    "static, type first": "int __shared__ values[32];",
}


KERNELS = """
__global__ void inside_{i}_kernel(int* output) {{
  {declaration}
  reverse(values_{i}, output);
}}

{declaration}
__global__ void outside_{i}_kernel(int* output) {{ reverse(values_{i}, output); }}

inline void inside_{i}(TensorView output) {{ launch<inside_{i}_kernel>(output); }}
inline void outside_{i}(TensorView output) {{ launch<outside_{i}_kernel>(output); }}
"""
SPELLINGS = """
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>
using namespace minisgl;

inline void reverse(volatile int* values, int* output) {
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  output[threadIdx.x] = values[31 - threadIdx.x];
}

template <auto kKernel>
void launch(TensorView output) {
  LaunchKernel(1, 32, output.device(), 128).run<kKernel>(static_cast<int*>(output.data()));
}
"""


@pytest.fixture(scope="module", params=["host", "microscope"])
def spellings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tvm_ffi.Module:
    source = tmp_path_factory.mktemp("spellings") / "spellings.cu"
    text, names = SPELLINGS, []
    for i, declaration in enumerate(DECLARATIONS.values()):
        own = declaration.replace("values", f"values_{i}").replace("bytes", f"bytes_{i}")
        text += KERNELS.format(i=i, declaration=own)
        names += [f"inside_{i}", f"outside_{i}"]
    source.write_text(text)
    wrappers = [(name, name) for name in names]
    return load_jit("spellings", cuda_files=[source], cuda_wrappers=wrappers, target=request.param)


@pytest.mark.parametrize("name", DECLARATIONS)
def test_spellings(spellings: tvm_ffi.Module, name: str) -> None:
    """Real code declares shared memory in many ways, in functions and outside."""
    i = list(DECLARATIONS).index(name)
    for function in (spellings[f"inside_{i}"], spellings[f"outside_{i}"]):
        output = torch.zeros(32, dtype=torch.int32)
        function(output)
        assert output.tolist() == list(range(31, -1, -1))


def test_a_large_local_array(machine: Machine, kernels: tvm_ffi.Module) -> None:
    """CUDA allows a thread 512 KiB of local memory."""
    if machine.device == "cuda":
        pytest.skip("a GPU sets that memory aside for all threads that it could run at once, which is all it has")
    output = torch.zeros(64, dtype=torch.int32)
    machine.in_every_order(lambda: kernels.large_local_array(output), output)
    assert output.tolist() == list(range(63, -1, -1))


def test_compiled_by_nvcc() -> None:
    wrappers = [(name, f"minisgl::test::{function}") for name, function in FUNCTIONS]
    assert len(machine_code("shared", make_unit([SOURCE], wrappers), [SOURCE], "sm_90")) == len(FUNCTIONS)
