"""Every operation of the NCCL wrapper in real processes, built for the CPU, over the double of NCCL."""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cases import FLOATS, INTEGERS, table  # type: ignore[import-not-found]  # tests/distributed is on the path
from ranks import Ranks, World  # type: ignore[import-not-found]  # tests/distributed is on the path

from minisgl.kernel.pynccl import PyNCCLCommunicator

THRESHOLD = 4096  # bytes: a little buffer, so that little tensors lie on both sides
OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "send_recv", "exchange")


def shared(world: World) -> PyNCCLCommunicator:
    """Return the communicator that the tests of this module share."""
    if world.shared is None:
        world.shared = world.connect(max_size_bytes=THRESHOLD)
    return world.shared


def run_table(world: World, operation: str, count: int) -> int:
    cases = [case for case in table(world.size, [count]) if case.operation == operation]
    for case in cases:
        case.check(shared(world))
    assert world.double.count("misuses") == 0
    return len(cases)


# 511 to 513: below, at and above the threshold for elements of 8 bytes; 4,095 to 4,097: of one byte; 40,001 elements of
# 2 bytes and more are several chunks of the double.
@pytest.mark.parametrize("count", [0, 1, 7, 511, 512, 513, 4095, 4096, 4097, 40_001])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_and_dtype(ranks: Ranks, operation: str, count: int) -> None:
    sizes = ranks.run(run_table, operation, count)
    assert sizes[0] > 0
    assert len(set(sizes)) == 1


def reduce_and_find_address(world: World, num_bytes: int) -> tuple[bool, bool]:
    """Return whether NCCL got the buffer, and whether it got the tensor."""
    communicator = shared(world)
    tensor = torch.full((num_bytes,), world.rank + 1, dtype=torch.uint8)
    communicator.all_reduce(tensor)
    assert tensor.eq(sum(range(1, world.size + 1))).all()
    address = world.double.last_address
    return address == communicator.get_buffer().data_ptr(), address == tensor.data_ptr()


@pytest.mark.parametrize(
    ("num_bytes", "through_buffer"), [(1, True), (THRESHOLD - 1, True), (THRESHOLD, True), (THRESHOLD + 1, False)]
)
def test_threshold(ranks: Ranks, num_bytes: int, through_buffer: bool) -> None:
    for result in ranks.run(reduce_and_find_address, num_bytes):
        assert result == (through_buffer, not through_buffer)


def reduce_views_of_the_buffer(world: World) -> None:
    communicator = shared(world)
    buffer = communicator.get_buffer()
    assert buffer.shape == (THRESHOLD,)
    assert buffer.dtype == torch.uint8
    assert buffer.device == communicator.device
    for first, last in ((0, THRESHOLD), (0, 8), (64, 128), (THRESHOLD - 8, THRESHOLD)):
        buffer.fill_(7)
        view = buffer[first:last].view(torch.int64)
        view.copy_(torch.arange(len(view)) + world.rank)
        communicator.all_reduce(view)
        assert world.double.last_address == view.data_ptr()
        total = world.size * torch.arange(len(view)) + sum(range(world.size))
        assert torch.equal(view, total)
        assert buffer[:first].eq(7).all()
        assert buffer[last:].eq(7).all()


def test_a_view_of_the_buffer_is_reduced_in_place(ranks: Ranks) -> None:
    ranks.run(reduce_views_of_the_buffer)


def gather_and_scatter_in_place(world: World) -> None:
    """`input` may be this rank's part of `output`, and the other way round, as in NCCL."""
    communicator = shared(world)
    tensor = torch.full((world.size, 5), -1, dtype=torch.int32)
    tensor[world.rank] = world.rank
    communicator.all_gather(tensor, tensor[world.rank])
    assert torch.equal(tensor, torch.arange(world.size, dtype=torch.int32)[:, None].expand(-1, 5))
    communicator.reduce_scatter(tensor[world.rank], tensor)
    assert tensor[world.rank].eq(world.rank * world.size).all()


def test_in_place(ranks: Ranks) -> None:
    ranks.run(gather_and_scatter_in_place)


def reduce_shapes(world: World) -> None:
    communicator = shared(world)
    for tensor in (torch.ones(()), torch.ones(2, 3, 4), torch.ones(6, 4)[2:5], torch.ones(1, 5, 1).transpose(0, 2)):
        communicator.all_reduce(tensor)
        assert tensor.eq(world.size).all()


def test_any_shape_that_is_contiguous(ranks: Ranks) -> None:
    ranks.run(reduce_shapes)


def exchange_both_ways(world: World) -> None:
    """Everybody sends to everybody, oneself included, several messages to each, of several dtypes and sizes."""
    communicator = shared(world)
    sizes = (1, 3, 70_000)
    sent = {(r, n): torch.full((n,), 10 * world.rank + r, dtype=torch.int16) for r in range(world.size) for n in sizes}
    got = {key: torch.zeros_like(tensor) for key, tensor in sent.items()}
    reduced = torch.ones(5)
    before = world.double.count("GroupEnd")
    with communicator.group():
        for (peer, n), tensor in sent.items():
            communicator.send(tensor, peer)
            communicator.recv(got[peer, n], peer)
        communicator.all_reduce(reduced)
        assert reduced.eq(1).all(), "nothing starts before the end"
    assert world.double.count("GroupEnd") == before + 1
    assert reduced.eq(world.size).all()
    for (peer, _), tensor in got.items():
        assert tensor.eq(10 * peer + world.rank).all()


def test_group(ranks: Ranks) -> None:
    ranks.run(exchange_both_ways)


def drop_tensors_of_a_group(world: World) -> None:
    """NCCL gets the addresses at the end of the group: the tensors must be there then, and not longer."""
    communicator = shared(world)
    got = torch.zeros(3)
    with communicator.group():
        sent = torch.full((3,), float(world.rank))
        kept = weakref.ref(sent)
        communicator.send(sent, (world.rank + 1) % world.size)
        communicator.recv(got, (world.rank - 1) % world.size)
        del sent
        assert kept() is not None
    assert kept() is None
    assert got.eq((world.rank - 1) % world.size).all()


def test_a_group_keeps_its_tensors(ranks: Ranks) -> None:
    ranks.run(drop_tensors_of_a_group)


def leave_groups(world: World) -> None:
    communicator = shared(world)
    calls = world.double.count("GroupStart"), world.double.count("AllReduce")
    with communicator.group():
        pass
    with pytest.raises(KeyError, match="inside"), communicator.group():  # noqa: PT012
        communicator.all_reduce(torch.ones(1))
        raise KeyError("inside")
    with pytest.raises(ValueError, match="contiguous"), communicator.group():
        communicator.all_reduce(torch.ones(2, 2).T)
    with communicator.group(), pytest.raises(RuntimeError, match="the group before has not ended"):
        communicator.group().__enter__()
    assert calls == (world.double.count("GroupStart"), world.double.count("AllReduce"))
    ones = torch.ones(3)
    communicator.all_reduce(ones)
    assert ones.eq(world.size).all()


def test_a_group_with_an_exception_starts_nothing(ranks: Ranks) -> None:
    ranks.run(leave_groups)


def use_groups_of_two_communicators(world: World) -> None:
    with world.connect(max_size_bytes=THRESHOLD) as first, world.connect(max_size_bytes=THRESHOLD) as second:
        a, b = torch.ones(4), torch.ones(4)
        with first.group():
            first.all_reduce(a)
            second.all_reduce(b)  # not part of the group
            assert b.eq(world.size).all()
            with second.group():
                second.all_reduce(b)
            assert b.eq(world.size**2).all()
        assert a.eq(world.size).all()


def test_groups_of_two_communicators_are_apart(ranks: Ranks) -> None:
    ranks.run(use_groups_of_two_communicators)


def split_by_color(world: World) -> tuple[int, int, int] | None:
    """Even and odd ranks, in reverse order; the last rank stays out."""
    parent = shared(world)
    color = -1 if world.rank == world.size - 1 else world.rank % 2
    child = parent.split(color, key=-world.rank)
    mine = torch.tensor([world.rank])
    parent.all_reduce(mine)  # the parent still works
    assert mine == sum(range(world.size))
    if child is None:
        return None
    with child:
        mine = torch.tensor([world.rank])
        gathered = torch.empty(child.size, dtype=torch.int64)
        child.all_gather(gathered, mine)
        members = [rank for rank in range(world.size - 1) if rank % 2 == color]
        assert gathered.tolist() == members[::-1]
        with pytest.raises(RuntimeError, match="has no buffer"):
            child.get_buffer()
        grandchild = child.split(0)
        assert grandchild is not None
        grandchild.all_reduce(mine)
        assert mine == sum(members)
        grandchild.close()
        return color, child.rank, child.size


def test_split(ranks: Ranks) -> None:
    results = ranks.run(split_by_color)
    assert results == ([(0, 0, 1), None] if len(results) == 2 else [(0, 1, 2), (1, 0, 1), (0, 0, 2), None])


def call_from_threads(world: World) -> None:
    """Each thread has a communicator of its own; and threads that take turns share one."""
    own = [world.connect(max_size_bytes=THRESHOLD) for _ in range(3)]
    common, errors = shared(world), []

    def work(communicator: PyNCCLCommunicator) -> None:
        try:
            for i in range(100):
                tensor = torch.full((i + 1,), world.rank)
                communicator.all_reduce(tensor)
                assert tensor.eq(sum(range(world.size))).all()
                with communicator.group():
                    communicator.send(tensor[:1], (world.rank + 1) % world.size)
                    communicator.recv(tensor[:1], (world.rank - 1) % world.size)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(communicator,)) for communicator in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(3):
        thread = threading.Thread(target=work, args=(common,))
        thread.start()
        thread.join()
    for communicator in own:
        communicator.close()
    if errors:
        raise errors[0]


def test_threads(ranks: Ranks) -> None:
    ranks.run(call_from_threads)


def use_another_threads_group(world: World) -> None:
    communicator = shared(world)
    tensor, started, go_on = torch.ones(1), threading.Event(), threading.Event()

    def collect() -> None:
        with communicator.group():
            communicator.all_reduce(tensor)
            started.set()
            go_on.wait()

    thread = threading.Thread(target=collect)
    thread.start()
    started.wait()
    other = torch.ones(1)
    communicator.all_reduce(other)
    assert other == world.size
    assert tensor == 1
    go_on.set()
    thread.join()
    assert tensor == world.size


def test_a_group_is_one_threads(ranks: Ranks) -> None:
    ranks.run(use_another_threads_group)


def run_without_windows(world: World) -> None:
    with world.connect(max_size_bytes=THRESHOLD) as communicator:
        for case in table(world.size, [100, 5000], reducible=(*INTEGERS, *FLOATS)):
            case.check(communicator)
        buffer = communicator.get_buffer()
        buffer.fill_(1)
        communicator.all_reduce(buffer)
        assert buffer.eq(world.size).all()
        assert world.double.last_address == buffer.data_ptr()
        message = "tensor: expected a dtype that NCCL 2.18.1 can reduce, got float8_e5m2"
        with pytest.raises(TypeError, match=message):
            communicator.all_reduce(torch.ones(4).to(torch.float8_e5m2))
    assert world.double.count("misuses") == 0


def test_a_library_without_windows(new_ranks: Callable[..., Ranks], old_double: Path) -> None:
    new_ranks(2, old_double).run(run_without_windows)


def run_alone(world: World) -> None:
    with world.connect(max_size_bytes=THRESHOLD) as communicator:
        for case in table(1, [0, 3, 5000]):
            case.check(communicator)


def test_one_rank(new_ranks: Callable[..., Ranks]) -> None:
    new_ranks(1).run(run_alone)
