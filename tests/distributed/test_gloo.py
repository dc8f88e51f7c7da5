"""The communicator over gloo, in real processes: every operation, every argument check, every failure."""

import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cases import COUNTS, FLOATS8, INTEGERS, Case, table  # type: ignore[import-not-found]
from ranks import DIED, Ranks, World  # type: ignore[import-not-found]  # pytest puts this folder on the path

from minisgl.distributed import Communicator, init_communicator

TIMEOUT = 1.0  # of what must fail
SLACK = 4.0  # for a busy machine


def connect(world: World, timeout: float = 30.0) -> Communicator:
    return init_communicator(world.group, device="cpu", timeout=timeout)


def error_of(function: Callable[..., object], *arguments: object) -> str:
    """Return the type and message of what the function raises."""
    try:
        function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing raised"


_kept: list[Communicator] = []


# Operations


def run_table(world: World, count: int) -> int:
    with connect(world) as communicator:
        cases = list(table(world.size, [count]))
        for case in cases:
            # Floats of 8 bits are rounded once, from a sum whose own error is far below.
            case.check(communicator, roundings=1.001 if case.dtype in FLOATS8 else None)
        return len(cases)


@pytest.mark.parametrize("count", COUNTS)
def test_every_operation_and_dtype(ranks: Ranks, count: int) -> None:
    assert min(ranks.run(run_table, count)) > 200


def run_alone(world: World) -> None:
    with connect(world) as communicator:
        alone = communicator.split(world.rank)
        assert alone is not None
        assert (alone.rank, alone.size) == (0, 1)
        for case in table(1, [0, 7]):
            case.check(alone)


def test_one_process(ranks: Ranks) -> None:
    ranks.run(run_alone)


def divide_all(world: World, values: list[int], dtype: torch.dtype) -> list[int]:
    with connect(world) as communicator:
        tensor = torch.tensor(values if world.rank == 0 else [0] * len(values), dtype=dtype)
        communicator.all_reduce(tensor, "avg")
        return tensor.tolist()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_average_of_integers_at_the_ends_of_their_range(ranks: Ranks, dtype: torch.dtype) -> None:
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    values = [*range(low, low + 9), *range(high - 8, high + 1), *range(high // 2 - 4, high // 2 + 5)]
    results = ranks.run(divide_all, values, dtype)
    expected = [abs(value) // len(results) * (1 if value > 0 else -1) for value in values]
    assert results == [expected] * len(results)


def reduce_views(world: World) -> None:
    with connect(world) as communicator:
        whole = torch.full((4, 3, 5), world.rank + 1.0, requires_grad=True)
        communicator.all_reduce(whole[1:3])
        total = world.size * (world.size + 1) / 2
        assert whole[1:3].eq(total).all()
        assert whole[[0, 3]].eq(world.rank + 1).all()
        scalar = torch.tensor(world.rank)
        communicator.all_reduce(scalar, "max")
        assert scalar.item() == world.size - 1
        gathered = torch.zeros(world.size, 3, dtype=torch.int32)
        gathered[world.rank] = world.rank + 7
        communicator.all_gather(gathered, gathered[world.rank])  # NCCL allows this one overlap
        assert gathered.tolist() == [[rank + 7] * 3 for rank in range(world.size)]
        scattered = torch.arange(world.size * 2)
        communicator.reduce_scatter(scattered[2 * world.rank :][:2], scattered)
        assert scattered[2 * world.rank :][:2].tolist() == [
            2 * world.rank * world.size,
            (2 * world.rank + 1) * world.size,
        ]


def test_views_scalars_and_tensors_in_place(ranks: Ranks) -> None:
    ranks.run(reduce_views)


# Groups of calls


def call_in_groups(world: World) -> None:
    rank, size = world.rank, world.size
    with connect(world) as communicator:
        received, own = torch.zeros(size, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
        total, parts = torch.ones(5), torch.zeros(size, dtype=torch.int64)
        sent = [torch.tensor([rank, peer]) for peer in range(size)]
        with communicator.group():
            if rank % 2:  # a collective and the messages beside it may come in any order
                communicator.all_gather(parts, torch.tensor([rank]))
            for peer in reversed(range(size)):
                communicator.send(sent[peer], peer)
            communicator.all_reduce(total)
            for peer in range(size):
                communicator.recv(received[peer], peer)
            communicator.send(torch.arange(3), rank)
            communicator.recv(own, rank)
            if rank % 2 == 0:
                communicator.all_gather(parts, torch.tensor([rank]))
            communicator.send(torch.empty(0), rank)
            assert received.eq(0).all()  # nothing starts before the end
        assert received.tolist() == [[peer, rank] for peer in range(size)]
        assert own.tolist() == [0, 1, 2]
        assert total.tolist() == [size] * 5
        assert parts.tolist() == list(range(size))


def test_calls_in_a_group(ranks: Ranks) -> None:
    ranks.run(call_in_groups)


def misuse_groups(world: World) -> list[str]:
    one, two = torch.ones(1), torch.ones(2)

    def send_only() -> None:
        with communicator.group():
            communicator.send(one, world.rank)

    def receive_too_much() -> None:
        with communicator.group():
            communicator.send(one, world.rank)
            communicator.recv(two, world.rank)

    def nest(name: str, *arguments: object) -> None:
        with communicator.group():
            communicator.all_reduce(two)
            if name == "group":
                with communicator.group():
                    pass
            getattr(communicator, name)(*arguments)

    with connect(world) as communicator:
        errors = [error_of(send_only), error_of(receive_too_much)]
        errors += [error_of(nest, "group"), error_of(nest, "split", 0), error_of(nest, "close")]
        Case("exchange", torch.int32, 5).check(communicator)  # nothing is left of all that
        assert two.eq(1).all()
        return errors


def test_misused_groups_are_refused(ranks: Ranks) -> None:
    for rank, errors in enumerate(ranks.run(misuse_groups)):
        assert errors == [
            f"ValueError: group: rank {rank} has not received all that it sent to itself",
            "ValueError: recv: tensor: expected the 4 bytes sent to itself, got 8",
            "RuntimeError: group: the group before has not ended",
            "RuntimeError: split: the group before has not ended",
            "RuntimeError: close: the group before has not ended",
        ]


# Several communicators


def split_twice(world: World) -> tuple[int, int]:
    rank, size = world.rank, world.size
    with connect(world) as communicator, connect(world) as other:
        half = communicator.split(color=rank % 2, key=-rank)  # the last comes first
        assert half is not None
        members = [peer for peer in reversed(range(size)) if peer % 2 == rank % 2]
        assert (half.rank, half.size) == (members.index(rank), len(members))
        gathered = torch.empty(len(members), dtype=torch.int64)
        half.all_gather(gathered, torch.tensor([rank]))
        assert gathered.tolist() == members
        first = communicator.split(color=0 if rank == 0 else -1)
        assert (first is None) == (rank > 0)
        again = half.split(color=7)
        assert again is not None
        assert (again.rank, again.size) == (half.rank, half.size)
        for each in (communicator, other, half, again):
            Case("all_reduce", torch.int32, 100, "sum").check(each)
        half.close()
        Case("exchange", torch.int32, 100).check(again)
        again.close()
        Case("exchange", torch.int32, 100).check(communicator)
        return half.rank, half.size


def test_split(ranks: Ranks) -> None:
    assert all(rank < size for rank, size in ranks.run(split_twice))


def close_twice(world: World) -> list[str]:
    communicator = connect(world)
    communicator.close()
    communicator.close()
    with connect(world) as other:
        other.all_reduce(torch.ones(3))
    one = torch.ones(1)
    next_one = (world.rank + 1) % world.size
    return [
        error_of(communicator.all_reduce, one),
        error_of(communicator.split, 0),
        error_of(other.send, one, next_one),
    ]


def test_a_closed_communicator_says_so(ranks: Ranks) -> None:
    for errors in ranks.run(close_twice):
        assert errors == [
            f"RuntimeError: {name}: the communicator is closed" for name in ("all_reduce", "split", "send")
        ]


def leave_with_error(world: World) -> str:
    def fail() -> None:
        with connect(world) as communicator:
            if world.rank == 0:
                raise KeyError("of the test")
            communicator.all_reduce(torch.ones(1))

    begin = time.monotonic()
    message = error_of(fail)
    assert time.monotonic() - begin < 10, "the others waited until their time-out"
    return message


def test_an_error_inside_with_does_not_wait_for_the_others(ranks: Ranks) -> None:
    first, *others = ranks.run(leave_with_error)
    assert first == "KeyError: 'of the test'"
    for rank, message in enumerate(others, 1):
        assert message.startswith(f"RuntimeError: rank {rank} of {len(others) + 1}: all_reduce: gloo: ")


def count_resources() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def open_and_close(world: World, number: int) -> tuple[int, int]:
    for cycle in range(number):
        communicator = connect(world)
        communicator.all_reduce(torch.ones(1))
        if cycle % 2:
            communicator.close()
        del communicator
    return count_resources()


def test_cycles_leave_no_descriptors_and_no_threads(ranks: Ranks) -> None:
    before = ranks.run(open_and_close, 2)
    assert ranks.run(open_and_close, 50) == before


def forget_to_close(world: World) -> None:
    _kept.append(connect(world))
    _kept[0].all_reduce(torch.ones(1))


def test_the_interpreter_ends_without_close(new_ranks: Callable[..., Ranks]) -> None:
    processes = new_ranks(2)
    processes.run(forget_to_close)
    processes.close()
    assert processes.exit_codes == [0, 0]


# Arguments

REFUSED = {
    "int16": "TypeError: all_reduce: tensor: expected a dtype that NCCL can reduce, got int16",
    "bool": "TypeError: reduce_scatter: tensor: expected a dtype that NCCL can reduce, got bool",
    "op": "ValueError: all_reduce: op: expected one of sum, prod, max, min, avg, got 'mean'",
    "meta": "ValueError: broadcast: tensor: expected a tensor on cpu, got one on meta",
    "strides": "ValueError: all_reduce: tensor: expected a contiguous tensor, got strides of [1, 2]",
    "send strides": "ValueError: send: tensor: expected a contiguous tensor, got strides of [2]",
    "gather dtype": "TypeError: all_gather: output: expected float32, got float64",
    "gather size": "ValueError: all_gather: output: expected {twice} elements for {size} ranks, got 2",
    "scatter dtype": "TypeError: reduce_scatter: output: expected float32, got bfloat16",
    "scatter size": "ValueError: reduce_scatter: input: expected {twice} elements for {size} ranks, got 2",
    "root": "ValueError: broadcast: root: expected a rank from 0 to {last}, got {size}",
    "peer": "ValueError: recv: peer: expected a rank from 0 to {last}, got -1",
    "itself": "ValueError: send: peer: expected another rank, got this one, {rank} (only a group can send to itself)",
}


def refuse(world: World) -> dict[str, str]:
    two = torch.ones(2)
    with connect(world) as it:
        errors = {
            "int16": error_of(it.all_reduce, two.short()),
            "bool": error_of(it.reduce_scatter, torch.ones(1).bool(), torch.ones(world.size).bool()),
            "op": error_of(it.all_reduce, two, "mean"),
            "meta": error_of(it.broadcast, two.to("meta")),
            "strides": error_of(it.all_reduce, torch.ones(2, 2).t()),
            "send strides": error_of(it.send, torch.ones(4)[::2], (world.rank + 1) % world.size),
            "gather dtype": error_of(it.all_gather, torch.ones(world.size * 2).double(), two),
            "gather size": error_of(it.all_gather, two, two),
            "scatter dtype": error_of(it.reduce_scatter, two.bfloat16(), torch.ones(world.size * 2)),
            "scatter size": error_of(it.reduce_scatter, two, two),
            "root": error_of(it.broadcast, two, world.size),
            "peer": error_of(it.recv, two, -1),
            "itself": error_of(it.send, two, world.rank),
        }
        assert two.eq(1).all()
        Case("all_reduce", torch.int32, 5, "sum").check(it)  # no message was sent
        return errors


def test_refused_arguments(ranks: Ranks) -> None:
    all_errors = ranks.run(refuse)
    size = len(all_errors)
    for rank, errors in enumerate(all_errors):
        assert errors == {
            name: message.format(rank=rank, size=size, last=size - 1, twice=2 * size)
            for name, message in REFUSED.items()
        }


def test_init_communicator_refuses_what_no_communicator_can_be_made_of() -> None:
    group = torch.distributed.ProcessGroup(torch.distributed.HashStore(), 0, 1)
    for message, arguments in {
        "ValueError: init_communicator: device: expected cpu or cuda, got meta": (group, "meta"),
        "ValueError: init_communicator: max_size_bytes: expected at least 0, got -1": (group, "cpu", -1),
        "ValueError: init_communicator: timeout: expected seconds above 0, at most 1e9, got 0": (group, "cpu", 0, 0),
        "ValueError: init_communicator: timeout: expected seconds above 0, at most 1e9, got nan": (
            group,
            "cpu",
            0,
            math.nan,
        ),
        "TypeError: init_communicator: group: expected one that this process is in, got None": (None, "cpu"),
    }.items():
        assert error_of(init, *arguments) == message


def init(group: Any, device: str, max_size_bytes: int = 0, timeout: float = 1.0) -> Communicator:
    return init_communicator(group, device=device, max_size_bytes=max_size_bytes, timeout=timeout)


# Failures


def calls_to_the_last(communicator: Communicator) -> dict[str, Callable[[], object]]:
    """Return calls that can't end if the last rank is missing."""
    last, size = communicator.size - 1, communicator.size
    one, many = torch.ones(1000), torch.ones(1000 * size)

    def exchange() -> None:
        with communicator.group():
            communicator.send(one, last)
            communicator.recv(many, last)

    return {
        "all_reduce": lambda: communicator.all_reduce(one),
        "all_gather": lambda: communicator.all_gather(many, one),
        "reduce_scatter": lambda: communicator.reduce_scatter(one, many),
        "broadcast": lambda: communicator.broadcast(one, last),
        "send": lambda: communicator.send(one, last),
        "recv": lambda: communicator.recv(one, last),
        "group: send": exchange,
        "split": lambda: communicator.split(0),
        "close": communicator.close,
    }


def lose_a_rank(world: World, dies: bool) -> dict[str, tuple[str, float, str]] | None:
    """Call every operation, each with a communicator and a thread of its own; the last rank never does."""
    names = list(calls_to_the_last(shared := connect(world)))
    shared.close()
    communicators = {name: connect(world, timeout=60 if dies else TIMEOUT) for name in names}
    world.group.barrier().wait()
    if world.rank == world.size - 1:
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        world.group.barrier().wait()
        return None

    def call(name: str) -> tuple[str, float, str]:
        begin = time.monotonic()
        message = error_of(calls_to_the_last(communicators[name])[name])
        return message, time.monotonic() - begin, error_of(communicators[name].all_reduce, torch.ones(1))

    with ThreadPoolExecutor(len(names)) as threads:
        results = dict(zip(names, threads.map(call, names), strict=True))
    if not dies:
        world.group.barrier().wait()
    return results


def check_failures(results: list[dict[str, tuple[str, float, str]]], size: int, reasons: tuple[str, ...]) -> None:
    for rank, result in enumerate(results):
        for name, (message, seconds, later) in result.items():
            start = f"RuntimeError: rank {rank} of {size}: {name}: "
            assert message.startswith(tuple(start + reason for reason in reasons)), message
            assert "third_party" not in message
            assert seconds < TIMEOUT + SLACK
            assert later == message


def test_a_rank_that_never_calls(ranks: Ranks) -> None:
    results = ranks.run(lose_a_rank, False)
    late = f"not done after {TIMEOUT} s: did every rank call it, with equal sizes?"
    check_failures(results[:-1], len(results), (late, "gloo: Connection closed by peer", "gloo: Application timeout"))
    assert any(late in message for message, *_ in results[0].values())
    ranks.run(run_table, 7)  # the group itself is as it was


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_that_dies(new_ranks: Callable[..., Ranks], size: int) -> None:
    results = new_ranks(size).run(lose_a_rank, True)
    assert results[-1] == DIED
    check_failures(results[:-1], size, ("gloo: ",))


def come_late(world: World) -> str:
    if world.rank == world.size - 1:
        world.group.barrier().wait()
        return error_of(connect, world, TIMEOUT)
    begin = time.monotonic()
    message = error_of(connect, world, TIMEOUT)
    assert time.monotonic() - begin < TIMEOUT + SLACK
    world.group.barrier().wait()
    return message


def test_a_rank_that_never_comes(ranks: Ranks) -> None:
    *messages, late = ranks.run(come_late)
    last = len(messages)
    assert late.endswith(f"not done after {TIMEOUT} s: no sign of rank {', '.join(map(str, range(last)))}")
    for rank, message in enumerate(messages):
        start = f"RuntimeError: rank {rank} of {last + 1}: init_communicator: "
        assert message == f"{start}not done after {TIMEOUT} s: no sign of rank {last}"
    ranks.run(run_table, 1)  # the group itself is as it was


def wait_for_the_next(world: World) -> str:
    communicator = connect(world, timeout=300)
    if world.rank == world.size - 1:
        communicator.__exit__(KeyError, KeyError(), None)
        world.group.barrier().wait()
        return ""
    try:
        communicator.recv(torch.ones(1), world.rank + 1)
    except RuntimeError as error:  # whoever keeps the error must not keep the connections
        world.group.barrier().wait()
        return str(error)
    return "received"


def test_an_error_goes_from_rank_to_rank(ranks: Ranks) -> None:
    *messages, _ = ranks.run(wait_for_the_next)
    for rank, message in enumerate(messages):
        assert message.startswith(f"rank {rank} of {len(messages) + 1}: recv: gloo: ")
