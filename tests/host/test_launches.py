"""Grids and blocks of up to three dimensions, launches from several Python threads, and the runtime API."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import tvm_ffi

from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import make_unit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

SOURCE = Path(__file__).with_name("launches.cu")
NAMES = [
    "coordinates",
    "block_3d",
    "sums_of_blocks",
    "largest_of_warps",
    "copy_and_set",
    "device_property",
    "launch_shape",
]


@pytest.fixture
def kernels(machine: Machine) -> tvm_ffi.Module:
    return machine.load(SOURCE, [(name, name) for name in NAMES])


@pytest.mark.parametrize(
    "shape",  # blocks z, y, x, then threads z, y, x
    [(1, 1, 1, 1, 1, 1), (1, 1, 5, 1, 1, 48), (1, 3, 2, 1, 7, 5), (2, 3, 4, 3, 2, 5), (1, 1, 2, 64, 4, 4)],
)
def test_coordinates(machine: Machine, kernels: tvm_ffi.Module, shape: tuple[int, ...]) -> None:
    output = torch.empty(shape, dtype=torch.int64, device=machine.device)
    machine.in_every_order(lambda: kernels.coordinates(output), output)
    expected = [int("".join(f"{i:02}" for i in index)) for index in itertools.product(*map(range, shape))]
    assert output.flatten().tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1, 48), (1, 48, 1), (3, 5, 7), (4, 8, 32), (64, 16, 1)])
def test_warps_of_a_block_of_three_dimensions(
    machine: Machine, kernels: tvm_ffi.Module, shape: tuple[int, int, int]
) -> None:
    output = torch.empty(shape, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.block_3d(output), output)
    num_threads = output.numel()
    assert output.flatten().tolist() == [(num_threads - 1 - i) // 32 * 32 for i in range(num_threads)]


def test_launches_from_several_threads(machine: Machine, kernels: tvm_ffi.Module) -> None:
    """Eight Python threads launch two kernels of one library; each must see its own grid and shared memory."""

    def work(factor: int) -> bool:
        values = torch.randint(-999, 999, (64, 256), dtype=torch.int32, device=machine.device)
        sums = torch.empty(64, dtype=torch.int32, device=machine.device)
        largest = torch.empty(64 * 8, dtype=torch.int32, device=machine.device)
        for _ in range(20):
            kernels.sums_of_blocks(values, sums, factor)
            kernels.largest_of_warps(values, largest)
            if not torch.equal(sums.long(), values.sum(1) * factor):
                return False
            if not torch.equal(largest, values.view(-1, 32).amax(1)):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(1, 9)))


@pytest.mark.parametrize(("length", "num_bytes"), [(1, 0), (100, 37), (5000, 20000)])
def test_copy_and_set(machine: Machine, kernels: tvm_ffi.Module, length: int, num_bytes: int) -> None:
    values = torch.randint(-999, 999, (length,), dtype=torch.int32, device=machine.device)
    output = torch.empty_like(values)
    kernels.copy_and_set(values, output, num_bytes, 0xA5)
    expected = values.clone()
    expected.view(torch.uint8)[:num_bytes] = 0xA5
    assert torch.equal(output, expected)


def test_device_properties(kernels: tvm_ffi.Module) -> None:
    """A kernel may ask for 48 KiB of shared memory, and with a word to the driver for more."""
    by_property = [kernels.device_property(i, False) for i in range(5)]
    assert by_property == [kernels.device_property(i, True) for i in range(5)]
    warp_size, multiprocessors, shared, shared_opt_in, threads = by_property
    assert (warp_size, shared, threads) == (32, 48 * 1024, 1024)
    assert multiprocessors >= 1
    assert shared_opt_in >= 99 * 1024  # the least of sm_80 to sm_120


@pytest.mark.parametrize(
    "shape",
    [
        (0, 1, 1, 32, 1, 1),
        (1, 1, 1, 0, 1, 1),
        (1, 1, 1, 1025, 1, 1),
        (1, 1, 1, 32, 33, 1),
        (1, 1, 1, 1, 1, 65),
        (1, 65536, 1, 1, 1, 1),
        (1, 1, 65536, 1, 1, 1),
    ],
)
def test_shape_that_no_gpu_takes(machine: Machine, kernels: tvm_ffi.Module, shape: tuple[int, ...]) -> None:
    if machine.device == "cuda":
        pytest.skip("the launcher reads the shape from memory of the CPU")
    with pytest.raises(RuntimeError, match=r"launch_shape: kernel launch .*: invalid configuration argument"):
        kernels.launch_shape(torch.tensor(shape, dtype=torch.int32))
    kernels.launch_shape(torch.tensor([1, 65535, 1, 1024, 1, 1], dtype=torch.int32))


def test_compiled_by_nvcc() -> None:
    unit = make_unit([SOURCE], [(name, f"minisgl::test::{name}") for name in NAMES])
    assert len(machine_code("launches", unit, [SOURCE], "sm_90")) == 5
