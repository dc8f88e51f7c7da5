"""CUDA's atomic functions: nothing is lost, and each thread gets the value that it replaced."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from minisgl.kernel.utils import load_jit

if TYPE_CHECKING:
    from tests.host.conftest import Machine

SOURCE = Path(__file__).with_name("atomics.cu")
SIZE, SLOTS = 1000, 5
RNG = np.random.default_rng(5)
INTEGERS: dict[str, Any] = {
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
}

Operation = Callable[[int, int], int]
OPERATIONS: dict[str, tuple[tuple[str, ...], Operation]] = {
    "Add": (("int", "unsigned", "unsigned long long"), lambda old, x: old + x),
    "AddBlock": (("int", "unsigned long long"), lambda old, x: old + x),
    "AddSystem": (("unsigned",), lambda old, x: old + x),
    "Sub": (("int", "unsigned"), lambda old, x: old - x),
    "Exch": (("int", "unsigned", "unsigned long long"), lambda _, x: x),
    "Min": (tuple(INTEGERS), min),
    "Max": (tuple(INTEGERS), max),
    "Inc": (("unsigned",), lambda old, x: 0 if old >= x else old + 1),
    "Dec": (("unsigned",), lambda old, x: x if old == 0 or old > x else old - 1),
    "And": (("int", "unsigned", "unsigned long long"), lambda old, x: old & x),
    "Or": (("int", "unsigned", "unsigned long long"), lambda old, x: old | x),
    "Xor": (("int", "unsigned", "unsigned long long"), lambda old, x: old ^ x),
    "CasMultiply": (("int", "unsigned", "unsigned long long", "unsigned short"), lambda old, x: old * x),
}
FLOATS = ["float", "double", "__half", "__half2", "__nv_bfloat16", "__nv_bfloat162"]
CASES = [(op, t) for op, (types, _) in OPERATIONS.items() for t in types]


def export_name(op: str, t: str) -> str:
    return f"{op}_{t}".replace(" ", "_")


def exports() -> list[tuple[str, str]]:
    cases = [*CASES, *(("Add", t) for t in FLOATS), ("Exch", "float")]
    return [(export_name(op, t), f"update<minisgl::test::{op}, {t}>") for op, t in cases]


def update(
    machine: Machine, op: str, t: str, values: torch.Tensor, slots: np.ndarray, operands: np.ndarray
) -> np.ndarray:
    """Apply an operation to `values` in place; return what each thread got back, in the bits of `operands`."""
    function = getattr(machine.load(SOURCE, exports()), export_name(op, t))
    inputs = [torch.from_numpy(x.view(np.uint8)).to(machine.device) for x in (slots.astype(np.int32), operands)]
    before = torch.full_like(inputs[1], 0xAA)
    function(len(slots), values, inputs[0], inputs[1], before)
    return before.cpu().numpy().view(operands.dtype)


@pytest.mark.parametrize(("op", "t"), CASES)
@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle:3"])
def test_some_order_of_the_threads_explains_every_result(machine: Machine, op: str, t: str, order: str) -> None:
    """What the threads of one slot got back tells in which order they came: replay it with exact arithmetic."""
    machine.monkeypatch.setenv("MINISGL_HOST_ORDER", order)
    dtype = np.dtype(INTEGERS.get(t, np.uint16))
    limits = np.iinfo(dtype)
    start = RNG.integers(limits.min, limits.max, SLOTS, dtype=dtype, endpoint=True)
    operands = RNG.integers(limits.min, limits.max, SIZE, dtype=dtype, endpoint=True)
    if op in ("Inc", "Dec"):
        start, operands = start % 10, np.full(SIZE, 7, dtype=dtype)
    if op == "CasMultiply":
        start, operands = start | 1, operands | 1  # odd numbers never multiply to zero
    slots = RNG.integers(0, SLOTS, SIZE)
    values = torch.from_numpy(start.view(np.uint8)).clone().to(machine.device)
    before = update(machine, op, t, values, slots, operands)
    end = values.cpu().numpy().view(dtype)

    def step(old: int, x: int) -> int:
        new = OPERATIONS[op][1](old, x) & ((1 << limits.bits) - 1)
        return new - (1 << limits.bits) if new > limits.max else new

    for slot in range(SLOTS):
        mine = slots == slot
        moves = [(old, step(old, x)) for old, x in zip(before[mine].tolist(), operands[mine].tolist(), strict=True)]
        assert_one_walk(moves, int(start[slot]), int(end[slot]))


def assert_one_walk(moves: list[tuple[int, int]], start: int, end: int) -> None:
    """Assert that the moves (from, to) can be put in a row from `start` to `end`: as edges they form an Euler path."""
    balance: dict[int, int] = {start: 1}
    balance[end] = balance.get(end, 0) - 1
    neighbours: dict[int, set[int]] = {}
    for old, new in moves:
        balance[new] = balance.get(new, 0) + 1
        balance[old] = balance.get(old, 0) - 1
        neighbours.setdefault(old, set()).add(new)
    assert not any(balance.values()), "a value was overwritten that nobody saw, or seen that nobody wrote"
    reached, todo = {start}, [start]
    while todo:
        for new in neighbours.get(todo.pop(), set()) - reached:
            reached.add(new)
            todo.append(new)
    assert reached.issuperset(neighbours), "values that no sequence of operations could have produced"


def test_exclusive_or_is_exact_for_the_final_value(machine: Machine) -> None:
    operands = RNG.integers(0, 1 << 32, SIZE, dtype=np.uint32)
    values = torch.zeros(4, dtype=torch.uint8, device=machine.device)
    update(machine, "Xor", "unsigned", values, np.zeros(SIZE), operands)
    assert values.cpu().numpy().view(np.uint32)[0] == reduce(np.bitwise_xor, operands)


@pytest.mark.parametrize("t", FLOATS)
def test_sums_of_floats(machine: Machine, t: str) -> None:
    """Small whole numbers add up exactly in every format and order."""
    lanes = 2 if t.endswith("2") else 1
    dtype = {"float": torch.float32, "double": torch.float64}.get(t, torch.bfloat16 if "bf" in t else torch.float16)
    x = torch.from_numpy(RNG.integers(-2, 3, (SIZE // 4, lanes))).to(dtype)
    slots = RNG.integers(0, SLOTS, len(x))
    values = torch.full((SLOTS, lanes), 3, dtype=dtype)
    expected = values.double().index_add(0, torch.from_numpy(slots), x.double())
    values = values.to(machine.device)
    bits = x.view(torch.uint8).numpy()
    before = torch.from_numpy(update(machine, "Add", t, values, slots, bits)).view(dtype)
    assert torch.equal(values.cpu().double(), expected)
    for slot in range(SLOTS):  # the two lanes of a pair are atomic each on its own
        assert (before[slots == slot] == 3).any(dim=0).all(), "no thread saw the initial value"


def test_floats_are_exchanged_by_their_bits(machine: Machine) -> None:
    operands = np.array([np.nan, -0.0, 1.5, np.inf], dtype=np.float32)
    values = torch.zeros(4, 1, dtype=torch.float32, device=machine.device)
    before = update(machine, "Exch", "float", values, np.arange(4), operands)
    assert np.array_equal(values.cpu().numpy().ravel(), operands, equal_nan=True)
    assert np.signbit(values.cpu().numpy()[1])
    assert before.tolist() == [0, 0, 0, 0]


def test_the_source_compiles_for_a_gpu() -> None:
    wrappers = [(name, f"minisgl::test::{function}") for name, function in exports()]
    load_jit("atomics", cuda_files=[SOURCE], cuda_wrappers=wrappers, target="cuda", arch="sm_90")
