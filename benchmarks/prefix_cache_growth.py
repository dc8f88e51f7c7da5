"""The prefix cache grown to ten million tokens: its memory, and whether any operation is ever slow.

Targets: at most 12 bytes a token beyond the nodes; no operation slower than 10x its median.

Requests are those of prefix_cache.py, one at a time. "growing": until the cache holds ten million tokens; "full": from
then on, evicting what does not fit. All of it is done again a few times, and of each call of the sequence the fastest
counts: what is left is the cache's own doing, not the machine's. The clock's own cost is in all times.

The chains are nodes of one page, each below the last.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefix_trace import VOCABULARY, Request, requests

from minisgl.kvcache import RadixPrefixCache

NUM_TOKENS = 10_000_000
NUM_REQUESTS = 24_000  # the last 5,000 or so meet a full cache
WARM_UP = 100
ROUNDS = 7
CHAINS = ((1_000_000, 16), (100_000, 1))  # tokens, page size; a million nodes take a minute to make
INDICES = 1 << 13  # more than any request has


def in_new_process(function: Callable, *args: Any) -> Any:
    """What an earlier measurement has freed would be in this one's memory, and in the way of its allocations."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def resident_bytes() -> int:
    """Return the memory that this process takes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS")), 0)


def measure_memory(page_size: int, dtype: torch.dtype) -> tuple[int, int, float, float]:
    """Return tokens, nodes and two times the bytes per token: as the cache counts, and by what the process grew."""
    cache = RadixPrefixCache("cpu", page_size)
    indices = torch.arange(INDICES, dtype=dtype)
    trace = list(requests(NUM_REQUESTS))  # all of them ahead, or what they leave free would lie between the cache's own
    start, resident = cache.memory, 0
    for number, request in enumerate(trace):
        if number == WARM_UP:  # what a first call loads is not the cache's
            start, resident = cache.memory, resident_bytes()
        cache.insert_prefix(request.whole, indices[: len(request.whole)])
        if cache.size_info.total_size >= NUM_TOKENS:
            break
    end = cache.memory
    grown = resident_bytes() - resident - (end.node_bytes - start.node_bytes)
    per_token = grown / (end.num_tokens - start.num_tokens) if resident else float("nan")
    return end.num_tokens, end.num_nodes, end.token_bytes / end.num_tokens, per_token


def print_memory() -> None:
    print(f"{'':29} {'tokens':>11} {'nodes':>7}   bytes a token beyond nodes (target <= 12)")
    print(f"{'':51}as the cache counts, by what the process grew")
    for page_size, dtype in ((1, torch.int32), (1, torch.int64), (16, torch.int32), (16, torch.int64)):
        tokens, nodes, counted, grown = in_new_process(measure_memory, page_size, dtype)
        name = f"page size {page_size:2}, {str(dtype).removeprefix('torch.')} indices"
        print(f"{name:29} {tokens:11,} {nodes:7,} {counted:21.2f} {grown:26.2f}")


def time_calls(cache: RadixPrefixCache, trace: list[Request]) -> dict[str, list[int]]:
    """Serve the requests and return the nanoseconds of every call, by phase and operation."""
    times: dict[str, list[int]] = {}
    indices = torch.arange(INDICES, dtype=torch.int32)
    clock = time.perf_counter_ns
    phase, free = "growing", NUM_TOKENS

    def timed(operation: str, function: Callable[..., Any], *args: Any) -> Any:
        start = clock()
        result = function(*args)
        times.setdefault(f"{phase}: {operation}", []).append(clock() - start)
        return result

    for request in trace:
        handle = timed("match", cache.match_prefix, request.prompt).handle
        timed("lock", cache.lock_handle, handle)
        need = len(request.whole) // cache.page_size * cache.page_size - handle.cached_len
        if need > free:
            if phase == "growing":
                cache.evict(0)  # the code of the very first one is in no cache of the processor
            phase = "full"
            free += len(timed("evict", cache.evict, need - free))
        free -= need
        timed("insert", cache.insert_prefix, request.whole, indices[: len(request.whole)])
        timed("unlock", cache.lock_handle, handle, True)
    return times


def fastest_calls(page_size: int) -> dict[str, np.ndarray]:
    """Return the fastest time of each call, in nanoseconds. All caches stay: none is made of the memory of another."""
    trace = list(requests(NUM_REQUESTS))
    caches = [RadixPrefixCache("cpu", page_size) for _ in range(ROUNDS)]
    gc.disable()
    rounds = [time_calls(cache, trace) for cache in caches]
    return {name: np.min([times[name] for times in rounds], axis=0) for name in rounds[0]}


def print_times(page_size: int) -> None:
    print(f"\npage size {page_size}; the fastest of {ROUNDS} rounds")
    print(f"{'':16} {'calls':>7} {'median':>10} {'99.9 %':>10} {'largest':>10} {'largest / median':>18}")
    for name, times in sorted(in_new_process(fastest_calls, page_size).items(), reverse=True):
        median, late, largest = np.median(times) / 1e3, np.quantile(times, 0.999) / 1e3, times.max() / 1e3
        cells = f"{median:7.2f} us {late:7.2f} us {largest:7.2f} us {largest / median:17.1f}x"
        print(f"{name:16} {len(times):7,} {cells} (target <= 10x)")


def chain_calls(ids: torch.Tensor, page_size: int) -> Iterator[tuple[str, float]]:
    """Yield the name and the seconds of each operation on a chain of nodes of one page."""
    cache = RadixPrefixCache("cpu", page_size)
    indices = torch.arange(len(ids), dtype=torch.int32)

    def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
        start = time.perf_counter()
        result = function(*args)
        return time.perf_counter() - start, result

    def make() -> None:
        """Insert everything, then cut off page after page from the end: the other way each would walk all before it."""
        cache.insert_prefix(ids, indices)
        for length in range(len(ids) - page_size, 0, -page_size):
            cache.match_prefix(ids[:length])

    yield "make", timed(make)[0]
    seconds, match = timed(cache.match_prefix, ids)
    yield "match", seconds
    yield "lock", timed(cache.lock_handle, match.handle)[0]
    yield "matched indices", timed(match.handle.get_matched_indices)[0]
    yield "unlock", timed(cache.lock_handle, match.handle, True)[0]
    yield "insert what is there", timed(cache.insert_prefix, ids, indices)[0]
    yield "check_integrity", timed(cache.check_integrity)[0]
    yield "evict half", timed(cache.evict, len(ids) // 2)[0]
    yield "evict the rest", timed(cache.evict, cache.size_info.evictable_size)[0]


def print_chain(num_tokens: int, page_size: int) -> None:
    ids = torch.randint(VOCABULARY, (num_tokens,), dtype=torch.int32)
    print(f"\na chain of {num_tokens:,} tokens in {num_tokens // page_size:,} nodes, page size {page_size}")
    for name, seconds in chain_calls(ids, page_size):
        print(f"{name:22} {seconds * 1e3:10.2f} ms {seconds / (num_tokens // page_size) * 1e9:10.1f} ns a node")


def main() -> None:
    torch.set_num_threads(1)
    print(f"{NUM_TOKENS:,} tokens in the cache")
    print_memory()
    for page_size in (1, 16):
        print_times(page_size)
    for num_tokens, page_size in CHAINS:
        print_chain(num_tokens, page_size)


if __name__ == "__main__":
    main()
