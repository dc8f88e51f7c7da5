"""Processes that run the same functions together, one per rank, under a timer that ends them."""

import ctypes
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from minisgl.kernel.pynccl import PyNCCLCommunicator, init_pynccl

SECONDS = 40.0  # more than any function here takes: whoever is not back then hangs
DIED = "died"  # the result of a rank whose process has ended

# The server imports what all ranks need, once; they are forked from it before it has threads.
_processes = get_context("forkserver")
_processes.set_forkserver_preload(["minisgl.distributed", "pytest", "cases", "conftest"])


class Double:
    """The double of NCCL in this process, for what a test asks it or wants it to do wrong."""

    FAIL, DIE, NEVER_RETURN, ASYNC_ERROR, BE_LATE = range(5)

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.fake_nccl_count.restype = ctypes.c_int64
        self._library.fake_nccl_last_address.restype = ctypes.c_void_p

    def count(self, name: str) -> int:
        """Return the calls of a function so far, or the live communicators, allocations or misuses."""
        return int(self._library.fake_nccl_count(name.encode()))

    def inject(self, function: str, action: int, result: int = 3, nth: int = 1) -> None:
        """Let the `nth` call of `function` from now on go wrong."""
        self._library.fake_nccl_inject(function.encode(), nth, action, result)

    @property
    def last_address(self) -> int:
        """Return what the last operation sent from."""
        return int(self._library.fake_nccl_last_address())


@dataclass
class World:
    """What a function finds in the process of its rank."""

    rank: int
    size: int
    group: Any
    double: Double
    shared: PyNCCLCommunicator | None = None

    def connect(self, max_size_bytes: int = 0, timeout: float = 20.0) -> PyNCCLCommunicator:
        """Make a communicator of all ranks."""
        return init_pynccl(
            tp_rank=self.rank,
            tp_size=self.size,
            tp_cpu_group=self.group,
            max_size_bytes=max_size_bytes,
            timeout=timeout,
            device="cpu",
        )


class Ranks:
    """`size` processes that wait for functions."""

    def __init__(self, size: int, library: Path, folder: Path) -> None:
        self._pipes: list[Connection] = []
        self._children: list[Any] = []
        for rank in range(size):
            ours, theirs = _processes.Pipe()
            arguments = (theirs, rank, size, str(library), str(folder / "store"))
            child = _processes.Process(target=_serve, args=arguments, daemon=True)
            child.start()
            theirs.close()
            self._pipes.append(ours)
            self._children.append(child)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `function(world, *args)` on every rank and return the results.

        An exception is raised here; a process that ends gives DIED. Too late, and all of them are killed.
        """
        for pipe in self._pipes:
            pipe.send((function, args))
        deadline = time.monotonic() + SECONDS
        answers = [self._receive(pipe, deadline) for pipe in self._pipes]
        if failures := [f"rank {rank}:\n{text}" for rank, (text, _) in enumerate(answers) if text]:
            raise AssertionError("\n".join(failures))
        return [result for _, result in answers]

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for child in self._children:
            child.join(SECONDS)
        hanging = [rank for rank, child in enumerate(self._children) if child.is_alive()]
        self._kill()
        assert not hanging, f"ranks {hanging} do not end"

    @property
    def exit_codes(self) -> list[int | None]:
        """How each process has ended; None if it runs."""
        return [child.exitcode for child in self._children]

    def _receive(self, pipe: Connection, deadline: float) -> tuple[str, Any]:
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            self._kill()
            return f"not back after {SECONDS} s", None
        try:
            return pipe.recv()
        except (EOFError, ConnectionError):
            return "", DIED

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
            child.join()


def _serve(pipe: Connection, rank: int, size: int, library: str, store: str) -> None:
    os.environ["MINISGL_NCCL_LIBRARY"] = library
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    world = World(rank, size, torch.distributed.group.WORLD, Double(library))
    while True:
        try:
            function, args = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = "", function(world, *args)
        except BaseException:  # pytest's own are no Exceptions
            answer = traceback.format_exc(), None
        pipe.send(answer)
