# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:7d52866c29e5

"""NCCL for tensor parallelism: a communicator in C++, over whichever NCCL the machine has."""

import atexit
import contextlib
import datetime
import functools
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, get_args

import torch
import tvm_ffi

from minisgl.compile.targets import cuda_arch
from minisgl.kernel.nccl_library import find_nccl_library
from minisgl.kernel.utils import load_aot

ReduceOp = Literal["sum", "prod", "max", "min", "avg"]

_TENSOR = torch.empty(0)  # passed along, so that a result comes as a PyTorch tensor
_OPS = {op: number for number, op in enumerate(get_args(ReduceOp))}  # NCCL numbers them in this order
_open: weakref.WeakSet["PyNCCLCommunicator"] = weakref.WeakSet()


class PyNCCLCommunicator:
    """A group of processes that send messages with NCCL. Made by `init_pynccl`.

    Every operation is put on the current stream of the communicator's device and may be captured in a CUDA graph. A
    thread watches it: if it has not ended after `timeout` seconds (or only in the last tenth of them), or NCCL reports
    an error, it is aborted, and the next call raises RuntimeError with the rank, the operation and the reason. What a
    graph runs has no deadline; NCCL's own errors are noticed there too.

    A message of `all_reduce` that fits into the buffer of `max_size_bytes` goes through it; use `get_buffer` to save
    the copies in and out. Other messages, and those in a group, go directly. Several streams may use it in turn. But a
    CUDA graph does not know of other users: do not run it beside another graph or stream that goes through the same
    buffer.

    An aborted operation leaves the GPU free again, except for one through a registered buffer: NCCL's kernels for these
    (2.28) do not notice an abort, so the call raises in time, but waiting for the GPU would take for ever.
    """

    def __init__(self, module: tvm_ffi.Module, handle: tvm_ffi.Object, device: torch.device) -> None:
        self._module = module
        self._handle = handle
        self.device = device
        self.rank: int = module.rank_of(handle)
        self.size: int = module.size_of(handle)
        self._all_reduce = module.all_reduce
        self._kept: list[tuple[torch.Tensor, ...]] | None = None
        _open.add(self)

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the tensors of all ranks, in place.

        Args:
            tensor: contiguous, of a dtype that NCCL can reduce: integers of 8, 32 and 64 bits, float16, bfloat16,
                float32, float64, and from NCCL 2.24 on float8_e4m3fn and float8_e5m2.
            op: `avg` of integers is rounded towards zero.

        Raises:
            TypeError: another dtype.
            ValueError: another device, not contiguous, or an unknown `op`.
            RuntimeError: the communicator is closed, or an operation has failed.
        """
        self._keep(tensor)
        self._all_reduce(self._handle, tensor, _op("all_reduce", op))

    def all_gather(self, output: torch.Tensor, input: torch.Tensor) -> None:
        """Put the inputs of all ranks behind each other, in the order of the ranks.

        `output` has `size` times the elements of `input`, and the same dtype, which may be any.
        """
        self._keep(output, input)
        self._module.all_gather(self._handle, output, input)

    def reduce_scatter(self, output: torch.Tensor, input: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the inputs of all ranks; rank r gets the r-th of `size` equal parts.

        `input` has `size` times the elements of `output`, and the same dtype, one of those of `all_reduce`.
        """
        self._keep(output, input)
        self._module.reduce_scatter(self._handle, output, input, _op("reduce_scatter", op))

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the tensor of rank `root` into those of the others; any dtype."""
        self._keep(tensor)
        self._module.broadcast(self._handle, tensor, root)

    def send(self, tensor: torch.Tensor, peer: int) -> None:
        """Send a tensor of any dtype to rank `peer`, which calls `recv`."""
        self._keep(tensor)
        self._module.send(self._handle, tensor, peer)

    def recv(self, tensor: torch.Tensor, peer: int) -> None:
        """Receive a tensor of the same number of bytes from rank `peer`."""
        self._keep(tensor)
        self._module.recv(self._handle, tensor, peer)

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """Make the calls of this thread inside `with` one operation.

        Nothing starts before the end of `with`; after an exception nothing starts at all. Two ranks that send to each
        other need it, as does a message to oneself.
        """
        self._module.start_group(self._handle)
        self._kept = []
        try:
            yield
        except BaseException:
            self._module.drop_group(self._handle)
            raise
        else:
            self._module.end_group(self._handle)
        finally:
            self._kept = None

    def split(self, color: int, key: int = 0) -> "PyNCCLCommunicator | None":
        """Make new groups of the ranks with the same `color`, ordered by `key`, then rank.

        Every rank calls it; one with a negative `color` gets None. The new communicator has no buffer.
        """
        handle = self._module.split(self._handle, color, key)
        return None if handle is None else PyNCCLCommunicator(self._module, handle, self.device)

    def get_buffer(self) -> torch.Tensor:
        """Return the buffer: `[max_size_bytes]` uint8. A view of it is reduced without a copy.

        Every rank must pass the same part of it. A call of `all_reduce` with another tensor that fits overwrites its
        beginning. The memory lives as long as a tensor shows it.

        Raises RuntimeError if the communicator has none or is closed.
        """
        return self._module.buffer_of(self._handle, _TENSOR)

    def _keep(self, *tensors: torch.Tensor) -> None:
        """Keep the tensors of a group until it ends: NCCL gets their addresses only then."""
        if self._kept is not None:
            self._kept.append(tensors)

    def check(self) -> None:
        """Raise RuntimeError if an operation has failed. Asks, and waits for nothing."""
        self._module.check(self._handle)

    def close(self) -> None:
        """Give everything back, together with the other ranks. A second call does nothing.

        Raises RuntimeError if the other ranks do not close theirs in time, or if an operation has failed since the last
        call.
        """
        self._module.close(self._handle)

    def __enter__(self) -> Self:
        """Return itself; the end of `with` closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; after an error without the other ranks, which may not come here."""
        if error is None:
            self.close()
        else:
            self._module.abandon(self._handle)


def init_pynccl(
    *,
    tp_rank: int,
    tp_size: int,
    tp_cpu_group: torch.distributed.ProcessGroup,
    max_size_bytes: int = 0,
    timeout: float = 600.0,
    device: torch.device | str | None = None,
) -> PyNCCLCommunicator:
    """Make a communicator of `tp_size` processes. All of them call this, with the same arguments but for the rank.

    Args:
        tp_rank: the rank of this process, from 0 on.
        tp_size: the number of processes.
        tp_cpu_group: a group of `torch.distributed` for CPU tensors (gloo) with the same ranks: it carries NCCL's
            unique id from rank 0 to the others.
        max_size_bytes: the size of a buffer that all ranks register with each other as a symmetric window (NCCL 2.27
            or newer; with an older one it is ordinary memory). 0: no buffer.
        timeout: seconds until an operation that has not ended counts as failed.
        device: by default the current GPU. `"cpu"` compiles the same source for CPU tensors, for a library that takes
            them, such as the double in this project's tests.

    Raises:
        ValueError: an argument is out of its range, or `max_size_bytes` is not the same on all ranks.
        ToolchainError: there is no compiler, or two NCCL wheels are installed.
        RuntimeError: NCCL cannot be opened or is too old; or not all ranks have come within `timeout`.
    """
    _check_arguments(tp_rank, tp_size, tp_cpu_group, max_size_bytes, timeout)
    where = _device(device)
    problem: Exception | None = None
    unique_id = b""
    try:
        module = _load(where.type, cuda_arch(where) if where.type == "cuda" else None)
        library = module.open_library(find_nccl_library())
        unique_id = bytes(module.new_unique_id(library)) if tp_rank == 0 else b""
    except Exception as error:  # the other ranks are told before it is raised
        problem = error
    mine = _Facts(unique_id, max_size_bytes, timeout, str(problem) if problem else "")
    facts = _meet(mine, tp_rank, tp_size, tp_cpu_group, timeout)
    if problem:
        raise problem
    _check_facts(facts, tp_rank)
    handle = module.new_communicator(
        library, facts[0].unique_id, tp_rank, tp_size, where.index or 0, float(timeout), max_size_bytes
    )
    return PyNCCLCommunicator(module, handle, where)


@dataclass(frozen=True)
class _Facts:
    """What one rank tells the others before they connect. `unique_id` is that of rank 0."""

    unique_id: bytes
    max_size_bytes: int
    timeout: float
    problem: str


def _check_arguments(
    rank: int, size: int, group: torch.distributed.ProcessGroup, max_size_bytes: int, timeout: float
) -> None:
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"init_pynccl: tp_cpu_group: expected a group that this process is in, got {group!r}")
    if (rank, size) != (group.rank(), group.size()):
        raise ValueError(
            f"init_pynccl: tp_rank, tp_size: expected those of tp_cpu_group, {group.rank()} and {group.size()}, "
            f"got {rank} and {size}"
        )
    if max_size_bytes < 0:
        raise ValueError(f"init_pynccl: max_size_bytes: expected at least 0, got {max_size_bytes}")
    if not 0 < timeout <= 1e9:
        raise ValueError(f"init_pynccl: timeout: expected seconds above 0, at most 1e9, got {timeout}")


def _device(device: torch.device | str | None) -> torch.device:
    where = torch.device("cuda") if device is None else torch.device(device)
    if where.type not in ("cuda", "cpu"):
        raise ValueError(f"init_pynccl: device: expected a GPU or 'cpu', got '{where}'")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("init_pynccl: device: expected a GPU, and there is none here")
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    return where


@functools.cache
def _load(device_type: str, arch: str | None) -> tvm_ffi.Module:
    return load_aot("pynccl", cuda_files=["pynccl.cu"], target="cuda" if device_type == "cuda" else "host", arch=arch)


def _meet(mine: _Facts, rank: int, size: int, group: torch.distributed.ProcessGroup, timeout: float) -> list[_Facts]:
    """Wait for all ranks on the CPU: a rank that is missing here would leave the others inside NCCL."""
    facts = [mine] * size
    try:
        torch.distributed.monitored_barrier(group, datetime.timedelta(seconds=timeout), wait_all_ranks=True)
        torch.distributed.all_gather_object(facts, mine, group)
    except RuntimeError as error:
        raise RuntimeError(f"rank {rank} of {size}: init_pynccl: not all ranks have come: {error}") from None
    return facts


def _check_facts(facts: list[_Facts], rank: int) -> None:
    for other, fact in enumerate(facts):
        if fact.problem:
            raise RuntimeError(f"rank {rank} of {len(facts)}: init_pynccl: rank {other} has failed: {fact.problem}")
        for name in ("max_size_bytes", "timeout"):
            first, its = getattr(facts[0], name), getattr(fact, name)
            if first != its:
                raise ValueError(
                    f"init_pynccl: {name}: expected the same on all ranks, got {first} on rank 0 "
                    f"and {its} on rank {other}"
                )


def _op(function: str, op: str) -> int:
    if op not in _OPS:
        raise ValueError(f"{function}: op: expected one of {', '.join(_OPS)}, got {op!r}")
    return _OPS[op]


_inherited: list[PyNCCLCommunicator] = []


def _leave_to_the_parent() -> None:
    """A forked child has no watchdog: its copies of communicators are neither abandoned nor destroyed."""
    _inherited.extend(_open)
    _open.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


@atexit.register
def _abandon_all() -> None:
    """At the end of the interpreter nobody may wait for ranks that have ended before."""
    for communicator in list(_open):
        communicator._module.abandon_at_exit(communicator._handle)
