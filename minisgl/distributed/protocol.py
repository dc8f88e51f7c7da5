# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:2a0549343dad

"""What tensor-parallel code may ask of a communicator, whatever carries its messages."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import torch

from minisgl.kernel.pynccl import ReduceOp


class Communicator(Protocol):
    """A group of processes that call the same operations in the same order; this is one of them.

    Tensors are contiguous and on `device`. On a GPU an operation is put on the current stream. A failed operation
    raises RuntimeError with the rank and the operation in its message; the communicator is of no use afterwards.
    """

    @property
    def rank(self) -> int:
        """The number of this process in the group."""

    @property
    def size(self) -> int:
        """How many processes the group has."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the tensors of all ranks, element by element, and leave the result in each of them."""

    def all_gather(self, output: torch.Tensor, input: torch.Tensor) -> None:
        """Put the inputs of all ranks behind each other: `output` has `size` times the elements of `input`."""

    def reduce_scatter(self, output: torch.Tensor, input: torch.Tensor, op: ReduceOp = "sum") -> None:
        """Combine the inputs of all ranks; rank r gets the r-th of `size` equal parts in its `output`."""

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Copy the tensor of rank `root` into those of the others."""

    def send(self, tensor: torch.Tensor, peer: int) -> None:
        """Send a tensor to rank `peer`, which calls `recv`."""

    def recv(self, tensor: torch.Tensor, peer: int) -> None:
        """Receive a tensor of the same number of bytes from rank `peer`."""

    def group(self) -> AbstractContextManager[None]:
        """Make the calls inside `with` one operation, so that sends and receives may be in any order."""

    def split(self, color: int, key: int = 0) -> "Communicator | None":
        """Make new groups of the ranks with one `color`, ordered by `key`, then rank; none for a negative color."""

    def close(self) -> None:
        """Give everything back, together with the other ranks. A second call does nothing."""

    def __enter__(self) -> Self:
        """Return itself; the end of `with` closes it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
