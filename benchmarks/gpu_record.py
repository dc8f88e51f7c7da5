"""Verify contestants, time them, and collect the samples of a record."""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, TypeVar

import torch
from gpu_ceilings import ceilings
from gpu_timing import REPLAYS, Launch, replay_seconds
from provenance import file_name, provenance

ROWS = [1, 16, 256, 1024, 4096, 16384, 65536]
ROW_BYTES = [256, 512, 576, 1024, 2048, 4096, 8192, 16384]
LEDGER_ROWS = [1, 16, 1024, 65536]
LEDGER_ROW_BYTES = [256, 2048, 8192, 16384]

MAX_LAUNCHES = 400
BYTES_PER_REPLAY = 8 * 2**30  # read and written: about 2 ms
BYTES_IN_ROTATION = 256 * 2**20  # of buffers that launches take in turn: more than the L2 cache holds
TRIAL_LAUNCHES = 100  # to choose among several ways
TRIAL_REPLAYS = 3

METHOD = (
    "CUDA graph replays, seconds per launch. The launches of a graph take rotating buffers; the L2 cache is flushed "
    "before each replay; all rows of a launch are different ones, in random order. 'hot': all launches of a graph use "
    "the same buffers, and the cache is not flushed, as for the empty kernels."
)

Key = TypeVar("Key")
Value = TypeVar("Value")


def launches_per_graph(bytes_per_launch: int) -> int:
    return max(4, min(MAX_LAUNCHES, BYTES_PER_REPLAY // bytes_per_launch))


def buffers_in_rotation(buffer_bytes: int, launches: int) -> int:
    """Return how many buffers of so many bytes the launches of a graph take in turn."""
    return min(launches, max(2, -(-BYTES_IN_ROTATION // buffer_bytes)))


def random_rows(num_rows: int, launches: int, length: int) -> torch.Tensor:
    """Return `[launches, length]` row numbers below `num_rows`, in one allocation; those of a launch are different."""
    permutation = torch.randperm(num_rows, device="cuda")
    return permutation[torch.arange(launches * length, device="cuda") % num_rows].view(launches, length)


def load_all(loaders: Mapping[Key, Callable[[], Value]]) -> dict[Key, Value]:
    """Call all loaders, which compile, on all cores."""
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = dict(zip(loaders, pool.map(lambda load: load(), loaders.values()), strict=True))
    print(f"{len(loaded)} kernels compiled and loaded in {time.perf_counter() - start:.0f} s", flush=True)
    return loaded


def print_ceilings(entries: Mapping[str, Any]) -> None:
    print(f"copies: {1 / median(entries['copy_seconds_per_byte']) / 1e12:.2f} TB/s; by bytes read and written:")
    for size, seconds in entries["copy_seconds_by_bytes"].items():
        print(f"  {int(size) / 2**20:6.0f} MiB {int(size) / median(seconds) / 1e12:6.2f} TB/s")
    print(f"empty kernel: {median(entries['empty_kernel_seconds']) * 1e6:.2f} us", end=", ")
    print(f"with PDL {median(entries['empty_kernel_pdl_seconds']) * 1e6:.2f} us", flush=True)


class Record:
    """The samples of one kernel and of its peers."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.samples: list[dict[str, object]] = []
        self.failures: list[str] = []
        self.start = time.perf_counter()
        self.entries = ceilings()
        print_ceilings(self.entries)

    def measure(
        self,
        name: str,
        rows: int,
        row_bytes: int,
        launches: list[Launch],
        *,
        right: Callable[[Launch], bool],
        cold: bool = True,
    ) -> None:
        """Time `launches` if `right` says that the first of them gives the right result."""
        self.measure_best(name, rows, row_bytes, {"": launches}, right=right, cold=cold)

    def measure_best(
        self,
        name: str,
        rows: int,
        row_bytes: int,
        ways: Mapping[str, list[Launch]],
        *,
        right: Callable[[Launch], bool],
        cold: bool = True,
    ) -> None:
        """Time the fastest of several ways to do the same. One that fails or gives a wrong result is not timed."""
        where = f"{rows:6} x {row_bytes:5} {name:32}"
        timed: dict[str, list[float]] = {}
        for way, launches in ways.items():
            try:
                if not right(launches[0]):
                    raise ValueError("wrong result")
                trial = (launches[:TRIAL_LAUNCHES], TRIAL_REPLAYS) if len(ways) > 1 else (launches, REPLAYS)
                timed[way] = replay_seconds(*trial, cold=cold)
            except Exception as error:  # a long run goes on without it
                self.failures.append(f"{where} {way} {type(error).__name__}: {error}")
                print(self.failures[-1], flush=True)
        if not timed:
            return
        best = min(timed, key=lambda way: median(timed[way]))
        seconds = replay_seconds(ways[best], cold=cold) if len(ways) > 1 else timed[best]
        sample = {"name": name, "rows": rows, "row_bytes": row_bytes, "seconds": seconds}
        self.samples.append(sample | ({"way": best} if best else {}))
        print(f"{where} {median(seconds) * 1e6:9.2f} us {best}", flush=True)

    def write(self, folder: Path, commit: str, peers: Mapping[str, ModuleType]) -> None:
        """Write the record. Raises SystemExit if anything failed."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "kernel": self.kernel,
            **provenance(commit, {name: peer.VERSION for name, peer in peers.items()}),
            "method": METHOD,
            "replays": REPLAYS,
            **self.entries,
            "samples": self.samples,
        }
        (folder / file_name(self.kernel)).write_text(json.dumps(record) + "\n")
        print(f"{len(self.samples)} samples in {time.perf_counter() - self.start:.0f} s")
        if self.failures:
            raise SystemExit("not timed:\n" + "\n".join(self.failures))
