"""How communicators of the NCCL wrapper end, and that nothing stays behind."""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import Ranks, World  # type: ignore[import-not-found]  # tests/distributed is on the path

from minisgl.kernel.pynccl import PyNCCLCommunicator


def counts(world: World) -> list[int]:
    return [world.double.count(name) for name in ("communicators", "allocations", "misuses")]


def reduce_ones(communicator: PyNCCLCommunicator | None, size: int) -> None:
    assert communicator is not None
    ones = torch.ones(5)
    communicator.all_reduce(ones)
    assert ones.eq(size).all()


def close_twice(world: World) -> None:
    communicator = world.connect(max_size_bytes=64)
    reduce_ones(communicator, world.size)
    assert counts(world) == [1, 1, 0]
    communicator.close()
    assert counts(world) == [0, 0, 0]
    communicator.close()
    calls = world.double.count("AllReduce")
    tensor = torch.ones(4)
    for name, call in {
        "all_reduce": lambda: communicator.all_reduce(tensor),
        "all_gather": lambda: communicator.all_gather(torch.ones(4 * world.size), tensor),
        "reduce_scatter": lambda: communicator.reduce_scatter(tensor, torch.ones(4 * world.size)),
        "broadcast": lambda: communicator.broadcast(torch.ones(0)),
        "send": lambda: communicator.send(tensor, (world.rank + 1) % world.size),
        "recv": lambda: communicator.recv(tensor, (world.rank + 1) % world.size),
        "start_group": lambda: communicator.group().__enter__(),
        "split": lambda: communicator.split(0),
        "buffer_of": communicator.get_buffer,
        "check": communicator.check,
    }.items():
        with pytest.raises(RuntimeError, match=f"^{name}: the communicator is closed$"):
            call()
    assert world.double.count("AllReduce") == calls


def test_close_twice(ranks: Ranks) -> None:
    ranks.run(close_twice)


def use_with(world: World) -> None:
    with world.connect(max_size_bytes=64) as communicator:
        reduce_ones(communicator, world.size)
    assert counts(world) == [0, 0, 0]
    assert world.double.count("CommAbort") == 0
    with pytest.raises(KeyError), world.connect(max_size_bytes=64) as communicator:  # noqa: PT012
        reduce_ones(communicator, world.size)
        raise KeyError
    assert counts(world) == [0, 0, 0]
    assert world.double.count("CommAbort") == 1
    with pytest.raises(RuntimeError, match="the communicator is closed"):
        communicator.all_reduce(torch.ones(1))


def test_context_manager(new_ranks: Callable[..., Ranks]) -> None:
    new_ranks(2).run(use_with)


def leave_with(world: World) -> None:
    """An exception on one rank: it does not wait for the others, and they learn that it has left."""
    if world.rank == 0:
        with pytest.raises(KeyError), world.connect(timeout=60.0):
            raise KeyError
    else:
        with (
            pytest.raises(
                RuntimeError, match=f"rank {world.rank} of {world.size}: all_reduce: NCCL: .* rank 0 has left"
            ),
            world.connect(timeout=60.0) as communicator,
        ):
            communicator.all_reduce(torch.ones(1))


def test_an_exception_on_one_rank(ranks: Ranks) -> None:
    ranks.run(leave_with)


def drop(world: World) -> None:
    communicator = world.connect(max_size_bytes=64)
    child = communicator.split(0)
    reduce_ones(communicator, world.size)
    reduce_ones(child, world.size)
    with communicator.group():
        communicator.all_reduce(torch.ones(1))
    assert counts(world)[0] == 2
    del communicator, child
    gc.collect()
    assert counts(world) == [0, 0, 0]


def test_what_nobody_holds_is_abandoned(ranks: Ranks) -> None:
    ranks.run(drop)


def keep_the_buffer(world: World) -> None:
    communicator = world.connect(max_size_bytes=64)
    view = communicator.get_buffer()[8:16].view(torch.int64)
    view.fill_(world.rank)
    communicator.all_reduce(view)
    communicator.close()
    del communicator
    gc.collect()
    assert view == sum(range(world.size))
    assert counts(world) == [0, 1, 0]
    del view
    assert counts(world) == [0, 0, 0]


def test_the_buffer_lives_as_long_as_a_tensor_shows_it(ranks: Ranks) -> None:
    ranks.run(keep_the_buffer)


# How a program may end with communicators that nobody has closed.
ENDS = {
    "open": """
child = communicator.split(0)
buffer = communicator.get_buffer()
cycle = connect()
cycle.itself = cycle
grouped = connect()
group = grouped.group()
group.__enter__()
grouped.all_reduce(torch.ones(1))
raise SystemExit(0)
""",
    "blocked": """
if rank == 0:
    threading.Thread(target=communicator.all_reduce, args=(torch.ones(1),), daemon=True).start()
    time.sleep(0.3)
else:
    sys.stdin.read()  # until the other process has ended: it is not set free by this one
""",
}
PROGRAM = """
import atexit, ctypes, os, sys, threading, time
import torch

@atexit.register  # ahead of the wrapper's, so it comes after that
def nothing_is_open():
    if ctypes.CDLL(os.environ["MINISGL_NCCL_LIBRARY"]).fake_nccl_count(b"communicators") != 0:
        os._exit(3)

from minisgl.kernel.pynccl import init_pynccl
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
def connect():
    return init_pynccl(tp_rank=rank, tp_size=2, tp_cpu_group=torch.distributed.group.WORLD, device="cpu",
                       max_size_bytes=1024, timeout=100.0)
communicator = connect()
communicator.all_reduce(torch.ones(1))
"""


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_without_close(double: Path, tmp_path: Path, end: str) -> None:
    program = PROGRAM + ENDS[end]
    environment = os.environ | {"MINISGL_NCCL_LIBRARY": str(double)}
    command = [sys.executable, "-c", program]
    pipe, store = subprocess.PIPE, str(tmp_path / "store")
    processes = [
        subprocess.Popen([*command, str(rank), store], env=environment, stdin=pipe, stderr=pipe) for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=40)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert not any("misuse" in error for error in errors)


def resources() -> tuple[int, int, int]:
    """Return descriptors, threads and KiB of memory of this process."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), int(found[1])


def create_and_destroy(world: World, cycles: int) -> tuple[int, int, int]:
    for _ in range(cycles):
        with world.connect(max_size_bytes=1 << 16) as communicator:
            reduce_ones(communicator, world.size)
            with communicator.group():
                communicator.all_reduce(torch.ones(1000))
            communicator.get_buffer().fill_(1)
    gc.collect()
    assert counts(world) == [0, 0, 0]
    return resources()


def test_a_thousand_cycles_leak_nothing(new_ranks: Callable[..., Ranks]) -> None:
    ranks = new_ranks(2)
    before = ranks.run(create_and_destroy, 100)
    after = ranks.run(create_and_destroy, 1000)
    for (files, threads, memory), (files_after, threads_after, memory_after) in zip(before, after, strict=True):
        assert (files_after, threads_after) == (files, threads)
        if "MINISGL_SANITIZE" not in os.environ:  # AddressSanitizer keeps what is freed for a while
            assert memory_after - memory < 8 * 1024, "1000 buffers alone would be 64 MiB"
