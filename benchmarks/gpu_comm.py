"""Verify and time the communicator on this machine's GPUs, with PyTorch's in the same run, and write a record.

    python benchmarks/gpu_comm.py notebooks/measurements [COMMIT] [--ranks N] [--nccl LIBRARY] [--dry-run]

One rank a GPU, unless `--ranks` says otherwise: several on one GPU need NCCL 2.30 and NCCL_MULTI_RANK_GPU_ENABLE=1.
`--nccl` names a library that all ranks, and PyTorch in them, use instead of PyTorch's own. The script touches no other
setting of NCCL's; the record lists those it found. `--dry-run` runs every line on the CPU, with gloo.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from gpu_comm_machine import TIMEOUT_S, Call, Dry, Gpu, machine_of
from gpu_comm_ranks import run_ranks
from gpu_comm_record import Record, short
from torch import distributed as dist

REPEATS = 9
MAX_CALLS = 20  # in a graph
CPU_CALLS = 50
CPU_SIZES = [2**10, 2**14, 2**20]
KERNEL_SIZES = [2**10, 2**14, 2**20, 2**26]
SAMPLE_S = 2e-3  # a graph holds as many calls as take this long
SLOWEST_CALL_S = 0.1  # ranks that share a GPU take turns there; larger messages would take minutes
STOP_AFTER = 0.75  # of the time limit: nothing new is measured then
TINY = 2.0**-90  # sums of sums stay finite and are no zeros

METHOD = (
    "bfloat16. 'bytes' is the larger side of an operation: all of a message of all_reduce, the output of all_gather, "
    "the input of reduce_scatter. Seconds per call, the slowest rank of each sample. 'graph': the calls of one replay "
    "of a CUDA graph, by events. 'plain': as many plain calls, by events, queued while the GPU was still busy. 'cpu': "
    "until the call has returned, by the CPU's clock. All contestants of a size take turns; the ranks meet on the GPU "
    "before each sample; buffers are in the cache if they fit there. Every contestant is verified first, bit for bit. "
    "A fit is seconds = latency + bytes * seconds_per_byte, of the medians, with the least relative errors. "
    "Peer copies: by the CPU's clock, so small ones look slow."
)


@dataclass
class Contestant:
    """One way to do an operation. `data` is what it reads, and is filled anew before each sample."""

    name: str
    operation: str
    data: torch.Tensor
    result: torch.Tensor
    call: Call
    seconds: dict[str, list[float]] = field(default_factory=dict)


class Rank:
    """One process of the measurement."""

    def __init__(self, rank: int, ranks: int, machine: Gpu | Dry, record: Record) -> None:
        self.rank, self.ranks, self.machine, self.record = rank, ranks, machine, record
        self.communicators: dict[int, Any] = {}
        for size in [0, *machine.buffer_sizes]:
            self.communicate(size)
        self.direct, self.buffered = self.communicators[0], max(self.communicators)
        elements = machine.sizes[-1] // 2
        torch.manual_seed(1)  # the same numbers on every rank: what each of them sends
        self.sent = torch.randint(-4, 5, (ranks, elements), dtype=torch.int8, device=machine.device)
        self.noise = torch.randn(elements, dtype=torch.bfloat16, device=machine.device) * TINY
        self.message, self.other = torch.empty_like(self.noise), torch.empty_like(self.noise)
        self.meeting = torch.zeros(1, device=machine.device)
        self.group = self.torch_group()

    def communicate(self, buffer_bytes: int) -> None:
        """Make a communicator. One without a buffer is a must."""
        made: list[Any] = []
        start = time.perf_counter()
        error = self.attempt(lambda: made.append(self.machine.communicator(self.rank, self.ranks, buffer_bytes)))
        seconds = time.perf_counter() - start
        if error and buffer_bytes == 0:
            raise RuntimeError(error)
        if error:
            self.record.leave_out(f"buffer of {buffer_bytes} bytes", error)
            return
        self.communicators[buffer_bytes] = made[0]
        self.record.entries["init_seconds"][str(buffer_bytes)] = round(seconds, 4)
        self.record.say(f"communicator with a buffer of {buffer_bytes} bytes: {seconds:.2f} s")

    def torch_group(self) -> dist.ProcessGroup | None:
        """Return PyTorch's group, or None if it cannot be had here."""
        groups: list[dist.ProcessGroup] = []

        def first_call() -> None:
            groups.append(self.machine.torch_group())
            dist.all_reduce(self.meeting, group=groups[0])

        error = self.attempt(first_call)
        if error:
            self.record.leave_out("torch.distributed", error)
        return None if error else groups[0]

    def attempt(self, work: Call) -> str:
        """Call `work` on all ranks and return the first error of any of them."""
        try:
            work()
            self.machine.synchronize()
            error = ""
        except Exception as caught:
            error = f"rank {self.rank}: {type(caught).__name__}: {caught}".splitlines()[0][:300]
        return next((text for text in self.all_ranks(error) if text), "")

    def all_ranks(self, value: Any) -> list[Any]:
        values = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def slowest(self, seconds: float) -> float:
        return max(self.all_ranks(seconds))

    # What takes part

    def contestants(self, size: int) -> Iterator[Contestant]:
        yield from self.all_reduces(size)
        yield from self.all_gathers(size)
        yield from self.reduce_scatters(size)

    def all_reduces(self, size: int) -> Iterator[Contestant]:
        message = self.message[: self.elements(size)]
        for buffer, communicator in self.communicators.items():
            if size <= buffer or buffer == 0:
                call = partial_call(communicator.all_reduce, message)
                yield Contestant(all_reduce_name(buffer, self.buffered), "all_reduce", message, message, call)
        if self.buffered:
            view = self.buffer_view(size)
            in_buffer = partial_call(self.communicators[self.buffered].all_reduce, view)
            yield Contestant("minisgl, in the buffer", "all_reduce", view, view, in_buffer)
        if group := self.group:
            torch_call = partial_call(dist.all_reduce, message, group=group)
            yield Contestant("torch", "all_reduce", message, message, torch_call)

    def all_gathers(self, size: int) -> Iterator[Contestant]:
        output = self.message[: self.elements(size)]
        input = self.other[: len(output) // self.ranks]
        yield Contestant("minisgl", "all_gather", input, output, partial_call(self.direct.all_gather, output, input))
        if self.buffered:
            view = self.buffer_view(size)
            part = view.chunk(self.ranks)[self.rank]
            in_buffer = partial_call(self.communicators[self.buffered].all_gather, view, part)
            yield Contestant("minisgl, in the buffer", "all_gather", part, view, in_buffer)
        if group := self.group:
            torch_call = partial_call(dist.all_gather_into_tensor, output, input, group=group)
            yield Contestant("torch", "all_gather", input, output, torch_call)

    def reduce_scatters(self, size: int) -> Iterator[Contestant]:
        input = self.message[: self.elements(size)]
        output = self.other[: len(input) // self.ranks]
        direct = partial_call(self.direct.reduce_scatter, output, input)
        yield Contestant("minisgl", "reduce_scatter", input, output, direct)
        if self.buffered:
            view = self.buffer_view(size)
            part = view.chunk(self.ranks)[self.rank]
            in_buffer = partial_call(self.communicators[self.buffered].reduce_scatter, part, view)
            yield Contestant("minisgl, in the buffer", "reduce_scatter", view, part, in_buffer)
        if group := self.group:
            torch_call = partial_call(dist.reduce_scatter_tensor, output, input, group=group)
            yield Contestant("torch", "reduce_scatter", input, output, torch_call)

    def elements(self, size: int) -> int:
        return max(1, size // 2 // self.ranks) * self.ranks

    def buffer_view(self, size: int) -> torch.Tensor:
        buffer = self.communicators[self.buffered].get_buffer()
        return buffer.view(torch.bfloat16)[: self.elements(size)]

    # Whether it is right

    def verify(self, contestant: Contestant) -> None:
        """Raise ValueError if a result is not that of PyTorch's own arithmetic, bit for bit: the sums are small."""
        contestant.result.fill_(float("nan"))
        contestant.data.copy_(self.sent[self.rank, : len(contestant.data)])
        contestant.call()
        if not torch.equal(contestant.result, self.expected(contestant)):
            raise ValueError(f"{contestant.operation} of {contestant.name}: wrong result")

    def expected(self, contestant: Contestant) -> torch.Tensor:
        sent = self.sent[:, : len(contestant.data)]
        if contestant.operation == "all_gather":
            return sent.flatten().to(torch.bfloat16)
        total = sent.sum(0, dtype=torch.int8).to(torch.bfloat16)
        return total if contestant.operation == "all_reduce" else total.chunk(self.ranks)[self.rank]

    # How long it takes

    def measure(self, size: int) -> bool:
        """Measure all contestants of one size. False if no larger size is worth trying."""
        contestants = list(filter(self.is_right, self.contestants(size)))
        if not contestants:
            return False
        one_call = self.slowest(max(self.sample(c, c.call, 1) for c in contestants))
        self.record.say(f"{size} bytes: at most {one_call * 1e6:.1f} us")
        if one_call > SLOWEST_CALL_S:
            self.record.leave_out(f"{size} bytes and more", f"a call took {one_call:.2f} s")
            return False
        calls = max(2, min(MAX_CALLS, int(SAMPLE_S / one_call)))
        repeats = max(3, min(REPEATS, int(0.2 / (one_call * calls))))
        self.measure_on_device(contestants, calls, repeats)
        if size in CPU_SIZES and one_call < SAMPLE_S:
            self.measure_on_cpu(contestants, repeats)
        self.report(size, contestants)
        return True

    def is_right(self, contestant: Contestant) -> bool:
        error = self.attempt(lambda: self.verify(contestant))
        if error:
            self.record.fail(f"{contestant.operation}, {contestant.name}, {contestant.data.nbytes} bytes: {error}")
        return not error

    def measure_on_device(self, contestants: list[Contestant], calls: int, repeats: int) -> None:
        ways: dict[tuple[int, str], Call] = {}
        for number, contestant in enumerate(contestants):
            ways[number, "plain"] = repeated(contestant.call, calls)
            graphs: list[Call] = []
            error = self.attempt(lambda c=contestant, found=graphs: found.append(self.machine.capture(c.call, calls)))
            if error:
                self.record.fail(f"{contestant.operation}, {contestant.name}, in a graph: {error}")
            else:
                ways[number, "graph"] = graphs[0]
                self.sample(contestant, graphs[0], calls)
        for _ in range(repeats):
            for (number, where), work in ways.items():
                contestant = contestants[number]
                contestant.seconds.setdefault(where, []).append(self.sample(contestant, work, calls))

    def sample(self, contestant: Contestant, work: Call, calls: int) -> float:
        def before() -> None:
            contestant.data.copy_(self.noise[: len(contestant.data)])
            self.direct.all_reduce(self.meeting)

        return self.machine.seconds(work, before) / calls

    def measure_on_cpu(self, contestants: list[Contestant], repeats: int) -> None:
        for _ in range(repeats):
            for contestant in contestants:
                contestant.data.copy_(self.noise[: len(contestant.data)])
                self.machine.synchronize()
                dist.barrier()
                start = time.perf_counter()
                for _ in range(CPU_CALLS):
                    contestant.call()
                seconds = (time.perf_counter() - start) / CPU_CALLS
                self.machine.synchronize()
                contestant.seconds.setdefault("cpu", []).append(seconds)

    def report(self, size: int, contestants: list[Contestant]) -> None:
        """Put the slowest rank of each sample into the record."""
        of_ranks = self.all_ranks([contestant.seconds for contestant in contestants])
        for number, contestant in enumerate(contestants):
            for where in contestant.seconds:
                samples = [max(values) for values in zip(*(mine[number][where] for mine in of_ranks), strict=True)]
                self.record.add(contestant.name, contestant.operation, where, size, samples)
        self.record.write()

    # What lies beside it

    def copies(self, size: int) -> None:
        """Time the two copies that a message through the buffer costs."""
        message, other = self.message[: self.elements(size)], self.other[: self.elements(size)]

        def two_copies() -> None:
            other.copy_(message)
            message.copy_(other)

        both = Contestant("two copies", "copy", message, message, two_copies)
        self.measure_on_device([both], MAX_CALLS, REPEATS)
        self.report(size, [both])

    def kernels(self, size: int) -> None:
        """Note which kernels a call starts; they tell whether NCCL uses the registered buffer."""
        for contestant in self.contestants(size):
            if self.rank > 0:
                contestant.call()
                continue
            names = self.machine.kernels(contestant.call)
            key = f"{contestant.operation}, {contestant.name}, {size} bytes"
            self.record.entries["kernels"][key] = names
            if contestant.operation == "all_reduce":
                self.record.say(f"{size} bytes, {short(contestant.name)}: {'; '.join(names)[:120]}")


def all_reduce_name(buffer: int, largest: int) -> str:
    if buffer == 0:
        return "minisgl, direct"
    return "minisgl, through the buffer" + ("" if buffer == largest else f" of {buffer} bytes")


def partial_call(function: Callable[..., object], *args: object, **options: object) -> Call:
    return lambda: function(*args, **options)


def repeated(call: Call, calls: int) -> Call:
    def work() -> None:
        for _ in range(calls):
            call()

    return work


def work(
    rank: int, ranks: int, rendezvous: str, path: Path, commit: str, entries: dict[str, Any], limit_s: float, dry: bool
) -> None:
    """What each process does."""
    start = time.time()
    machine = machine_of(rank, dry_run=dry)
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=ranks, timeout=timedelta(seconds=2 * TIMEOUT_S)
    )
    record = Record(path if rank == 0 else None, entries, start)
    if rank == 0:
        record.entries |= machine.origin(commit)
        record.say(f"{record.entries['versions']}")
        record.entries["peer_copies"] = machine.peer_copies()
        record.write()
        record.say(f"peer copies: {record.entries['peer_copies']}")
    dist.barrier()
    try:
        me = Rank(rank, ranks, machine, record)
    except Exception as error:
        record.leave_out("all", f"{type(error).__name__}: {error}")
        record.write()
        raise
    measure_all(me, start + STOP_AFTER * limit_s)
    if record.failures:
        raise SystemExit(1)


def measure_all(me: Rank, deadline: float) -> None:
    def is_late() -> bool:
        return me.slowest(time.time()) > deadline

    record = me.record
    for size in me.machine.sizes:
        late = is_late()
        if late:
            record.leave_out(f"{size} bytes and more", "out of time")
        if late or not me.measure(size):
            break
        me.copies(size)
    record.write(complete=not record.failures)
    try:
        for size in KERNEL_SIZES:
            if size <= me.machine.sizes[-1] and not is_late():
                me.kernels(size)
        me.machine.synchronize()
        for communicator in me.communicators.values():
            communicator.close()
        record.write(complete=not record.failures)
    finally:
        record.print_tables()
    record.say("done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("commit", nargs="?", default="unknown")
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--nccl", type=Path, help="preloaded into the ranks")
    parser.add_argument("--limit", type=float, default=230.0, help="seconds until a rank is ended")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    kind = Dry if args.dry_run else Gpu
    gpus = kind.count()
    ranks = args.ranks or gpus
    kind.compile()
    if args.nccl:
        os.environ["LD_PRELOAD"] = str(args.nccl.resolve(strict=True))
    entries = {"kernel": "comm", "ranks": ranks, "gpus": gpus, "settings": settings(), "method": METHOD}
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / name_of(kind, gpus, ranks)
    failures = run_ranks(work, ranks, args.limit, path, args.commit, entries, args.limit, args.dry_run)
    if failures:
        raise SystemExit("\n".join(failures))


def settings() -> dict[str, str]:
    """Return what the environment tells NCCL; not where to write its log."""
    names = [name for name in sorted(os.environ) if name.startswith(("NCCL_", "TORCH_NCCL_")) and "DEBUG" not in name]
    return {name: os.environ[name] for name in names}


def name_of(kind: type[Gpu] | type[Dry], gpus: int, ranks: int) -> str:
    """Return the name of the record, such as `nvidia-h200-x2-comm.json`; with `-ranks2` if they share GPUs."""
    device = "dry-run" if kind is Dry else torch.cuda.get_device_name().lower().replace(" ", "-")
    return f"{device}-x{gpus}{f'-ranks{ranks}' if ranks != gpus else ''}-comm.json"


if __name__ == "__main__":
    main()
