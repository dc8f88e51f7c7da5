"""The prefix cache under the requests of a chat service, called from Python, beside other prefix caches.

Targets, at both page sizes and in both rooms: at least 150,000 requests a second; one evict call at most 2 us; at least
6x SGLang's tree core (Rust) and 12x a tree over tensors in Python. All must find the same tokens for every request.
"Python, NumPy, tuned" shows how far Python can be pushed; it has no target.

A request matches its prompt and locks what it finds; when 64 are in flight the oldest ends: it inserts all its tokens
and unlocks. Slots are counted, not allocated: if they do not suffice for a request, the cache evicts. Inputs are
prepared ahead, in the form that each cache takes. "with the matched indices": a request also fetches where the KV of
what it found is.

Seconds are those of the processor, of all threads of the process: other processes do not count.

One evict call is timed in rounds of its own; of each call of the sequence, which is the same in all rounds, the
fastest counts, so that what the machine does in between does not look like the cache's own doing.
"""

import gc
import itertools
import statistics
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from cache_peers import sglang_core
from cache_peers.python_tree import PythonTree, TunedPythonTree
from prefix_trace import Request, requests

from minisgl.kvcache import RadixPrefixCache

NUM_REQUESTS = 2000
IN_FLIGHT = 64
ROUNDS = 9
EVICT_ROUNDS = 5
OURS, OURS_FUSED = "minisgl", "minisgl, fused calls"
RATIO_TARGETS = {"SGLang's tree core": ">= 6x", "Python, tensors": ">= 12x"}
ROOMS = {"room for everything": 1 << 62, "room for 512k tokens": 512 * 1024}


class Calls(NamedTuple):
    """A cache, as the trace calls it."""

    start: Callable[[Any], tuple[int, Any]]  # prompt -> tokens found, handle
    end: Callable[[Any, Any, int, Any], int]  # all tokens, their indices, tokens found, handle -> tokens there before
    evict: Callable[[int], Any]
    num_freed: Callable[[Any], int]


class Contestant(NamedTuple):
    make: Callable[[int, bool], Calls]  # of page size and whether a request fetches the indices
    inputs: list[tuple[Any, Any, Any]]  # of each request: prompt, all tokens, their indices

    def trace(self, page_size: int) -> list[tuple[Any, Any, Any, int]]:
        """Return the inputs and the number of tokens in whole pages."""
        return [(*inputs, len(inputs[1]) // page_size * page_size) for inputs in self.inputs]


def minisgl(page_size: int, fetches: bool) -> Calls:
    cache = RadixPrefixCache(torch.device("cpu"), page_size)
    match, lock, insert = cache.match_prefix, cache.lock_handle, cache.insert_prefix

    def start(prompt: torch.Tensor) -> tuple[int, Any]:
        handle = match(prompt).handle
        lock(handle)
        if fetches:
            handle.get_matched_indices()
        return handle.cached_len, handle

    def end(whole: torch.Tensor, indices: torch.Tensor, _found: int, handle: Any) -> int:
        result = insert(whole, indices)
        lock(handle, unlock=True)
        return result.cached_len

    return Calls(start, end, cache.evict, torch.Tensor.numel)


def minisgl_fused(page_size: int, fetches: bool) -> Calls:
    cache = RadixPrefixCache(torch.device("cpu"), page_size)
    match_and_lock, insert_and_unlock = cache.match_and_lock, cache.insert_and_unlock

    def start(prompt: torch.Tensor) -> tuple[int, Any]:
        handle = match_and_lock(prompt).handle
        if fetches:
            handle.get_matched_indices()
        return handle.cached_len, handle

    def end(whole: torch.Tensor, indices: torch.Tensor, _found: int, handle: Any) -> int:
        return insert_and_unlock(whole, indices, handle).cached_len

    return Calls(start, end, cache.evict, torch.Tensor.numel)


def python(tree_type: type[PythonTree], page_size: int, fetches: bool) -> Calls:
    tree = tree_type(page_size)
    match, lock, unlock, insert = tree.match, tree.lock, tree.unlock, tree.insert

    def start(prompt: Any) -> tuple[int, Any]:
        found, node = match(prompt)
        lock(node)
        if fetches:
            tree.matched_indices(node)
        return found, node

    def end(whole: Any, indices: Any, _found: int, node: Any) -> int:
        before = insert(whole, indices)
        unlock(node)
        return before

    return Calls(start, end, tree.evict, len)


def sglang(binding: Any, page_size: int, fetches: bool) -> Calls:
    core = sglang_core.SGLangCore(binding, page_size)
    match, lock, unlock, insert = core.match, core.lock, core.unlock, core.insert

    def start(prompt: array) -> tuple[int, int]:
        found, node = match(prompt)
        lock(node)
        if fetches:
            core.matched_indices(node)
        return found, node

    def end(whole: array, indices: torch.Tensor, found: int, node: int) -> int:
        before = insert(whole, indices, found)
        unlock(node)
        return before

    return Calls(start, end, core.evict, lambda freed: sum(map(len, freed)))


def contestants(trace: list[Request]) -> dict[str, Contestant]:
    lengths = [len(request.whole) for request in trace]
    slots = torch.arange(sum(lengths), dtype=torch.int32).split(lengths)
    tensors = [(request.prompt, request.whole, index) for request, index in zip(trace, slots, strict=True)]
    arrays = [(prompt.numpy(), whole.numpy(), index.numpy()) for prompt, whole, index in tensors]
    found = {OURS: Contestant(minisgl, tensors), OURS_FUSED: Contestant(minisgl_fused, tensors)}
    try:
        binding = sglang_core.load_binding()
    except ImportError as error:
        print(f"SGLang's tree core: not measured:\n  {error}")
    else:
        ids = [(array("q", p.tolist()), array("q", w.tolist()), i.to(torch.int64)) for p, w, i in tensors]
        found["SGLang's tree core"] = Contestant(lambda *args: sglang(binding, *args), ids)
    found["Python, tensors"] = Contestant(lambda *args: python(PythonTree, *args), tensors)
    found["Python, NumPy, tuned"] = Contestant(lambda *args: python(TunedPythonTree, *args), arrays)
    return found


def play(calls: Calls, trace: list[tuple[Any, Any, Any, int]], room: int) -> list[int]:
    """Serve all requests and return the number of tokens that each has found."""
    start, end, evict, num_freed = calls
    free, all_found = room, []
    running: deque = deque()
    for prompt, whole, indices, length in trace:
        if len(running) == IN_FLIGHT:
            request = running.popleft()
            free += end(*request) - request[2]  # what others have inserted meanwhile is not stored twice
        found, handle = start(prompt)
        need = length - found
        if need > free:
            free += num_freed(evict(need - free))
        free -= need
        running.append((whole, indices, found, handle))
        all_found.append(found)
    return all_found


def seconds(contestant: Contestant, page_size: int, room: int, fetches: bool) -> float:
    calls, trace = contestant.make(page_size, fetches), contestant.trace(page_size)
    gc.collect()
    start = time.process_time()
    play(calls, trace, room)
    return time.process_time() - start


def evict_seconds(contestant: Contestant, page_size: int, room: int) -> list[float]:
    """Return the time of each evict call, the fastest of a few rounds."""

    def timed(size: int) -> Any:
        start = time.perf_counter()
        freed = calls.evict(size)
        times.append(time.perf_counter() - start)
        return freed

    rounds = []
    for _ in range(EVICT_ROUNDS):
        times: list[float] = []
        calls = contestant.make(page_size, False)
        play(calls._replace(evict=timed), contestant.trace(page_size), room)
        rounds.append(times)
    return [min(times) for times in zip(*rounds, strict=True)]


def require_equal_matches(everyone: dict[str, Contestant], page_size: int, room: int) -> list[int]:
    """Return the number of tokens that each request finds."""
    found = {name: play(one.make(page_size, True), one.trace(page_size), room) for name, one in everyone.items()}
    expected = found[OURS]
    for name, numbers in found.items():
        if numbers != expected:
            first = next(i for i, pair in enumerate(zip(numbers, expected, strict=True)) if len(set(pair)) > 1)
            sys.exit(f"{name} finds {numbers[first]} tokens for request {first}, minisgl {expected[first]}")
    return expected


def print_table(everyone: dict[str, Contestant], trace: list[Request], page_size: int, room: int) -> None:
    found = require_equal_matches(everyone, page_size, room)
    evicts = {name: evict_seconds(one, page_size, room) for name, one in everyone.items()}
    share = sum(found) / sum(len(request.prompt) for request in trace)
    print(f"{share:.1%} of the prompts' tokens found by all, {len(evicts[OURS])} evict calls")
    evict_title = "   evict: median, largest" if evicts[OURS] else ""
    print(f"{'':22} {'requests/s':>10} {'target':>10} {'minisgl is':>11} {'fused':>7} {'target':>7}{evict_title}")
    for fetches in (False, True):
        if fetches:
            print("with the matched indices")
        medians = median_seconds(everyone, page_size, room, fetches)
        for name, median in medians.items():
            rate = f"{len(trace) / median:10,.0f} {rate_target(name, fetches):>10}"
            target = RATIO_TARGETS.get(name, "")
            ratios = f"{median / medians[OURS]:10.2f}x {median / medians[OURS_FUSED]:6.2f}x {target:>7}"
            evict = "" if fetches or not evicts[name] else evict_summary(name, evicts[name])
            print(f"{name:22} {rate} {ratios}   {evict}".rstrip())


def median_seconds(everyone: dict[str, Contestant], page_size: int, room: int, fetches: bool) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in everyone}
    for _, (name, one) in itertools.product(range(ROUNDS), everyone.items()):
        samples[name].append(seconds(one, page_size, room, fetches))
    return {name: statistics.median(times) for name, times in samples.items()}


def rate_target(name: str, fetches: bool) -> str:
    return ">= 150,000" if name in (OURS, OURS_FUSED) and not fetches else ""


def evict_summary(name: str, times: list[float]) -> str:
    target = " (<= 2)" if name in (OURS, OURS_FUSED) else ""
    return f"{statistics.median(times) * 1e6:.2f}{target}, {max(times) * 1e6:.1f}"


def main() -> None:
    torch.set_num_threads(1)
    trace = list(requests(NUM_REQUESTS))
    everyone = contestants(trace)
    gc.disable()  # while a cache is timed; trees of earlier rounds are collected between
    gc.freeze()  # and nothing else is looked at
    print(f"{NUM_REQUESTS} requests, {IN_FLIGHT} in flight; medians of {ROUNDS} interleaved rounds; evict in us")
    for page_size, (name, room) in itertools.product((1, 16), ROOMS.items()):
        print(f"\npage size {page_size}, {name}: ", end="")
        print_table(everyone, trace, page_size, room)


if __name__ == "__main__":
    main()
