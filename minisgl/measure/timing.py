# Exported from notebooks/01_python_to_cpp_and_back.md by "minisgl book export"; edit it there. sha256:3d57a2a38a19

"""Time functions on the CPU so that a noisy machine is fair to all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

_SHORTEST_SAMPLE_S = 100e-6


def interleaved_medians(functions: Mapping[str, Callable[[], object]], repeats: int = 31) -> dict[str, float]:
    """Return the median time of one call of each function, in seconds.

    The functions take turns, so that a busy moment of the machine hits all of them. A sample is as many calls as take
    100 microseconds: the clock's own cost vanishes. The first calls, which may compile or allocate, do not count.

    Args:
        functions: what to time, by name.
        repeats: samples per function, at least 1.

    Raises:
        ValueError: `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"interleaved_medians: repeats: expected at least 1, got {repeats}")
    calls = {name: _calls_per_sample(function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            samples[name].append(_time(function, calls[name]) / calls[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def _calls_per_sample(function: Callable[[], object]) -> int:
    function()
    calls = 1
    while _time(function, calls) < _SHORTEST_SAMPLE_S:
        calls *= 2
    return calls


def _time(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - start
