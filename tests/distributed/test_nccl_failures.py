"""Whatever goes wrong on one rank: every other one raises in time, says where and what, and nothing hangs or stays."""

import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import DIED, Double, Ranks, World  # type: ignore[import-not-found]  # tests/distributed is on the path

from minisgl.kernel.pynccl import PyNCCLCommunicator

TIMEOUT = 1.0
INJECTED = "NCCL: internal error: injected"
LATE = r"not done after 1\.0 s: did every rank call it, with equal sizes\?"
LEFT = r"NCCL: remote process exited or there was a network error: rank \d has left"


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.int32)


def exchange(c: PyNCCLCommunicator) -> None:
    """Everybody sends to everybody."""
    got = [ones(3) for _ in range(c.size)]
    with c.group():
        for peer in range(c.size):
            c.send(got[c.rank], peer)
            c.recv(got[peer], peer)


# What calls each function of NCCL, and how an error message names it.
CALLS: dict[str, tuple[str, Callable[[PyNCCLCommunicator], Any]]] = {
    "AllReduce": ("all_reduce", lambda c: c.all_reduce(ones(5))),
    "AllGather": ("all_gather", lambda c: c.all_gather(ones(5 * c.size), ones(5))),
    "ReduceScatter": ("reduce_scatter", lambda c: c.reduce_scatter(ones(5), ones(5 * c.size))),
    "Broadcast": ("broadcast", lambda c: c.broadcast(ones(5), root=1)),
    "GroupStart": ("group", exchange),
    "GroupEnd": ("group", exchange),
    "Send": ("group", exchange),
    "Recv": ("group", exchange),
    "CommSplit": ("split", lambda c: c.split(0)),
    "CommWindowDeregister": ("close", lambda c: c.close()),
    "CommFinalize": ("close", lambda c: c.close()),
}


def nothing_is_left(world: World) -> None:
    assert {name: world.double.count(name) for name in ("communicators", "allocations", "misuses")} == {
        "communicators": 0,
        "allocations": 0,
        "misuses": 0,
    }


def call_and_catch(world: World, call: Callable[[PyNCCLCommunicator], Any], timeout: float, later: float = 0) -> str:
    """Return the message of the error that a call ends with on a communicator of its own."""
    communicator = world.connect(max_size_bytes=64, timeout=timeout)
    time.sleep(later)
    started = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        call(communicator)
    assert time.monotonic() - started < timeout + 5, "5 s for a busy machine"
    message = str(caught.value).split(": ", 1)[1]  # without the name of the call
    with pytest.raises(RuntimeError, match="closed" if "close: " in message else re.escape(message)):
        communicator.all_reduce(ones(1))  # every later call says the same
    communicator.close()
    nothing_is_left(world)
    return message


def let_a_call_fail(world: World, function: str, action: int, culprit: int, timeout: float) -> str:
    if world.rank == culprit:
        world.double.inject(function, action)
    return call_and_catch(world, CALLS[function][1], timeout)


@pytest.mark.parametrize("function", CALLS)
def test_a_call_fails(ranks: Ranks, function: str) -> None:
    culprit = 1
    operation = CALLS[function][0]
    messages = ranks.run(let_a_call_fail, function, Double.FAIL, culprit, 20.0)
    for rank, message in enumerate(messages):
        reason = INJECTED if rank == culprit else LEFT
        assert re.fullmatch(rf"rank {rank} of {len(messages)}: {operation}: {reason}", message)


@pytest.mark.parametrize("function", ["AllReduce", "GroupEnd", "CommSplit", "CommFinalize"])
def test_a_call_never_returns(ranks: Ranks, function: str) -> None:
    """On one rank: it and those who wait for it run into the deadline; then the others may see that it has left."""
    operation = CALLS[function][0]
    messages = ranks.run(let_a_call_fail, function, Double.NEVER_RETURN, 0, TIMEOUT)
    for rank, message in enumerate(messages):
        assert re.fullmatch(rf"rank {rank} of {len(messages)}: {operation}: ({LATE}|{LEFT})", message)
    assert any(re.search(LATE, message) for message in messages)


def let_it_fail_later(world: World, function: str, culprit: int) -> str:
    if world.rank == culprit:
        world.double.inject(function, Double.ASYNC_ERROR, result=2)
    return call_and_catch(world, CALLS[function][1], 20.0)


@pytest.mark.parametrize("function", ["AllReduce", "GroupEnd", "CommSplit"])
def test_an_asynchronous_error(ranks: Ranks, function: str) -> None:
    messages = ranks.run(let_it_fail_later, function, 1)
    for rank, message in enumerate(messages):
        reason = "NCCL: unhandled system error" if rank == 1 else LEFT
        assert re.match(rf"rank {rank} of {len(messages)}: {CALLS[function][0]}: {reason}", message)


def come_late(world: World, culprit: int) -> str:
    later = 2 * TIMEOUT if world.rank == culprit else 0
    return call_and_catch(world, CALLS["AllReduce"][1], TIMEOUT, later)


def test_a_rank_comes_late(ranks: Ranks) -> None:
    """The others have given up meanwhile, and it is told so."""
    messages = ranks.run(come_late, 1)
    for rank, message in enumerate(messages):
        reason = LEFT if rank == 1 else rf"({LATE}|{LEFT})"
        assert re.fullmatch(rf"rank {rank} of {len(messages)}: all_reduce: {reason}", message)
    assert any(re.search(LATE, message) for message in messages)


def call_alone(world: World, name: str) -> str:
    """Rank 0 sends or receives what its peer knows nothing of."""
    communicator = world.connect(timeout=TIMEOUT)
    message = ""
    if world.rank == 0:
        with pytest.raises(RuntimeError) as caught:
            getattr(communicator, name)(ones(100_000), 1)
        message = str(caught.value)
    torch.distributed.barrier()
    with pytest.raises(RuntimeError, match=r"rank \d of \d: "):
        communicator.all_reduce(ones(1))
    communicator.close()
    nothing_is_left(world)
    return message


@pytest.mark.parametrize("name", ["send", "recv"])
def test_a_message_without_a_peer(ranks: Ranks, name: str) -> None:
    message, *_ = ranks.run(call_alone, name)
    assert re.fullmatch(rf"{name}: rank 0 of \d: {name}: {LATE}", message)


def fail_to_connect(world: World, function: str, action: int, culprit: int, timeout: float) -> str:
    if world.rank == culprit:
        world.double.inject(function, action)
    with pytest.raises(RuntimeError) as caught:
        world.connect(max_size_bytes=64, timeout=timeout)
    nothing_is_left(world)
    return str(caught.value)


@pytest.mark.parametrize(
    ("function", "reason"), [("CommInitRankConfig", LATE), ("MemAlloc", LEFT), ("CommWindowRegister", LEFT)]
)
def test_a_rank_fails_to_connect(ranks: Ranks, function: str, reason: str) -> None:
    messages = ranks.run(fail_to_connect, function, Double.FAIL, 1, TIMEOUT)
    for rank, message in enumerate(messages):
        reason_here = INJECTED if rank == 1 else reason
        assert re.fullmatch(rf"new_communicator: rank {rank} of {len(messages)}: init: {reason_here}", message)


def test_there_is_no_unique_id(ranks: Ranks) -> None:
    """All ranks are told at once, not after a time-out."""
    messages = ranks.run(fail_to_connect, "GetUniqueId", Double.FAIL, 0, 60.0)
    assert messages[0] == f"new_unique_id: {INJECTED}"
    for rank, message in enumerate(messages[1:], start=1):
        start = f"rank {rank} of {len(messages)}: init_pynccl: rank 0 has failed: "
        assert message == start + messages[0]


@pytest.mark.parametrize("function", ["CommInitRankConfig", "CommWindowRegister"])
def test_connecting_never_returns(new_ranks: Callable[..., Ranks], function: str) -> None:
    messages = new_ranks(2).run(fail_to_connect, function, Double.NEVER_RETURN, 1, TIMEOUT)
    for rank, message in enumerate(messages):
        assert re.fullmatch(rf"new_communicator: rank {rank} of 2: init: ({LATE}|{LEFT})", message)


def connect_late(world: World) -> None:
    """NCCL connects all ranks at last, but nobody waits for it any longer."""
    if world.rank == 1:
        world.double.inject("CommInitRankConfig", Double.BE_LATE, result=1500)
    with pytest.raises(RuntimeError, match=f"rank {world.rank} of {world.size}: init: {LATE}"):
        world.connect(timeout=TIMEOUT)
    deadline = time.monotonic() + 10
    while world.double.count("CommAbort") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    nothing_is_left(world)


def test_connecting_takes_too_long(new_ranks: Callable[..., Ranks]) -> None:
    new_ranks(2).run(connect_late)


def stay_away(world: World) -> str:
    if world.rank == 1:
        return ""
    return fail_to_connect(world, "none", 0, 9, TIMEOUT)


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_never_comes(new_ranks: Callable[..., Ranks], size: int) -> None:
    messages = new_ranks(size).run(stay_away)
    for rank in set(range(size)) - {1}:
        assert messages[rank].startswith(f"rank {rank} of {size}: init_pynccl: not all ranks have come: ")


@pytest.mark.parametrize("function", ["AllReduce", "GroupEnd", "CommSplit", "CommFinalize"])
def test_a_rank_dies(new_ranks: Callable[..., Ranks], function: str) -> None:
    size = 4 if function == "AllReduce" else 2
    ranks = new_ranks(size)
    messages = ranks.run(let_a_call_fail, function, Double.DIE, 1, TIMEOUT)
    for rank in set(range(size)) - {1}:
        text = rf"rank {rank} of {size}: {CALLS[function][0]}: ({LATE}|{LEFT})"
        assert re.fullmatch(text, messages[rank])
    assert messages[1] == DIED
    ranks.close()
    assert ranks.exit_codes == [42 if rank == 1 else 0 for rank in range(size)]


def use_a_dead_communicator(world: World) -> None:
    """Its relatives go on."""
    failing, well = world.connect(timeout=TIMEOUT), world.connect()
    child = failing.split(0)
    assert child is not None
    if world.rank == 0:
        world.double.inject("AllReduce", Double.FAIL)
    with pytest.raises(RuntimeError, match=f"all_reduce: NCCL|{LATE}"):
        failing.all_reduce(ones(1))
    for communicator in (child, well):
        tensor = ones(3)
        communicator.all_reduce(tensor)
        assert tensor.eq(world.size).all()
        communicator.check()
        communicator.close()
    with pytest.raises(RuntimeError, match=f"rank {world.rank} of {world.size}: all_reduce: "):
        failing.check()
    failing.close()
    nothing_is_left(world)


def test_a_failure_stays_with_its_communicator(ranks: Ranks) -> None:
    ranks.run(use_a_dead_communicator)


def abandon_while_blocked(world: World) -> None:
    communicator, errors = world.connect(timeout=60.0), []

    def call() -> None:
        try:
            communicator.all_reduce(ones(1))
        except RuntimeError as error:
            errors.append(str(error))

    if world.rank == 0:
        thread = threading.Thread(target=call)
        thread.start()
        while world.double.count("AllReduce") == 0:
            time.sleep(0.001)
        started = time.monotonic()
        communicator.check()  # does not wait
        communicator.__exit__(KeyError, KeyError(), None)
        thread.join()
        assert time.monotonic() - started < 10
        assert errors == [f"all_reduce: rank 0 of {world.size}: abandoned"]
    torch.distributed.barrier()
    communicator.__exit__(KeyError, KeyError(), None)
    nothing_is_left(world)


def test_whoever_is_blocked_is_set_free(new_ranks: Callable[..., Ranks]) -> None:
    new_ranks(2).run(abandon_while_blocked)


def miss_the_library(world: World) -> str:
    if world.rank == 1:
        os.environ["MINISGL_NCCL_LIBRARY"] = "/no/such/library"
    with pytest.raises(RuntimeError) as caught:
        world.connect()
    return str(caught.value)


def test_one_rank_has_no_library(new_ranks: Callable[..., Ranks]) -> None:
    """It tells the others, which need not wait for the time-out."""
    told, found_out = new_ranks(2).run(miss_the_library)
    assert (
        found_out == "MINISGL_NCCL_LIBRARY is '/no/such/library', which is not a file; unset it or name libnccl.so.2."
    )
    assert told == f"rank 0 of 2: init_pynccl: rank 1 has failed: {found_out}"
