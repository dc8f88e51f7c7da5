"""Time launches on the GPU as replays of a CUDA graph: the CPU's cost of a launch is out of the picture."""

import functools
from collections.abc import Callable

import torch

Launch = Callable[[], object]

REPLAYS = 13
WARMUPS = 2
FLUSH_BYTES = 256 * 2**20  # the L2 of an H200 holds 60 MiB


def replay_seconds(launches: list[Launch], replays: int = REPLAYS, *, cold: bool = True) -> list[float]:
    """Return the time per launch of each replay of a graph that holds `launches`.

    If `cold`, the L2 cache holds nothing of theirs when a replay starts, not even the parameters of the launches.
    """
    for launch in launches[:2]:
        launch()  # compile and load outside the graph
    graph = capture(launches)
    samples = timed(graph.replay, replays, before=flush_l2 if cold else None)
    return [float(f"{seconds / len(launches):.4g}") for seconds in samples]


def capture(launches: list[Launch]) -> torch.cuda.CUDAGraph:
    """Record `launches` in a graph. `torch.cuda.graph` would collect garbage first, which takes longer than we time."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(_capture_stream()):
        graph.capture_begin()
        try:
            for launch in launches:
                launch()
        finally:
            graph.capture_end()
    torch.cuda.synchronize()
    return graph


def timed(function: Launch, replays: int = REPLAYS, before: Launch | None = None) -> list[float]:
    """Return the seconds that the GPU takes for `function`, several times over; the first ones do not count.

    `before` runs ahead of each, untimed.
    """
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(WARMUPS + replays)]
    for start, end in events:
        if before:
            before()
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events[WARMUPS:]]


def flush_l2() -> None:
    """Read more than the L2 cache holds. Reading leaves nothing behind that must be written back."""
    torch.sum(_flush_source(), 0, out=_flush_result())


@functools.cache
def _capture_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


@functools.cache
def _flush_source() -> torch.Tensor:
    return torch.ones(FLUSH_BYTES // 4, device="cuda")


@functools.cache
def _flush_result() -> torch.Tensor:
    return torch.empty((), device="cuda")
