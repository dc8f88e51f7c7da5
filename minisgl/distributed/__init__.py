# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:81f756d5c911

"""Messages between the processes of a tensor-parallel engine."""

import torch

from minisgl.distributed.gloo import GlooCommunicator
from minisgl.distributed.protocol import Communicator
from minisgl.kernel.pynccl import ReduceOp, init_pynccl

__all__ = ["Communicator", "GlooCommunicator", "ReduceOp", "init_communicator"]


def init_communicator(
    group: torch.distributed.ProcessGroup,
    *,
    device: torch.device | str,
    max_size_bytes: int = 0,
    timeout: float = 600.0,
) -> Communicator:
    """Make the communicator for tensors on `device`: NCCL for a GPU, gloo for the CPU. Every rank of `group` calls it.

    Args:
        group: a gloo group of `torch.distributed`.
        device: where the tensors are.
        max_size_bytes: see `init_pynccl`; gloo has no use for it.
        timeout: seconds until an operation that has not ended counts as failed.

    Raises:
        TypeError: `group` is not a group, or not one of this process.
        ValueError: another argument is out of its range.
        RuntimeError: not all ranks have come within `timeout`; or see `init_pynccl`.
    """
    where = torch.device(device)
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"init_communicator: device: expected cpu or cuda, got {where}")
    if max_size_bytes < 0:
        raise ValueError(f"init_communicator: max_size_bytes: expected at least 0, got {max_size_bytes}")
    if where.type == "cpu":
        return GlooCommunicator(group, timeout)
    if not isinstance(group, torch.distributed.ProcessGroup):
        raise TypeError(f"init_communicator: group: expected one that this process is in, got {group!r}")
    return init_pynccl(
        tp_rank=group.rank(),
        tp_size=group.size(),
        tp_cpu_group=group,
        max_size_bytes=max_size_bytes,
        timeout=timeout,
        device=where,
    )
