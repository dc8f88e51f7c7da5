"""What the NCCL wrapper refuses: with an exact message, and before NCCL is called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks import Ranks, World  # type: ignore[import-not-found]  # tests/distributed is on the path

from minisgl.kernel.pynccl import init_pynccl

NCCL_CALLS = ("AllReduce", "AllGather", "ReduceScatter", "Broadcast", "Send", "Recv", "CommSplit")
F = torch.ones(4)
NOT_CONTIGUOUS = torch.ones(4, 4).T

WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (
        lambda c: c.all_reduce(F, "mean"),
        ValueError,
        "all_reduce: op: expected one of sum, prod, max, min, avg, got 'mean'",
    ),
    (
        lambda c: c.reduce_scatter(F[:2], F, "SUM"),
        ValueError,
        "reduce_scatter: op: expected one of sum, prod, max, min, avg, got 'SUM'",
    ),
    (
        lambda c: c.all_reduce(NOT_CONTIGUOUS),
        ValueError,
        "all_reduce: tensor: expected a contiguous tensor, got a stride of 4 in dimension 1",
    ),
    (
        lambda c: c.all_reduce(torch.ones(4, 4)[:, 1:]),
        ValueError,
        "all_reduce: tensor: expected a contiguous tensor, got a stride of 4 in dimension 0",
    ),
    (
        lambda c: c.all_reduce(torch.ones(1).expand(4)),
        ValueError,
        "all_reduce: tensor: expected a contiguous tensor, got a stride of 0 in dimension 0",
    ),
    (
        lambda c: c.all_reduce(torch.ones(4, device="meta")),
        Exception,  # a tensor without memory does not get so far
        "",
    ),
    *(
        (
            lambda c, dtype=dtype: c.all_reduce(torch.zeros(4, dtype=dtype)),
            TypeError,
            f"all_reduce: tensor: expected a dtype that NCCL 2.30.3 can reduce, got {name}",
        )
        for dtype, name in [(torch.int16, "int16"), (torch.bool, "bool"), (torch.complex64, "complex64")]
    ),
    (
        lambda c: c.reduce_scatter(torch.zeros(2, dtype=torch.int16), torch.zeros(4, dtype=torch.int16)),
        TypeError,
        "reduce_scatter: input: expected a dtype that NCCL 2.30.3 can reduce, got int16",
    ),
    (lambda c: c.all_reduce([1.0]), TypeError, ""),
    (lambda c: c.all_reduce(None), TypeError, "all_reduce: argument 1: expected a tensor, got None"),
    (
        lambda c: c.all_gather(torch.ones(7), F),
        ValueError,
        "all_gather: output: expected 8 elements for 2 ranks, got 7",
    ),
    (
        lambda c: c.all_gather(torch.ones(8).half(), F),
        TypeError,
        "all_gather: output: expected float32, got float16",
    ),
    (
        lambda c: c.all_gather(torch.ones(2, 4)[:, ::2], F[:2]),
        ValueError,
        "all_gather: output: expected a contiguous tensor, got a stride of 2 in dimension 1",
    ),
    (
        lambda c: c.all_gather(torch.ones(4), F[::2]),
        ValueError,
        "all_gather: input: expected a contiguous tensor, got a stride of 2 in dimension 0",
    ),
    (
        lambda c: c.reduce_scatter(torch.ones(3), F),
        ValueError,
        "reduce_scatter: input: expected 6 elements for 2 ranks, got 4",
    ),
    (
        lambda c: c.reduce_scatter(torch.ones(2, dtype=torch.int32), F),
        TypeError,
        "reduce_scatter: output: expected float32, got int32",
    ),
    (lambda c: c.broadcast(F, root=2), ValueError, "broadcast: root: expected a rank from 0 to 1, got 2"),
    (lambda c: c.broadcast(F, root=-1), ValueError, "broadcast: root: expected a rank from 0 to 1, got -1"),
    (lambda c: c.broadcast(F, root=2**32), ValueError, "broadcast: root: expected a rank from 0 to 1, got 4294967296"),
    (lambda c: c.send(F, 2), ValueError, "send: peer: expected a rank from 0 to 1, got 2"),
    (lambda c: c.recv(F, -1), ValueError, "recv: peer: expected a rank from 0 to 1, got -1"),
    (
        lambda c: c.send(F, c.rank),
        ValueError,
        "send: peer: expected another rank, got this one, {rank} (only a group can send to itself)",
    ),
    (
        lambda c: c.recv(F, c.rank),
        ValueError,
        "recv: peer: expected another rank, got this one, {rank} (only a group can send to itself)",
    ),
    (lambda c: c.split(2**31), ValueError, "split: color: expected at most 2147483647, got 2147483648"),
    (lambda c: c.split(0, 2**31), ValueError, "split: key: expected a number of 32 bits, got 2147483648"),
]


def call_wrongly(world: World) -> None:
    with world.connect(max_size_bytes=64) as communicator:
        calls = {name: world.double.count(name) for name in NCCL_CALLS}
        for call, kind, message in WRONG:
            with pytest.raises(kind) as caught:
                call(communicator)
            assert message.format(rank=world.rank) in str(caught.value)
            if message:
                assert str(caught.value) == message.format(rank=world.rank)
        assert calls == {name: world.double.count(name) for name in NCCL_CALLS}
        tensor = torch.ones(3)
        communicator.all_reduce(tensor)  # it is as good as before
        assert tensor.eq(2).all()


def refuse_to_connect(world: World) -> None:
    for changes, message in [
        ({"tp_size": 3}, r"init_pynccl: tp_rank, tp_size: expected those of tp_cpu_group, \d and 2, got \d and 3"),
        ({"tp_rank": 1 - world.rank}, r"init_pynccl: tp_rank, tp_size: expected those of tp_cpu_group, \d and 2, got"),
        ({"max_size_bytes": -1}, "init_pynccl: max_size_bytes: expected at least 0, got -1"),
        ({"timeout": 0}, "init_pynccl: timeout: expected seconds above 0, at most 1e9, got 0"),
        ({"timeout": float("nan")}, "init_pynccl: timeout: expected seconds above 0, at most 1e9, got nan"),
        ({"device": "meta"}, "init_pynccl: device: expected a GPU or 'cpu', got 'meta'"),
        (
            {"max_size_bytes": 8 * world.rank},
            "init_pynccl: max_size_bytes: expected the same on all ranks, got 0 on rank 0 and 8 on rank 1",
        ),
    ]:
        arguments = {"tp_rank": world.rank, "tp_size": 2, "tp_cpu_group": world.group, "device": "cpu", "timeout": 9.0}
        with pytest.raises(ValueError, match=message):
            init_pynccl(**(arguments | changes))
    assert world.double.count("CommInitRankConfig") == 0


def test_wrong_arguments(new_ranks: Callable[..., Ranks]) -> None:
    ranks = new_ranks(2)
    ranks.run(refuse_to_connect)
    ranks.run(call_wrongly)
