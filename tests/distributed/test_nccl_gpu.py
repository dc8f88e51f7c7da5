"""The communicator on real GPUs, with the NCCL that is here.

`MINISGL_TEST_RANKS` is the number of processes, by default that of the GPUs, and at least 2. Several on one GPU need
NCCL 2.30 and `NCCL_MULTI_RANK_GPU_ENABLE=1`.
"""

import ctypes
import faulthandler
import functools
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case, table  # type: ignore[import-not-found]  # pytest puts this folder on the path
from torch import distributed as dist

from minisgl.kernel import pynccl
from minisgl.kernel.nccl_library import find_nccl_library

RANKS = int(os.environ.get("MINISGL_TEST_RANKS") or max(2, torch.cuda.device_count()))
BUFFER_BYTES = 4096
LIMIT_S = 120.0
SHORT_TIMEOUT_S = 4.0
SLEEP_CYCLES = 100_000_000  # about 50 ms


def why_not() -> str:
    """Return why nothing can be tested here, if so."""
    if not torch.cuda.is_available():
        return "no GPU here; the same source is tested on the CPU, with a double of NCCL"
    gpus = torch.cuda.device_count()
    if gpus >= RANKS:
        return ""
    version = ctypes.c_int()
    try:
        ctypes.CDLL(find_nccl_library()).ncclGetVersion(ctypes.byref(version))
    except (OSError, RuntimeError) as error:
        return f"no NCCL here: {error}"
    if version.value < 23000:
        return f"{RANKS} ranks on {gpus} GPU need NCCL 2.30, here is {version.value}"
    if os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") != "1":
        return f"{RANKS} ranks on {gpus} GPU need NCCL_MULTI_RANK_GPU_ENABLE=1"
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(reason := why_not()), reason=reason)]
several_ranks = pytest.mark.skipif(RANKS < 2, reason="one rank has nobody to wait for")


class Rank:
    """What a job finds in its process."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(self.device)

    @functools.cached_property
    def direct(self) -> pynccl.PyNCCLCommunicator:
        return self.make()

    @functools.cached_property
    def buffered(self) -> pynccl.PyNCCLCommunicator:
        return self.make(max_size_bytes=BUFFER_BYTES)

    def make(self, max_size_bytes: int = 0, timeout: float = 60.0) -> pynccl.PyNCCLCommunicator:
        group = dist.group.WORLD
        assert group is not None
        return pynccl.init_pynccl(
            tp_rank=self.rank,
            tp_size=RANKS,
            tp_cpu_group=group,
            max_size_bytes=max_size_bytes,
            timeout=timeout,
            device=self.device,
        )

    def numbers(self, count: int, seed: int = 0) -> torch.Tensor:
        """Return small integers in float32, of which every sum is exact; other ones on each rank."""
        return self.numbers_of(self.rank, count, seed)

    def sum_of_numbers(self, count: int, seed: int = 0) -> torch.Tensor:
        return torch.stack([self.numbers_of(rank, count, seed) for rank in range(RANKS)]).sum(0)

    def all_numbers(self, count: int, seed: int = 0) -> torch.Tensor:
        return torch.cat([self.numbers_of(rank, count, seed) for rank in range(RANKS)])

    def numbers_of(self, rank: int, count: int, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(100 * seed + rank)
        return torch.randint(-100, 100, (count,), generator=generator).float().to(self.device)


class Ranks:
    """Processes that do the same job, as often as asked. None outlives its time limit."""

    def __init__(self, folder: Path) -> None:
        self.broken = False
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            arguments = (rank, f"file://{folder / 'store'}", theirs)
            process = context.Process(target=serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self, job: Callable[..., Any], *arguments: object, limit_s: float = LIMIT_S) -> list[Any]:
        """Return what `job(Rank(...), *arguments)` returns on each rank."""
        for pipe in self.pipes:
            pipe.send((limit_s, job, arguments))
        deadline = time.monotonic() + limit_s + 10.0
        answers = [self.answer(rank, deadline) for rank in range(RANKS)]
        errors = [error for error, _ in answers if error]
        self.broken = bool(errors)  # the ranks no longer agree on what comes next
        assert not errors, "\n".join(errors)
        return [result for _, result in answers]

    def answer(self, rank: int, deadline: float) -> tuple[str, Any]:
        try:
            if self.pipes[rank].poll(max(0.0, deadline - time.monotonic())):
                return self.pipes[rank].recv()
            return f"rank {rank}: no answer in time", None
        except (EOFError, OSError):
            self.processes[rank].join(10.0)
            return f"rank {rank}: died, exit code {self.processes[rank].exitcode}", None

    def exit_codes(self, limit_s: float = 60.0) -> list[int | None]:
        """Let the processes end, and return how they did; None for one that hangs."""
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + limit_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join()


def serve(rank: int, rendezvous: str, pipe: Connection) -> None:
    """What each process does."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # this machine's own name may lead nowhere
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    me = Rank(rank)
    while True:
        faulthandler.cancel_dump_traceback_later()  # the parent kills who waits here for nothing
        message = pipe.recv()
        if message is None:
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)  # the interpreter must come to its end
            return
        limit_s, job, arguments = message
        faulthandler.dump_traceback_later(limit_s, exit=True)
        try:
            pipe.send(("", job(me, *arguments)))
        except BaseException:
            pipe.send((f"rank {rank}: {traceback.format_exc()}", None))


def new_ranks(folder: Path) -> Ranks:
    pynccl._load("cuda", pynccl.cuda_arch())  # compile before any time limit runs
    return Ranks(folder)


@pytest.fixture(scope="module")
def shared_ranks() -> Iterator[list[Ranks]]:
    """The processes that many tests share: those in use are the last of the list."""
    generations: list[Ranks] = []
    yield generations
    for ranks in generations:
        ranks.kill()


@pytest.fixture
def ranks(shared_ranks: list[Ranks], tmp_path: Path) -> Ranks:
    if not shared_ranks or shared_ranks[-1].broken:
        shared_ranks.append(new_ranks(tmp_path))
    return shared_ranks[-1]


@pytest.fixture
def fresh_ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Processes for a test that breaks them."""
    ranks = new_ranks(tmp_path)
    yield ranks
    ranks.kill()


# Every operation


def run_cases(me: Rank, communicator: str, cases: list[Case]) -> int:
    for case in cases:
        case.check(getattr(me, communicator))
    return len(cases)


def test_every_operation(ranks: Ranks) -> None:
    cases = list(table(RANKS))
    assert ranks(run_cases, "direct", cases) == [len(cases)] * RANKS


def test_sizes_around_that_of_the_buffer(ranks: Ranks) -> None:
    counts = [BUFFER_BYTES // itemsize + more for itemsize in (1, 2, 4, 8) for more in (-1, 0, 1)]
    cases = [case for case in table(RANKS, counts=[0, 1, *counts]) if case.operation == "all_reduce"]
    cases += [case for case in table(RANKS, counts=[1, 7]) if case.operation != "all_reduce"]
    assert ranks(run_cases, "buffered", cases) == [len(cases)] * RANKS


def long_messages(me: Rank) -> None:
    count = 4 * 2**20  # 16 MiB: more than NCCL's own buffers hold
    part = torch.empty(count // RANKS, device=me.device)
    x, total = me.numbers(count), me.sum_of_numbers(count)
    for communicator in (me.direct, me.buffered):
        message = x.clone()
        communicator.all_reduce(message)
        assert torch.equal(message, total)
        gathered, received = torch.empty(RANKS * count, device=me.device), torch.empty_like(x)
        communicator.all_gather(gathered, x)
        assert torch.equal(gathered, me.all_numbers(count))
        communicator.reduce_scatter(part, x[: len(part) * RANKS])
        assert torch.equal(part, total[me.rank * len(part) : (me.rank + 1) * len(part)])
        with communicator.group():
            communicator.recv(received, (me.rank - 1) % RANKS)
            communicator.send(x, (me.rank + 1) % RANKS)
        assert torch.equal(received, me.numbers_of((me.rank - 1) % RANKS, count, 0))


def test_long_messages(ranks: Ranks) -> None:
    ranks(long_messages)


def grouped_reductions(me: Rank) -> None:
    messages = [me.numbers(count, seed=count) for count in (1, 1000, 100_000)]
    with me.buffered.group():
        for message in messages:
            me.buffered.all_reduce(message)
    for message in messages:
        assert torch.equal(message, me.sum_of_numbers(len(message), seed=len(message)))


def test_grouped_reductions(ranks: Ranks) -> None:
    ranks(grouped_reductions)


# The buffer


def views(me: Rank) -> None:
    buffer = me.buffered.get_buffer()
    assert (buffer.dtype, buffer.shape, buffer.device) == (torch.uint8, (BUFFER_BYTES,), me.device)
    floats = buffer.view(torch.float32)
    for count in (1, 100, len(floats)):
        floats.fill_(-7)
        floats[:count].copy_(me.numbers(count))
        me.buffered.all_reduce(floats[:count])
        assert torch.equal(floats[:count], me.sum_of_numbers(count))
        assert (floats[count:] == -7).all()
    part = floats[: 16 * RANKS].chunk(RANKS)[me.rank]
    part.copy_(me.numbers(16))
    me.buffered.all_gather(floats[: 16 * RANKS], part)
    assert torch.equal(floats[: 16 * RANKS], me.all_numbers(16))
    with pytest.raises(RuntimeError, match="has no buffer"):
        me.direct.get_buffer()


def test_views_of_the_buffer(ranks: Ranks) -> None:
    ranks(views)


# Streams and graphs


def graphs(me: Rank) -> None:
    count = BUFFER_BYTES // 4
    view = me.buffered.get_buffer().view(torch.float32)[:100]
    x, y, z = (torch.zeros(count, device=me.device) for _ in range(3))
    gathered = torch.zeros(RANKS * count, device=me.device)

    def step() -> None:
        me.direct.all_reduce(x)
        me.buffered.all_reduce(view)
        me.direct.all_gather(gathered, z)

    def through_the_buffer() -> None:
        me.buffered.all_reduce(y)

    step()  # NCCL connects the ranks at the first call
    through_the_buffer()
    both = [capture(step), capture(through_the_buffer)]
    for replay in range(100):
        numbers, expected = me.numbers(count, seed=replay), me.sum_of_numbers(count, seed=replay)
        for message in (x, y, z):
            message.copy_(numbers)
        view.copy_(numbers[:100])
        gathered.zero_()
        both[0].replay()
        assert torch.equal(view, expected[:100])
        both[1].replay()
        assert torch.equal(x, expected)
        assert torch.equal(y, expected)
        assert torch.equal(gathered, me.all_numbers(count, seed=replay))
    me.buffered.all_reduce(z)  # plain calls still work
    assert torch.equal(z, me.sum_of_numbers(count, seed=99))
    me.direct.check()
    me.buffered.check()


def capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        step()
        graph.capture_end()
    return graph


def test_graphs(ranks: Ranks) -> None:
    ranks(graphs)


def streams(me: Rank, communicator: str) -> None:
    """The first message has to wait for its stream, the second one has not."""
    comm, count = getattr(me, communicator), 1000
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    x, y, numbers = torch.zeros(count, device=me.device), me.numbers(count, seed=1), me.numbers(count, seed=2)
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(SLEEP_CYCLES)
        x.copy_(numbers)
        comm.all_reduce(x)
        x += 1
    with torch.cuda.stream(second):
        comm.all_reduce(y)
        y += 1
    torch.cuda.synchronize()
    assert torch.equal(x, me.sum_of_numbers(count, seed=2) + 1)
    assert torch.equal(y, me.sum_of_numbers(count, seed=1) + 1)


@pytest.mark.parametrize("communicator", ["direct", "buffered"])
def test_streams(ranks: Ranks, communicator: str) -> None:
    ranks(streams, communicator)


# Groups of ranks, and the end


def split(me: Rank) -> None:
    mine = me.direct.split(me.rank % 2, key=-me.rank)
    assert mine is not None
    members = sorted(range(me.rank % 2, RANKS, 2), reverse=True)
    assert (mine.rank, mine.size) == (members.index(me.rank), len(members))
    gathered = torch.empty(len(members), device=me.device)
    mine.all_gather(gathered, torch.tensor([float(me.rank)], device=me.device))
    assert gathered.tolist() == members
    alone = me.direct.split(0 if me.rank == 0 else -1)
    assert (alone is None) == (me.rank != 0)
    x = me.numbers(10)
    me.direct.all_reduce(x)
    assert torch.equal(x, me.sum_of_numbers(10))
    if alone:
        alone.close()
    mine.close()


def test_split(ranks: Ranks) -> None:
    ranks(split)


def refusals(me: Rank) -> None:
    x = torch.zeros(8, device=me.device)
    with pytest.raises(ValueError, match="expected a tensor on cuda"):
        me.direct.all_reduce(x.cpu())
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        me.direct.all_reduce(x[::2])
    with pytest.raises(TypeError, match="can reduce"):
        me.direct.all_reduce(x.bool())
    with pytest.raises(ValueError, match="elements for"):
        me.direct.all_gather(x, x.repeat(2))
    me.direct.all_reduce(x)  # the ranks still agree: nothing reached NCCL
    assert not x.any()


def test_refusals(ranks: Ranks) -> None:
    ranks(refusals)


def cycles(me: Rank) -> list[int]:
    """Return the free memory of the GPU after each cycle."""
    free = []
    for _ in range(4):
        with me.make(max_size_bytes=256 * 2**20) as communicator:
            x = me.numbers(1000)
            communicator.all_reduce(x)
            assert torch.equal(x, me.sum_of_numbers(1000))
        communicator.close()
        with pytest.raises(RuntimeError, match="closed"):
            communicator.all_reduce(x)
        torch.cuda.synchronize()
        dist.barrier()  # ranks may share the GPU
        free.append(torch.cuda.mem_get_info()[0])
        dist.barrier()
    return free


def test_closing_gives_the_memory_back(ranks: Ranks) -> None:
    for free in ranks(cycles):
        assert free[-1] > free[0] - 100 * 2**20  # a buffer is larger


def leave_open(me: Rank) -> None:
    me.direct.all_reduce(me.numbers(10))
    me.buffered.all_reduce(me.numbers(10))
    torch.cuda.synchronize()


def test_the_end_of_the_interpreter(fresh_ranks: Ranks) -> None:
    fresh_ranks(leave_open)
    assert fresh_ranks.exit_codes() == [0] * RANKS


# Failures


def wait_for_error(communicator: pynccl.PyNCCLCommunicator, x: torch.Tensor) -> tuple[str, float]:
    """Return the error of a call that the others do not answer, and after how many seconds it came."""
    start = time.monotonic()
    try:
        communicator.all_reduce(x)
        while time.monotonic() < start + SHORT_TIMEOUT_S + 10.0:
            communicator.check()
            time.sleep(0.01)
    except RuntimeError as error:
        return str(error), time.monotonic() - start
    return "no error", time.monotonic() - start


def miss_a_call(me: Rank, buffer_bytes: int, how: str) -> tuple[str, float]:
    """The last rank does not call. Without a buffer the GPUs of the others must be free again after the error."""
    communicator = me.make(max_size_bytes=buffer_bytes, timeout=SHORT_TIMEOUT_S)
    x = me.numbers(1000)
    communicator.all_reduce(x)
    torch.cuda.synchronize()
    dist.barrier()
    if me.rank == RANKS - 1:
        if how == "dies":
            os._exit(3)
        time.sleep(SHORT_TIMEOUT_S + 4.0)
        return "", 0.0
    outcome = wait_for_error(communicator, x)
    with pytest.raises(RuntimeError, match=f"rank {me.rank} of {RANKS}: all_reduce: "):
        communicator.all_reduce(x)
    if buffer_bytes == 0:  # NCCL's kernels for registered buffers do not notice an abort: the GPU stays taken
        torch.cuda.synchronize()
        assert torch.ones(3, device=me.device).sum() == 3
        communicator.close()
    return outcome


def check_outcome(rank: int, outcome: tuple[str, float]) -> None:
    error, seconds = outcome
    assert f"rank {rank} of {RANKS}: all_reduce: " in error, error
    assert seconds < SHORT_TIMEOUT_S + 3.0


@several_ranks
@pytest.mark.parametrize("buffer_bytes", [0, 2**20])
def test_a_rank_that_never_calls(fresh_ranks: Ranks, buffer_bytes: int) -> None:
    outcomes = fresh_ranks(miss_a_call, buffer_bytes, "waits", limit_s=60.0)
    for rank, outcome in enumerate(outcomes[:-1]):
        check_outcome(rank, outcome)
    assert fresh_ranks.exit_codes() == [0] * RANKS


@several_ranks
def test_a_rank_that_dies(fresh_ranks: Ranks) -> None:
    for pipe in fresh_ranks.pipes:
        pipe.send((60.0, miss_a_call, (0, "dies")))
    deadline = time.monotonic() + 70.0
    answers = [fresh_ranks.answer(rank, deadline) for rank in range(RANKS)]
    assert answers[-1][0] == f"rank {RANKS - 1}: died, exit code 3"
    for rank, (error, outcome) in enumerate(answers[:-1]):
        assert not error, error
        check_outcome(rank, outcome)
    assert fresh_ranks.exit_codes() == [0] * (RANKS - 1) + [3]


def raise_inside(me: Rank) -> float:
    """An error on one rank must not make it wait for the others, which do not come to the end of `with`."""
    communicator = me.make()
    communicator.all_reduce(me.numbers(10))
    torch.cuda.synchronize()
    start = time.monotonic()
    if me.rank == 0:
        with pytest.raises(KeyError), communicator:
            raise KeyError
    dist.barrier()
    return time.monotonic() - start


def test_an_error_inside_with(fresh_ranks: Ranks) -> None:
    assert max(fresh_ranks(raise_inside)) < 20.0
    assert fresh_ranks.exit_codes() == [0] * RANKS
