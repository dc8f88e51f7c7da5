"""Where the ranks of `gpu_comm.py` work: on GPUs, or for a dry run on the CPU, where no time means anything."""

import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
from provenance import provenance
from torch import distributed as dist

from minisgl.compile.targets import cuda_arch
from minisgl.kernel import pynccl
from minisgl.kernel.nccl_library import find_nccl_library

Call = Callable[[], object]

TIMEOUT_S = 60.0
SLEEP_CYCLES = 2_000_000  # about a millisecond: meanwhile the CPU queues what is timed
PEER_COPY_BYTES = [2**exponent for exponent in range(16, 31, 2)]
COPIES = 10


def machine_of(rank: int, *, dry_run: bool) -> "Gpu | Dry":
    return Dry() if dry_run else Gpu(rank)


class Gpu:
    """The GPU of a rank; several ranks share one if there are more ranks than GPUs."""

    sizes = tuple(2**exponent for exponent in range(10, 29))  # 1 KiB to 256 MiB
    buffer_sizes = (2**20, 2**24, 2**28)

    def __init__(self, rank: int) -> None:
        self.device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(self.device)
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.stream = torch.cuda.Stream()

    @staticmethod
    def compile() -> None:
        pynccl._load("cuda", cuda_arch())

    @staticmethod
    def count() -> int:
        return torch.cuda.device_count()

    def communicator(self, rank: int, ranks: int, buffer_bytes: int) -> pynccl.PyNCCLCommunicator:
        return pynccl.init_pynccl(
            tp_rank=rank,
            tp_size=ranks,
            tp_cpu_group=dist.group.WORLD,
            max_size_bytes=buffer_bytes,
            timeout=TIMEOUT_S,
            device=self.device,
        )

    def torch_group(self) -> dist.ProcessGroup:
        return dist.new_group(backend="nccl", timeout=timedelta(seconds=TIMEOUT_S))

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, call: Call, calls: int) -> Call:
        """Record `calls` calls in a graph. Other threads (those of NCCL and of PyTorch) may go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        self.synchronize()
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(calls):
                    call()
            finally:
                graph.capture_end()
        self.synchronize()
        return graph.replay

    def seconds(self, work: Call, before: Call) -> float:
        """Return the time that the GPU takes for `work`. `before` comes untimed, and lets the ranks meet."""
        torch.cuda._sleep(SLEEP_CYCLES)
        before()
        self.start.record()
        work()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3

    def kernels(self, call: Call) -> list[str]:
        """Return the names of the kernels and copies that `call` starts."""
        with torch.profiler.profile() as profile:
            call()
            self.synchronize()
        return [event.key for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]

    def peer_copies(self) -> dict[str, Any]:
        """Time copies to the next GPU: what no collective can beat. Called in one process while the others wait."""
        if torch.cuda.device_count() < 2:
            return {"not_measured": "one GPU"}
        result: dict[str, Any] = {"access": torch.cuda.can_device_access_peer(0, 1), "link": link_of_first_two()}
        here, there = (torch.ones(PEER_COPY_BYTES[-1], dtype=torch.uint8, device=f"cuda:{gpu}") for gpu in (0, 1))
        back, forth = torch.empty_like(here), torch.empty_like(there)
        result["one_way_seconds"] = {
            str(size): self.copy_seconds([(forth[:size], here[:size])], size) for size in PEER_COPY_BYTES
        }
        result["both_ways_seconds"] = {
            str(size): self.copy_seconds([(forth[:size], here[:size]), (back[:size], there[:size])], size)
            for size in PEER_COPY_BYTES[-2:]
        }
        return result

    def copy_seconds(self, pairs: list[tuple[torch.Tensor, torch.Tensor]], size: int) -> list[float]:
        """Time copies that run at once, each on streams of its own, by the CPU's clock."""
        streams = [[torch.cuda.Stream(gpu) for gpu in (0, 1)] for _ in pairs]
        samples = []
        for _ in range(5):
            for gpu in (0, 1):
                torch.cuda.synchronize(gpu)
            start = time.perf_counter()
            for _ in range(COPIES):
                for (to, from_), (first, second) in zip(pairs, streams, strict=True):
                    with torch.cuda.stream(first), torch.cuda.stream(second), torch.cuda.device(0):
                        to.copy_(from_, non_blocking=True)
            for gpu in (0, 1):
                torch.cuda.synchronize(gpu)
            samples.append(float(f"{(time.perf_counter() - start) / COPIES:.4g}"))
        return samples[1:]

    def origin(self, commit: str) -> dict[str, Any]:
        """Return the beginning of a record."""
        entries = provenance(commit)
        module = pynccl._load("cuda", cuda_arch(self.device))
        library = module.open_library(find_nccl_library())
        version = module.library_version(library)
        entries["versions"] |= {
            "nccl": f"{version // 10000}.{version // 100 % 100}.{version % 100}",
            "nccl of torch": ".".join(map(str, torch.cuda.nccl.version())),
        }
        return entries | {"windows": module.library_has_windows(library)}


def link_of_first_two() -> str:
    """Return how nvidia-smi calls the link between the first two GPUs, such as NV18."""
    try:
        command = ["nvidia-smi", "topo", "-m"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        return next(line.split()[2] for line in text.splitlines() if line.startswith("GPU0"))
    except (OSError, subprocess.SubprocessError, StopIteration, IndexError):
        return "unknown"


class Dry:
    """The same on the CPU with gloo: every line of `gpu_comm.py` runs, and no number is worth anything."""

    sizes = (2**10, 2**12, 2**14)
    buffer_sizes = (2**11, 2**14)
    device = torch.device("cpu")

    @staticmethod
    def compile() -> None:
        pass

    @staticmethod
    def count() -> int:
        return 1

    def communicator(self, rank: int, ranks: int, buffer_bytes: int) -> Any:
        buffer = torch.zeros(buffer_bytes, dtype=torch.uint8)
        return SimpleNamespace(
            all_reduce=dist.all_reduce,
            all_gather=dist.all_gather_into_tensor,
            reduce_scatter=dist.reduce_scatter_tensor,
            get_buffer=lambda: buffer,
            close=dist.barrier,
        )

    def torch_group(self) -> dist.ProcessGroup:
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))

    def synchronize(self) -> None:
        pass

    def capture(self, call: Call, calls: int) -> Call:
        return lambda: [call() for _ in range(calls)]

    def seconds(self, work: Call, before: Call) -> float:
        before()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def kernels(self, call: Call) -> list[str]:
        call()
        return ["none"]

    def peer_copies(self) -> dict[str, Any]:
        return {"not_measured": "dry run"}

    def origin(self, commit: str) -> dict[str, Any]:
        return {"device": "dry run", "commit": commit, "versions": {"torch": torch.__version__}}
