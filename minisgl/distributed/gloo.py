# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:d557f77e61c9

"""A communicator for CPU tensors over gloo, so that tensor-parallel code runs on a laptop."""

import contextlib
import datetime
import re
import time
from collections import deque
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import NoReturn, Self, cast

import torch
from torch import distributed as dist

from minisgl.kernel.pynccl import ReduceOp

_OPS = {
    "sum": dist.ReduceOp.SUM,
    "prod": dist.ReduceOp.PRODUCT,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "avg": dist.ReduceOp.SUM,  # divided afterwards: gloo has no average of integers
}
_SIGNED = {torch.uint32: torch.int32, torch.uint64: torch.int64}  # sums and products of both have the same bits
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *_FLOAT8)
_REDUCIBLE = (torch.int8, torch.uint8, torch.int32, torch.int64, *_SIGNED, *_FLOATS)
_MESSAGE, _PART = 0, 1  # tags: what `send` sends is never taken for a part of an `all_gather`

# Starts when it is first asked, yields what to wait for, and finishes when it is asked again.
_Operation = Generator[list[dist.Work], None, None]


class GlooCommunicator:
    """The protocol of `minisgl.distributed.Communicator` for CPU tensors. Made by every rank of a group.

    It has connections of its own; the group only says who takes part. A call returns when it is done. If that takes
    more than `timeout` seconds, or another rank has gone, it raises RuntimeError with the rank and the operation, and
    so does every later call. Calls come from one thread at a time, with equal sizes on all ranks. Nothing compares the
    sizes: gloo ends a process that gets more than it expects.

    Any dtype can be sent; those of `PyNCCLCommunicator` can be reduced. Integers wrap around, and their average is
    rounded towards zero. Floats of 16 bits are rounded after every addition. Gloo has no floats of 8 bits: they are
    reduced as float32, then rounded once. All other tensors are sent and reduced in place, without a copy; only
    `reduce_scatter` copies its input.

    Args:
        group: a group of `torch.distributed` that this process is in.
        timeout: seconds until an operation that has not ended counts as failed.
    """

    device = torch.device("cpu")

    def __init__(self, group: dist.ProcessGroup, timeout: float = 600.0) -> None:
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"init_communicator: group: expected one that this process is in, got {group!r}")
        if not 0 < timeout <= 1e9:
            raise ValueError(f"init_communicator: timeout: expected seconds above 0, at most 1e9, got {timeout}")
        store, counter = group.get_group_store(), f"minisgl/{group.rank()}"
        number = store.add(counter, 0)  # of communicators that this rank has made: every rank has made as many
        self._start(dist.PrefixStore(f"minisgl/{number}", store), group.rank(), group.size(), timeout)
        self._meet("init_communicator")
        store.add(counter, 1)  # not before: where a rank was missing, they may try again
        self._connect("init_communicator")

    def _start(self, store: dist.Store, rank: int, size: int, timeout: float) -> None:
        """Begin with a store that nobody has used before: a used one holds the addresses of earlier ranks."""
        self.rank, self.size = rank, size
        self._store, self._timeout = store, timeout
        self._connections: dist.ProcessGroupGloo | None = None
        self._failure: str | None = None
        self._grouped: list[tuple[str, _Operation]] | None = None
        self._to_self: deque[torch.Tensor] = deque()
        self._splits = 0

    def _meet(self, name: str) -> None:
        """Wait until every rank is here. The store's own wait counts in whole seconds and names nobody."""
        deadline = time.monotonic() + self._timeout
        never_seen = set(range(self.size))
        self._store.set(f"here/{self.rank}", "")
        while missing := {rank for rank in range(self.size) if not self._store.check([f"here/{rank}"])}:
            never_seen &= missing  # the others may have come, and left without the missing
            if time.monotonic() >= deadline:
                self._store.delete_key(f"here/{self.rank}")
                ranks = ", ".join(map(str, sorted(never_seen or missing)))
                self._fail(name, f"not done after {self._timeout:.1f} s: no sign of rank {ranks}")
            time.sleep(0.005)

    def _connect(self, name: str) -> None:
        timeout = datetime.timedelta(seconds=max(self._timeout, 0.001))  # it counts milliseconds
        try:
            self._connections = dist.ProcessGroupGloo(self._store, self.rank, self.size, timeout)
        except RuntimeError as error:
            self._fail(name, _first_sentence(error))
        self._finish([(name, self._barrier())])  # another rank may still be at it

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the tensors of all ranks, in place.

        Args:
            tensor: contiguous, of integers of 8, 32 or 64 bits, float16, bfloat16, float32, float64, float8_e4m3fn or
                float8_e5m2.
            op: `avg` of integers is rounded towards zero.

        Raises:
            TypeError: another dtype.
            ValueError: not on the CPU, not contiguous, or an unknown `op`.
            RuntimeError: the communicator is closed, or this or an earlier operation has failed.
        """
        values = _values("all_reduce: tensor", tensor)
        _check_reduction("all_reduce", values, op)
        self._run("all_reduce", values, self._reduce(values, op))

    def all_gather(self, output: torch.Tensor, input: torch.Tensor) -> None:
        """Put the inputs of all ranks behind each other, in the order of the ranks.

        `output` has `size` times the elements of `input`, and the same dtype, which may be any.
        """
        mine, everything = _bytes("all_gather: input", input), _bytes("all_gather: output", output)
        _check_dtype("all_gather: output", output, input)
        self._check_elements("all_gather: output", output, input.numel() * self.size)
        self._run("all_gather", mine, self._gather(everything, mine))

    def reduce_scatter(self, output: torch.Tensor, input: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the inputs of all ranks; rank r gets the r-th of `size` equal parts.

        `input` has `size` times the elements of `output`, and the same dtype, one of those of `all_reduce`.
        """
        values, part = _values("reduce_scatter: input", input), _values("reduce_scatter: output", output)
        _check_dtype("reduce_scatter: output", output, input)
        self._check_elements("reduce_scatter: input", input, output.numel() * self.size)
        _check_reduction("reduce_scatter", values, op)
        self._run("reduce_scatter", values, self._reduce_part(part, values, op))

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the tensor of rank `root` into those of the others; any dtype."""
        message = _bytes("broadcast: tensor", tensor)
        self._check_rank("broadcast: root", root)
        self._run("broadcast", message, self._broadcast(message, root))

    def send(self, tensor: torch.Tensor, peer: int) -> None:
        """Send a tensor of any dtype to rank `peer`, which calls `recv`."""
        message = _bytes("send: tensor", tensor)
        self._check_peer("send: peer", peer)
        self._run("send", message, self._send(message, peer))

    def recv(self, tensor: torch.Tensor, peer: int) -> None:
        """Receive a tensor of the same number of bytes from rank `peer`."""
        message = _bytes("recv: tensor", tensor)
        self._check_peer("recv: peer", peer)
        self._run("recv", message, self._recv(message, peer))

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """Make the calls inside `with` one operation: they start together at its end, and it waits for all of them.

        Two ranks that send to each other need it, as does a message to oneself. After an exception nothing is sent.
        """
        self._require_open("group")
        grouped: list[tuple[str, _Operation]] = []
        self._grouped = grouped
        self._to_self.clear()
        try:
            yield
        finally:
            self._grouped = None
        self._finish(grouped)
        if self._to_self:
            raise ValueError(f"group: rank {self.rank} has not received all that it sent to itself")

    def split(self, color: int, key: int = 0) -> "GlooCommunicator | None":
        """Make new groups of the ranks with the same `color`, ordered by `key`, then rank.

        Every rank calls it; one with a negative `color` gets None.
        """
        self._require_open("split")
        mine, answers = torch.tensor([color, key]), torch.empty(self.size, 2, dtype=torch.int64)
        self._finish([("split", self._gather(_bytes("split", answers), _bytes("split", mine)))])
        self._splits += 1
        if color < 0:
            return None
        keys = [(key, rank) for rank, (other, key) in enumerate(answers.tolist()) if other == color]
        ranks = [rank for _, rank in sorted(keys)]
        made = GlooCommunicator.__new__(GlooCommunicator)
        store = dist.PrefixStore(f"split/{self._splits}/{color}", self._store)
        made._start(store, ranks.index(self.rank), len(ranks), self._timeout)
        made._meet("split")
        made._connect("split")
        return made

    def close(self) -> None:
        """Give everything back, together with the other ranks. A second call does nothing, nor one after a failure."""
        if self._connections is None:
            return
        self._require_open("close")
        self._finish([("close", self._barrier())])  # so that nobody leaves while another still waits for its message
        self._connections = None

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
            self._connections = None

    def _reduce(self, values: torch.Tensor, op: ReduceOp) -> _Operation:
        if values.dtype in _FLOAT8:
            wide = values.float()
            yield from self._reduce(wide, op)
            values.copy_(wide)
            return
        signed = values.view(_SIGNED.get(values.dtype, values.dtype))
        # With its highest bit turned, an unsigned number has the order of a signed one.
        turn = torch.iinfo(signed.dtype).min if values.dtype in _SIGNED and op in ("max", "min") else None
        if turn:
            signed ^= turn
        yield [self._gloo.allreduce(signed, _OPS[op])]
        if turn:
            signed ^= turn
        if op == "avg":
            _divide(values, self.size)

    def _reduce_part(self, part: torch.Tensor, values: torch.Tensor, op: ReduceOp) -> _Operation:
        """Reduce all and keep a part: gloo has no other way."""
        reduced = values.clone()
        yield from self._reduce(reduced, op)
        part.copy_(reduced.chunk(self.size)[self.rank])

    def _gather(self, everything: torch.Tensor, mine: torch.Tensor) -> _Operation:
        """Send to every rank, and receive in place; gloo's own all_gather copies the result once more."""
        parts = everything.chunk(self.size)
        others = [rank for rank in range(self.size) if rank != self.rank]
        parts[self.rank].copy_(mine)
        yield [
            *(self._gloo.recv([parts[rank]], rank, _PART) for rank in others),
            *(self._gloo.send([mine], rank, _PART) for rank in others),
        ]

    def _broadcast(self, message: torch.Tensor, root: int) -> _Operation:
        yield [self._gloo.broadcast(message, root)]

    def _send(self, message: torch.Tensor, peer: int) -> _Operation:
        if peer == self.rank:
            self._to_self.append(message)
            yield []
        else:
            yield [self._gloo.send([message], peer, _MESSAGE)]

    def _recv(self, message: torch.Tensor, peer: int) -> _Operation:
        if peer != self.rank:
            yield [self._gloo.recv([message], peer, _MESSAGE)]
            return
        yield []
        sent = self._to_self.popleft() if self._to_self else message[:0]
        if sent.numel() != message.numel():
            raise ValueError(f"recv: tensor: expected the {sent.numel()} bytes sent to itself, got {message.numel()}")
        message.copy_(sent)

    def _barrier(self) -> _Operation:
        yield [self._gloo.barrier()]

    @property
    def _gloo(self) -> dist.ProcessGroup:
        """The connections, whose end tells the others of a failure. An error would keep a variable that holds them."""
        return cast(dist.ProcessGroup, self._connections)  # it has the methods that its type hides

    def _run(self, name: str, message: torch.Tensor, operation: _Operation) -> None:
        """Finish an operation now, or at the end of the group. All ranks skip it if there is nothing to send."""
        if self._connections is None:
            raise RuntimeError(self._failure or f"{name}: the communicator is closed")
        if message.numel() == 0:
            return
        if self._grouped is None:
            self._finish([(name, operation)])
        else:
            self._grouped.append((f"group: {name}", operation))

    def _finish(self, operations: list[tuple[str, _Operation]]) -> None:
        """Start all of them, wait for all, and finish all."""
        begin = time.monotonic()
        name, failure = _wait(operations)
        if name:
            is_late = time.monotonic() - begin >= self._timeout
            late = f"not done after {self._timeout:.1f} s: did every rank call it, with equal sizes?"
            self._fail(name, late if is_late else failure)
        for _, operation in operations:
            next(operation, None)

    def _fail(self, name: str, reason: str) -> NoReturn:
        self._connections = None
        self._failure = f"rank {self.rank} of {self.size}: {name}: {reason}"
        raise RuntimeError(self._failure) from None

    def _require_open(self, name: str) -> None:
        """Raise unless a call is possible that can't be part of a group."""
        if self._connections is None:
            raise RuntimeError(self._failure or f"{name}: the communicator is closed")
        if self._grouped is not None:
            raise RuntimeError(f"{name}: the group before has not ended")

    def _check_elements(self, argument: str, tensor: torch.Tensor, expected: int) -> None:
        if tensor.numel() != expected:
            raise ValueError(f"{argument}: expected {expected} elements for {self.size} ranks, got {tensor.numel()}")

    def _check_rank(self, argument: str, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ValueError(f"{argument}: expected a rank from 0 to {self.size - 1}, got {rank}")

    def _check_peer(self, argument: str, peer: int) -> None:
        self._check_rank(argument, peer)
        if peer == self.rank and self._grouped is None:
            raise ValueError(
                f"{argument}: expected another rank, got this one, {peer} (only a group can send to itself)"
            )


def _wait(operations: list[tuple[str, _Operation]]) -> tuple[str, str]:
    """Start all and wait for all. Return the name of the one that failed, and why; or nothing."""
    name, started = "", []
    try:
        for name, operation in operations:
            started.append((name, next(operation)))
        for name, works in started:  # noqa: B007
            for work in works:
                work.wait()
    except RuntimeError as error:
        return name, _first_sentence(error)
    return "", ""


def _first_sentence(error: RuntimeError) -> str:
    """What gloo says, without the names of its source files, and without its advice behind."""
    return "gloo: " + re.sub(r"\[\S+\.cc:\d+\] ", "", str(error)).split(". ")[0].strip()


def _values(argument: str, tensor: torch.Tensor) -> torch.Tensor:
    """Check a tensor and return its elements in one dimension."""
    if tensor.device.type != "cpu":
        raise ValueError(f"{argument}: expected a tensor on cpu, got one on {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{argument}: expected a contiguous tensor, got strides of {list(tensor.stride())}")
    return tensor.detach().view(-1)


def _bytes(argument: str, tensor: torch.Tensor) -> torch.Tensor:
    """Check a tensor and return its bytes, which gloo can send whatever they mean."""
    return _values(argument, tensor).view(torch.uint8)


def _check_dtype(argument: str, tensor: torch.Tensor, other: torch.Tensor) -> None:
    if tensor.dtype != other.dtype:
        raise TypeError(f"{argument}: expected {_dtype_name(other)}, got {_dtype_name(tensor)}")


def _check_reduction(function: str, values: torch.Tensor, op: str) -> None:
    if op not in _OPS:
        raise ValueError(f"{function}: op: expected one of {', '.join(_OPS)}, got {op!r}")
    if values.dtype not in _REDUCIBLE:
        raise TypeError(f"{function}: tensor: expected a dtype that NCCL can reduce, got {_dtype_name(values)}")


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _divide(values: torch.Tensor, divisor: int) -> None:
    """Divide in place; integers towards zero."""
    if values.is_floating_point():
        values.div_(divisor)
    elif values.dtype != torch.uint64:
        values.copy_(values.long().div_(divisor, rounding_mode="trunc"))
    else:  # PyTorch can't divide these: halve, divide as signed, double, and mend what that lost
        signed = values.view(torch.int64)
        quotient = 2 * (((signed >> 1) & torch.iinfo(torch.int64).max) // divisor)
        signed.copy_(quotient + (signed - quotient * divisor >= divisor))
