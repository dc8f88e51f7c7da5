"""Barriers and warp collectives: every thread gets what CUDA's documents say, in every thread order.

The oracles are written from the CUDA C++ Programming Guide ("Synchronization Functions", "Warp Shuffle Functions",
"Warp Vote Functions", "Warp Match Functions", "Warp Reduce Functions") and, for a shuffle's source lane, from the
pseudocode of `shfl.sync` in the PTX ISA.
"""

from __future__ import annotations

from functools import reduce
from operator import and_, or_, xor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import tvm_ffi

from minisgl.compile.machine_code import machine_code
from minisgl.kernel.utils import make_unit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

SOURCE = Path(__file__).with_name("collectives.cu")
SHUFFLED = {  # C++ type by dtype
    "int": torch.int32,
    "unsigned": torch.uint32,
    "long long": torch.int64,
    "unsigned long long": torch.uint64,
    "float": torch.float32,
    "double": torch.float64,
    "__half": torch.float16,
    "__nv_bfloat16": torch.bfloat16,
}
MATCHED = {name: SHUFFLED[name] for name in ("int", "unsigned", "long long", "unsigned long long", "float", "double")}
PLAIN = [
    "barrier_votes",
    "reverse",
    "rotate",
    "uniform_branch",
    "syncwarp",
    "divergent_halves",
    "shuffle_in_groups",
    "votes",
    "active_mask",
    "early_exit",
]
FUNCTIONS = [
    *((name, name) for name in PLAIN),
    *((f"shuffle_{name.replace(' ', '_')}", f"shuffle<{name}>") for name in SHUFFLED),
    *((f"match_{name.replace(' ', '_')}", f"match<{name}>") for name in MATCHED),
    *((f"reduce_{name}", f"reduce<{name}>") for name in ("int", "unsigned")),
]

Lanes = list[int]  # one number per lane
FULL = 0xFFFFFFFF
GROUPINGS: dict[str, list[int]] = {  # masks that together name every lane of a warp once
    "full": [FULL],
    "halves": [0x0000FFFF, 0xFFFF0000],
    "even and odd": [0x55555555, 0xAAAAAAAA],
    "one and the rest": [0x00000080, 0xFFFFFF7F],
    "pairs": [0x3 << shift for shift in range(0, 32, 2)],
    "uneven": [0x80000001, 0x00FF00F0, 0x7F00FF0E],
    "single lanes": [1 << lane for lane in range(32)],
}


@pytest.fixture
def kernels(machine: Machine) -> tvm_ffi.Module:
    return machine.load(SOURCE, FUNCTIONS)


def members(mask: int) -> Lanes:
    return [lane for lane in range(32) if mask >> lane & 1]


def masks_by_lane(grouping: str) -> Lanes:
    return [next(mask for mask in GROUPINGS[grouping] if mask >> lane & 1) for lane in range(32)]


def signed(value: int) -> int:
    """Return the int32 of the lowest 32 bits of `value`."""
    return (value + 2**31) % 2**32 - 2**31


def int32(values: Lanes, device: str) -> torch.Tensor:
    return torch.tensor([signed(value) for value in values], dtype=torch.int32, device=device)


def random_values(dtype: torch.dtype, device: str) -> torch.Tensor:
    """Return one number of any bits per lane, but no NaN."""
    if dtype.is_floating_point:
        return torch.randn(32, dtype=torch.float64).to(dtype).to(device)
    size = dtype.itemsize
    return torch.randint(0, 256, (32 * size,), dtype=torch.uint8).view(dtype).to(device)


# Barriers


@pytest.mark.parametrize("num_threads", [1, 32, 48, 128, 1024])
@pytest.mark.parametrize("which", ["none", "all", "some", "first", "all but the last"])
def test_barriers_that_count(machine: Machine, kernels: tvm_ffi.Module, num_threads: int, which: str) -> None:
    predicates = {
        "none": [0] * num_threads,
        "all": list(range(1, num_threads + 1)),
        "some": [i % 7 - 3 for i in range(num_threads)],
        "first": [-1] + [0] * (num_threads - 1),
        "all but the last": [8] * (num_threads - 1) + [0],
    }[which]
    results = torch.empty(3, num_threads, dtype=torch.int32, device=machine.device)
    tensor = int32(predicates, machine.device)
    machine.in_every_order(lambda: kernels.barrier_votes(tensor, results), results)
    count, both, either = results.tolist()
    assert set(count) == {sum(p != 0 for p in predicates)}
    assert {value != 0 for value in both} == {all(predicates)}
    assert {value != 0 for value in either} == {any(predicates)}


@pytest.mark.parametrize("num_threads", [1, 31, 48, 256, 1024])
def test_barrier_between_a_write_and_a_read(machine: Machine, kernels: tvm_ffi.Module, num_threads: int) -> None:
    values = torch.randint(-999, 999, (3, num_threads), dtype=torch.int32, device=machine.device)
    output = torch.empty_like(values)
    machine.in_every_order(lambda: kernels.reverse(values, output), output)
    assert torch.equal(output, values.flip(1))


@pytest.mark.parametrize(("num_threads", "num_rounds"), [(48, 0), (96, 1), (128, 100), (1024, 3)])
def test_many_barriers(machine: Machine, kernels: tvm_ffi.Module, num_threads: int, num_rounds: int) -> None:
    values = torch.randint(-999, 999, (num_threads,), dtype=torch.int32, device=machine.device)
    output = torch.empty_like(values)
    machine.in_every_order(lambda: kernels.rotate(values, output, num_rounds), output)
    assert torch.equal(output, values.roll(-num_rounds) + num_rounds)


def test_barriers_in_a_branch_of_whole_blocks(machine: Machine, kernels: tvm_ffi.Module) -> None:
    output = torch.empty(4, 70, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.uniform_branch(output), output)
    assert output.tolist() == [[sum(range(70)) if block % 2 else -1] * 70 for block in range(4)]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_syncwarp(machine: Machine, kernels: tvm_ffi.Module, grouping: str) -> None:
    values = torch.randint(-999, 999, (32,), dtype=torch.int32, device=machine.device)
    masks = masks_by_lane(grouping)
    output = torch.empty(3, 32, dtype=torch.int32, device=machine.device)
    tensor = int32(masks, machine.device)
    machine.in_every_order(lambda: kernels.syncwarp(tensor, values, output), output)
    next_lane = [(members(mask) * 2)[members(mask).index(lane) + 1] for lane, mask in enumerate(masks)]
    assert torch.equal(output.cpu(), values.cpu()[next_lane] + torch.arange(3)[:, None])


def test_halves_of_a_warp_on_different_ways(machine: Machine, kernels: tvm_ffi.Module) -> None:
    output = torch.empty(32, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.divergent_halves(output), output)
    value = [lane ^ 3 if lane < 16 else lane ^ 4 for lane in range(32)]
    assert output.tolist() == [value[lane ^ 16] for lane in range(32)]


# Shuffles


def source_lane(kind: str, lane: int, operand: int, width: int) -> int:
    """Return the lane that `lane` reads, by the pseudocode of `shfl.sync` in the PTX ISA.

    CUDA's functions pass `32 - width` as the mask of segments, and 0 (up) or 31 (all others) as the clamp.
    """
    segment = 32 - width
    clamp = 0 if kind == "up" else 31
    distance = operand & 31
    lowest = lane & segment
    limit = lowest | (clamp & ~segment)
    source, inside = {
        "up": (lane - distance, lane - distance >= limit),
        "down": (lane + distance, lane + distance <= limit),
        "xor": (lane ^ distance, (lane ^ distance) <= limit),
        "index": (lowest | (distance & ~segment), True),
    }[kind]
    return source if inside else lane


OPERANDS: dict[str, Lanes] = {
    "0": [0] * 32,
    "1": [1] * 32,
    "5": [5] * 32,
    "16": [16] * 32,
    "31": [31] * 32,
    "32": [32] * 32,
    "33": [33] * 32,
    "-1": [-1] * 32,
    "-32": [-32] * 32,
    "2**31 - 1": [2**31 - 1] * 32,
    "by lane": [(lane * 7 + 3) % 41 - 5 for lane in range(32)],
}


@pytest.mark.parametrize("kind", ["index", "up", "down", "xor"])
@pytest.mark.parametrize("type_name", SHUFFLED)
def test_shuffle(machine: Machine, kernels: tvm_ffi.Module, type_name: str, kind: str) -> None:
    values = random_values(SHUFFLED[type_name], machine.device)
    shuffle = getattr(kernels, f"shuffle_{type_name.replace(' ', '_')}")
    number = ["index", "up", "down", "xor"].index(kind)
    for width in (32, 16, 8, 4, 2, 1):
        for operands in OPERANDS.values():
            output, tensor = torch.empty_like(values), int32(operands, machine.device)
            machine.in_every_order(lambda: shuffle(number, values, tensor, width, output), output)  # noqa: B023
            source = [source_lane(kind, lane, operand, width) for lane, operand in enumerate(operands)]
            assert output.tolist() == [values.tolist()[lane] for lane in source], f"width {width}, {operands}"


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_shuffle_among_the_lanes_of_a_mask(machine: Machine, kernels: tvm_ffi.Module, grouping: str) -> None:
    masks = masks_by_lane(grouping)
    source = [members(mask)[lane % len(members(mask))] for lane, mask in enumerate(masks)]
    output = torch.empty(32, dtype=torch.int32, device=machine.device)
    tensors = int32(masks, machine.device), int32(source, machine.device)
    machine.in_every_order(lambda: kernels.shuffle_in_groups(*tensors, output), output)
    assert output.tolist() == [lane * lane for lane in source]


# Votes, matches, reductions


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("which", ["none", "all", "some", "first", "all but the last"])
def test_votes(machine: Machine, kernels: tvm_ffi.Module, grouping: str, which: str) -> None:
    predicates = {
        "none": [0] * 32,
        "all": list(range(1, 33)),
        "some": [lane % 3 - 1 for lane in range(32)],
        "first": [2] + [0] * 31,
        "all but the last": [-1] * 31 + [0],
    }[which]
    masks = masks_by_lane(grouping)
    results = torch.empty(3, 32, dtype=torch.int32, device=machine.device)
    tensors = int32(masks, machine.device), int32(predicates, machine.device)
    machine.in_every_order(lambda: kernels.votes(*tensors, results), results)
    ballots, any_votes, all_votes = results.tolist()
    for lane, mask in enumerate(masks):
        votes = [predicates[member] != 0 for member in members(mask)]
        ballot = sum(1 << member for member in members(mask) if predicates[member])
        assert ballots[lane] == signed(ballot)
        assert (any_votes[lane] != 0, all_votes[lane] != 0) == (any(votes), all(votes))


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("type_name", MATCHED)
@pytest.mark.parametrize("num_values", [1, 2, 5, 32])
def test_match(machine: Machine, kernels: tvm_ffi.Module, type_name: str, num_values: int, grouping: str) -> None:
    """The values differ in all their bytes, or in the upper ones alone: none may be lost."""
    dtype = MATCHED[type_name]
    values = random_values(dtype, "cpu")[torch.arange(32) * 5 % num_values]
    if not dtype.is_floating_point:
        values.view(torch.uint8).view(32, -1)[:, : dtype.itemsize // 2] = 1
    masks = masks_by_lane(grouping)
    results = torch.empty(3, 32, dtype=torch.int32, device=machine.device)
    tensors = int32(masks, machine.device), values.to(machine.device)
    match = getattr(kernels, f"match_{type_name.replace(' ', '_')}")
    machine.in_every_order(lambda: match(*tensors, results), results)
    numbers = values.tolist()
    for lane, mask in enumerate(masks):
        equal = sum(1 << member for member in members(mask) if numbers[member] == numbers[lane])
        all_equal = equal == mask
        assert results[:2, lane].tolist() == [signed(equal), signed(mask) if all_equal else 0]
        assert (results[2, lane] != 0) == all_equal


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("type_name", ["int", "unsigned"])
def test_reduce(machine: Machine, kernels: tvm_ffi.Module, type_name: str, grouping: str) -> None:
    values = random_values(SHUFFLED[type_name], "cpu")
    masks = masks_by_lane(grouping)
    results = torch.empty(6, 32, dtype=values.dtype, device=machine.device)
    tensors = int32(masks, machine.device), values.to(machine.device)
    kernel = getattr(kernels, f"reduce_{type_name}")
    machine.in_every_order(lambda: kernel(*tensors, results), results)
    wrap = signed if type_name == "int" else lambda value: value % 2**32
    for lane, mask in enumerate(masks):
        of_mask = [values.tolist()[member] for member in members(mask)]
        expected = [sum(of_mask), min(of_mask), max(of_mask), *(reduce(f, of_mask) for f in (and_, or_, xor))]
        assert results.cpu().view(torch.int32)[:, lane].tolist() == [signed(wrap(value)) for value in expected]


# Lanes that are absent


@pytest.mark.parametrize("num_threads", [32, 48, 96])
@pytest.mark.parametrize("num_lanes", [0, 1, 10, 32])
def test_active_mask(machine: Machine, kernels: tvm_ffi.Module, num_threads: int, num_lanes: int) -> None:
    results = torch.empty(2, num_threads, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.active_mask(results, num_lanes), results)
    for thread in range(num_threads):
        lanes_of_warp = min(32, num_threads - thread // 32 * 32)
        in_branch = (1 << min(num_lanes, lanes_of_warp)) - 1 if thread % 32 < num_lanes else -1
        assert results[:, thread].tolist() == [signed((1 << lanes_of_warp) - 1), signed(in_branch)]


@pytest.mark.parametrize(
    ("num_threads", "num_staying"), [(32, 1), (32, 31), (48, 48), (48, 40), (128, 70), (1024, 999)]
)
def test_early_exit(machine: Machine, kernels: tvm_ffi.Module, num_threads: int, num_staying: int) -> None:
    results = torch.empty(3, num_threads, dtype=torch.int32, device=machine.device)
    machine.in_every_order(lambda: kernels.early_exit(results, num_staying), results)
    ballots, firsts, alls = results.tolist()
    for thread in range(num_threads):
        first = thread // 32 * 32
        lanes = range(first, min(first + 32, num_staying))
        ballot = signed(sum(1 << other - first for other in lanes if other % 3 == 0))
        if thread < num_staying:
            assert (ballots[thread], firsts[thread], alls[thread] != 0) == (ballot, first, True)
        else:
            assert (ballots[thread], firsts[thread], alls[thread]) == (-1, -1, -1)


def test_compiled_by_nvcc() -> None:
    wrappers = [(name, f"minisgl::test::{function}") for name, function in FUNCTIONS]
    kernels = machine_code("collectives", make_unit([SOURCE], wrappers), [SOURCE], "sm_90")
    assert len(kernels) == len(FUNCTIONS)
