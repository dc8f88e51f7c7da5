"""Six kernels of LLM inference, written as for a GPU: equal to PyTorch, and bit for bit the same in every thread order.

The oracle is PyTorch in float64 on the same inputs. A result that is computed in float and rounded once to its dtype is
then within one unit in the last place: half for the rounding, and a bit for float's own error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from minisgl import microscope
from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import load_jit, make_unit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

FOLDER = Path(__file__).parent
FLOATS = [torch.float16, torch.bfloat16, torch.float32]
FUNCTIONS = {  # by name; what is before an underscore names the source
    "rmsnorm_block": "rmsnorm<128>",
    "rmsnorm_warp": "rmsnorm<32>",  # the quickest on a CPU: a barrier or shuffle costs as much for every thread
    "softmax": "softmax<128>",
    "scan": "scan<256>",
    "topk": "topk<128>",
    "transpose": "transpose",
    "gemm": "gemm",
}


def source(name: str) -> Path:
    return FOLDER / f"{name.partition('_')[0]}.cu"


def run(machine: Machine, name: str, *arguments: object, outputs: Sequence[torch.Tensor]) -> None:
    """Run kernel `name`, which fills `outputs`; on the CPU in every thread order."""
    kernel = getattr(machine.load(source(name), [(name, FUNCTIONS[name])]), name)
    machine.in_every_order(lambda: kernel(*arguments), *outputs)


def strided(rows: int, columns: int, dtype: torch.dtype, device: str, *, gap: int) -> torch.Tensor:
    """Return random rows that lie `gap` elements apart."""
    return torch.randn(rows, columns + gap, device=device).to(dtype)[:, :columns]


def assert_within_one_ulp(actual: torch.Tensor, expected: torch.Tensor, float_error: float) -> None:
    """Check against float64: one unit in the last place of the dtype, but at least `float_error`, relative."""
    info = torch.finfo(actual.dtype)
    smallest_subnormal = info.tiny * info.eps
    rtol = max(info.eps, float_error)
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=smallest_subnormal, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "columns", "gap"),
    [
        (1, 1, 0),
        (3, 7, 0),
        (2, 8, 0),
        (2, 128, 8),
        (2, 1000, 0),
        (1, 1023, 1),
        (3, 1025, 0),
        (2, 2048, 3),
        (2, 4096, 0),
    ],
)
@pytest.mark.parametrize("name", ["rmsnorm_block", "rmsnorm_warp"])
def test_rmsnorm(machine: Machine, name: str, rows: int, columns: int, gap: int, dtype: torch.dtype) -> None:
    x = strided(rows, columns, dtype, machine.device, gap=gap)
    weight = torch.randn(columns, device=machine.device).to(dtype)
    y = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=machine.device)
    run(machine, name, x, weight, 1e-5, y, outputs=[y])
    expected = torch.nn.functional.rms_norm(x.double(), (columns,), weight.double(), 1e-5)
    # Float: a few roundings for each term, for their sum and after it; 2e-7 is the most that was measured.
    assert_within_one_ulp(y, expected, 1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "columns", "gap"), [(1, 1, 0), (3, 2, 5), (2, 31, 0), (2, 128, 0), (2, 129, 1), (1, 1000, 0), (2, 5003, 0)]
)
def test_softmax(machine: Machine, rows: int, columns: int, gap: int, dtype: torch.dtype) -> None:
    x = strided(rows, columns, dtype, machine.device, gap=gap).mul_(8)
    y = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=machine.device)
    run(machine, "softmax", x, y, outputs=[y])
    # exp turns the absolute error of its argument, here up to 64 * 2**-24 = 4e-6, into a relative one.
    assert_within_one_ulp(y, torch.softmax(x.double(), dim=-1), 1e-5)


def test_softmax_of_infinities(machine: Machine) -> None:
    """A masked logit gets 0; a row without any other gets NaN, as in PyTorch."""
    inf = torch.inf
    x = torch.tensor([[-inf, 1, 2], [1, -inf, 2], [-inf, -inf, 3], [-inf, -inf, -inf]], device=machine.device)
    x = x.repeat_interleave(100, dim=1)
    y = torch.empty_like(x)
    run(machine, "softmax", x, y, outputs=[y])
    assert_within_one_ulp(y, torch.softmax(x.double(), dim=-1), 1e-6)


@pytest.mark.parametrize("length", [1, 4, 31, 33, 128, 1000, 1023, 1024, 1025, 5000, 70001])
def test_scan(machine: Machine, length: int) -> None:
    x = torch.randint(-1000, 1000, (length,), dtype=torch.int32, device=machine.device)
    sums = torch.empty(length // 1024 + 1, dtype=torch.int32, device=machine.device)
    y = torch.empty_like(x)
    run(machine, "scan", x, y, sums, outputs=[y])
    assert torch.equal(y, torch.cumsum(x, 0, dtype=torch.int32) - x)


@pytest.mark.parametrize("k", [1, 2, 8, 32])
@pytest.mark.parametrize(("rows", "experts"), [(1, 32), (5, 60), (3, 64), (4, 96), (6, 128), (2, 160), (9, 256)])
def test_topk(machine: Machine, rows: int, experts: int, k: int) -> None:
    """Equal scores are frequent here: a stable sort puts the lowest index first, and so must the kernel."""
    scores = torch.randint(-9, 9, (rows, experts), device=machine.device) / 4.0
    scores[0, 3:20] = torch.tensor([0.0, -0.0] * 8 + [torch.nan], device=machine.device)
    scores[-1, 7] = -torch.inf
    values = torch.empty(rows, k, device=machine.device)
    indices = torch.empty(rows, k, dtype=torch.int32, device=machine.device)
    expected = scores.sort(dim=-1, descending=True, stable=True)
    run(machine, "topk", scores, values, indices, outputs=[values, indices])
    assert torch.equal(values.nan_to_num(nan=99), expected.values[:, :k].nan_to_num(nan=99))
    assert torch.equal(indices.long(), expected.indices[:, :k])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize(("rows", "columns", "gap"), [(1, 1, 0), (32, 32, 0), (31, 65, 0), (100, 33, 7), (5, 130, 1)])
def test_transpose(machine: Machine, rows: int, columns: int, gap: int, dtype: torch.dtype) -> None:
    x = strided(rows, columns, torch.float32, machine.device, gap=gap)
    x = (x * 1000).to(dtype)[:, :columns]
    y = torch.empty(columns, rows + gap, dtype=dtype, device=machine.device)[:, :rows]
    run(machine, "transpose", x, y, outputs=[y])
    assert torch.equal(y, x.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (1, 64, 16), (64, 64, 32), (63, 65, 17), (100, 7, 130), (5, 129, 0)]
)
def test_gemm(machine: Machine, m: int, n: int, k: int, dtype: torch.dtype) -> None:
    a, b = strided(m, k, dtype, machine.device, gap=3), strided(k, n, dtype, machine.device, gap=0)
    c = torch.empty(m, n + 2, dtype=dtype, device=machine.device)[:, :n]
    run(machine, "gemm", a, b, c, outputs=[c])
    exact = a.double() @ b.double()
    # A sum of k products in float is off by at most k * 2**-24 of the sum of their absolute values (Higham, 3.5).
    bound = k * 2.0**-24 * (a.double().abs() @ b.double().abs()) + torch.finfo(dtype).eps * exact.abs()
    assert ((c.double() - exact).abs() <= bound).all()


def observed_arguments(name: str, dtype: torch.dtype) -> tuple[list[object], dict[str, torch.Tensor]]:
    """Return the inputs of a kernel, and its outputs by name, which come after them."""
    if name.startswith("rmsnorm"):
        weight = torch.randn(1024).to(dtype)
        return [strided(3, 1024, dtype, "cpu", gap=8), weight, 1e-5], {"output": torch.empty(3, 1024, dtype=dtype)}
    if name == "softmax":
        return [strided(3, 300, dtype, "cpu", gap=1)], {"output": torch.empty(3, 300, dtype=dtype)}
    if name == "scan":
        x, sums = torch.randint(-9, 9, (3000,), dtype=torch.int32), torch.empty(3, dtype=torch.int32)
        return [x], {"output": torch.empty_like(x), "tile_sums": sums}
    if name == "topk":
        return [torch.randn(5, 100)], {"values": torch.empty(5, 8), "indices": torch.empty(5, 8, dtype=torch.int32)}
    if name == "transpose":
        return [strided(70, 35, dtype, "cpu", gap=5)], {"output": torch.empty(35, 70, dtype=dtype)}
    a, b = strided(70, 40, dtype, "cpu", gap=1), strided(40, 65, dtype, "cpu", gap=0)
    return [a, b], {"c": torch.empty(70, 65, dtype=dtype)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_silent_under_the_microscope(name: str, dtype: torch.dtype) -> None:
    """No finding, though the outputs start undefined; all their bytes are written; the microscope changes no result."""

    def launch(*arguments: object) -> None:
        wrapper = (name, f"minisgl::test::{FUNCTIONS[name]}")
        module = load_jit(name, cuda_files=[source(name)], cuda_wrappers=[wrapper], target="host")
        getattr(module, name)(*arguments)

    inputs, outputs = observed_arguments(name, dtype)
    launch(*inputs, *outputs.values())
    expected = {output: tensor.clone() for output, tensor in outputs.items()}
    view = microscope.observe(launch, *inputs, *outputs.values(), undefined=tuple(outputs))
    assert [str(finding) for finding in view.findings] == []
    assert view.error is None
    for output, tensor in outputs.items():
        assert torch.equal(tensor, expected[output])
        assert tensor.nbytes in [memory.bytes_written for memory in view.memories if memory.name == output]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_by_nvcc(name: str, arch: str) -> None:
    files = [source(name)]
    for kernel in machine_code(name, make_unit(files, [(name, f"minisgl::test::{FUNCTIONS[name]}")]), files, arch):
        assert kernel.spill_bytes == kernel.stack_bytes == 0, f"{kernel.name} keeps values of a thread in memory"
        assert kernel.registers <= 64, f"{kernel.name}: fewer than 1024 threads fit on a multiprocessor"
