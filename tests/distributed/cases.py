"""Every operation of a communicator, with what it must give: a table, and an oracle in plain PyTorch and Python."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from minisgl.distributed import Communicator, ReduceOp

OPS: tuple[ReduceOp, ...] = get_args(ReduceOp)
INTEGERS = (torch.int8, torch.uint8, torch.int32, torch.uint32, torch.int64, torch.uint64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOATS8 = (torch.float8_e4m3fn, torch.float8_e5m2)
REDUCIBLE = (*INTEGERS, *FLOATS, *FLOATS8)
MOVABLE = (*REDUCIBLE, torch.bool, torch.int16, torch.complex64)
COUNTS = (0, 1, 7, 1000, 100_003)

_PERIOD = 1009  # values repeat, so that exact sums in Python stay cheap; a prime, so that no two parts are equal


@dataclass(frozen=True)
class Case:
    """One call on every rank. `count` elements are in the smaller tensor of the call."""

    operation: str
    dtype: torch.dtype
    count: int
    op: ReduceOp | None = None
    root: int = 0

    def run(self, communicator: Communicator) -> torch.Tensor:
        """Call the operation; return what it left."""
        rank, size, device = communicator.rank, communicator.size, communicator.device
        mine = self.input_of(rank, size).to(device)
        match self.operation:
            case "all_reduce":
                communicator.all_reduce(mine, self._op())
                return mine
            case "reduce_scatter":
                output = _garbage(self.count, self.dtype).to(device)
                communicator.reduce_scatter(output, mine, self._op())
                self._check_untouched(mine, rank, size)
                return output
            case "all_gather":
                output = _garbage(self.count * size, self.dtype).to(device)
                communicator.all_gather(output, mine)
                self._check_untouched(mine, rank, size)
                return output
            case "broadcast":
                communicator.broadcast(mine, self.root)
                return mine
            case "send_recv":  # from the root to the next one; the others look on
                if rank == self.root:
                    communicator.send(mine, self._next(size))
                elif rank == self._next(size):
                    communicator.recv(mine, self.root)
                return mine
            case _:  # "exchange": each sends to the next one, the last to the first; alone, to itself
                output = _garbage(self.count, self.dtype).to(device)
                with communicator.group():
                    communicator.send(mine, (rank + 1) % size)
                    communicator.recv(output, (rank - 1) % size)
                self._check_untouched(mine, rank, size)
                return output

    def input_of(self, rank: int, size: int) -> torch.Tensor:
        """Return what this rank puts in, on the CPU."""
        count = self.count * size if self.operation == "reduce_scatter" else self.count
        return _repeat(_values(self.dtype, rank, moved=self.op is None), count)

    def expected(self, rank: int, size: int) -> torch.Tensor:
        """Return what the call must leave on this rank, on the CPU; a reduction of floats in float64."""
        match self.operation:
            case "all_gather":
                return torch.cat([self.input_of(other, size) for other in range(size)])
            case "broadcast":
                return self.input_of(self.root, size)
            case "send_recv":
                return self.input_of(self.root if rank == self._next(size) else rank, size)
            case "exchange":
                return self.input_of((rank - 1) % size, size)
        return self._part(_reduce(self.dtype, self._op(), size), rank, size)

    def bound(self, rank: int, size: int, roundings: float | None = None) -> torch.Tensor | None:
        """Return how far each element may be from the expected one; None for exactly equal bits.

        Each rounding may err by half the distance of two numbers of the dtype, relative to what is added or
        multiplied. By default one for every message of a sum or product, and one for the average.
        """
        if self.op in (None, "max", "min") or not self.dtype.is_floating_point:
            return None
        info = torch.finfo(self.dtype)
        magnitude = _reduce(self.dtype, self._op(), size, absolute=True)
        error = (size + 1 if roundings is None else roundings) * (info.eps / 2 * magnitude + info.tiny * info.eps)
        return self._part(error, rank, size)

    def check(self, communicator: Communicator, roundings: float | None = None) -> None:
        """Run the case and compare."""
        rank, size = communicator.rank, communicator.size
        try:
            got, expected = self.run(communicator).cpu(), self.expected(rank, size)
        except RuntimeError as error:
            error.add_note(str(self))
            raise
        bound = self.bound(rank, size, roundings)
        if bound is None:
            same = torch.equal(_bytes(got), _bytes(expected.to(self.dtype)))
        else:
            same = bool(((got.double() - expected).abs() <= bound).all())
        assert same, f"rank {rank} of {size}: {self}: got {got[:8]}, expected {expected[:8]}, within {bound}"

    def _check_untouched(self, mine: torch.Tensor, rank: int, size: int) -> None:
        assert torch.equal(_bytes(mine.cpu()), _bytes(self.input_of(rank, size))), f"{self} has changed its input"

    def _part(self, pattern: torch.Tensor, rank: int, size: int) -> torch.Tensor:
        if self.operation == "all_reduce":
            return _repeat(pattern, self.count)
        return _repeat(pattern, self.count * size)[rank * self.count : (rank + 1) * self.count]

    def _op(self) -> ReduceOp:
        assert self.op is not None
        return self.op

    def _next(self, size: int) -> int:
        return (self.root + 1) % size


def table(
    size: int,
    counts: Iterable[int] = COUNTS,
    reducible: Sequence[torch.dtype] = REDUCIBLE,
    ops: Sequence[ReduceOp] = OPS,
) -> Iterator[Case]:
    """Yield every operation x dtype x count, and every op or root, for `size` ranks."""
    moved = (*reducible, *(dtype for dtype in MOVABLE if dtype not in REDUCIBLE))
    for count in counts:
        for operation in ("all_reduce", "reduce_scatter"):
            yield from (Case(operation, dtype, count, op) for dtype in reducible for op in ops)
        for dtype in moved:
            yield Case("all_gather", dtype, count)
            yield Case("exchange", dtype, count)
            yield from (Case("broadcast", dtype, count, root=root) for root in range(size))
            yield from (Case("send_recv", dtype, count, root=root) for root in range(size if size > 1 else 0))


@functools.cache
def _values(dtype: torch.dtype, rank: int, moved: bool) -> torch.Tensor:
    """Return one period of random values: any bits where they only move or are integers, which wrap around."""
    generator = torch.Generator().manual_seed(1000 * rank + dtype.itemsize)
    if dtype == torch.bool:
        return torch.randint(0, 2, (_PERIOD,), generator=generator).bool()
    if moved or not dtype.is_floating_point:
        return torch.randint(0, 256, (_PERIOD * dtype.itemsize,), dtype=torch.uint8, generator=generator).view(dtype)
    return torch.empty(_PERIOD).uniform_(-2, 2, generator=generator).to(dtype)


@functools.cache
def _reduce(dtype: torch.dtype, op: ReduceOp, size: int, absolute: bool = False) -> torch.Tensor:
    """Return one period of the exact result, in float64 for floats; of the magnitudes, if `absolute`."""
    inputs = [_values(dtype, rank, moved=False) for rank in range(size)]
    if not dtype.is_floating_point:
        columns = zip(*(values.tolist() for values in inputs), strict=True)
        return torch.tensor([_reduce_integers(column, op, dtype) for column in columns], dtype=dtype)
    stacked = torch.stack([values.double() for values in inputs])
    stacked = stacked.abs() if absolute else stacked
    reductions: dict[str, Callable[[], torch.Tensor]] = {
        "sum": lambda: stacked.sum(0),
        "prod": lambda: stacked.prod(0),
        "max": lambda: stacked.amax(0),
        "min": lambda: stacked.amin(0),
        "avg": lambda: stacked.sum(0) / size,
    }
    return reductions[op]()


def _reduce_integers(values: tuple[int, ...], op: ReduceOp, dtype: torch.dtype) -> int:
    if op in ("max", "min"):
        return max(values) if op == "max" else min(values)
    low, span = torch.iinfo(dtype).min, 1 << 8 * dtype.itemsize
    wrapped = ((math.prod(values) if op == "prod" else sum(values)) - low) % span + low
    if op == "avg":  # towards zero
        return abs(wrapped) // len(values) * (1 if wrapped > 0 else -1)
    return wrapped


def _repeat(pattern: torch.Tensor, count: int) -> torch.Tensor:
    times = -(-count // len(pattern))
    raw = _bytes(pattern).repeat(times)[: count * pattern.element_size()]  # not every dtype can be repeated
    return raw.view(pattern.dtype)


def _garbage(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor for results, full of what no operation leaves there."""
    fill = 1 if dtype == torch.bool else 0x7B
    return torch.full((count * dtype.itemsize,), fill, dtype=torch.uint8).view(dtype)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
