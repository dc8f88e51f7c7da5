# Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:7c6c31bb1032

"""A communicator for CPU tensors over gloo, so that tensor-parallel code runs on a laptop."""

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import torch
from torch import distributed as dist

from minisgl.kernel.pynccl import ReduceOp

_OPS = {"sum": dist.ReduceOp.SUM, "prod": dist.ReduceOp.PRODUCT, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class GlooCommunicator:
    """The protocol of `minisgl.distributed.Communicator` over a gloo group of `torch.distributed`.

    Args:
        group: the group; its own time-out is that of every operation.
    """
