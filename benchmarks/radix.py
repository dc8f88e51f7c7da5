"""`fast_compare_key`: ways to find where two arrays part, from a Python loop to the machine's limit, on one thread.

Targets: at least 95 % of the read limit from 1024 elements on; at least 15x `std::mismatch` at 4096 (int32: both arrays
are in the first cache); the call from Python at most 280 ns at 16 elements.

The arrays are equal, so that everything has to be read. "ours" is what is shipped: it chooses the vector unit. "limit"
is a loop that reads both arrays and stops nowhere, with 2, 4 or 8 sums and the vectors of each unit, whichever is the
fastest. What is C++ is timed without Python.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tvm_ffi

from minisgl.compile import build, host_target, load
from minisgl.kernel import fast_compare_key
from minisgl.kernel.radix import vector_units
from minisgl.kernel.utils import make_unit
from minisgl.measure import interleaved_medians

SOURCE = Path(__file__).with_suffix(".cpp")
LENGTHS = [16, 64, 256, 1024, 2048, 4096, 8192, 16384, 65536]
LONGEST_LOOP = 4096
ELEMENTS_PER_CALL = 1 << 20  # so many elements are compared per call from Python, which then costs nothing


def python_loop(x: list[int], y: list[int]) -> int:
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        if a != b:
            return i
    return len(x)


def numpy_compare(x: np.ndarray, y: np.ndarray) -> int:
    differs = x != y
    first = int(differs.argmax())
    return first if differs[first] else len(x)


def nanoseconds(cpp: tvm_ffi.Module, length: int, dtype: torch.dtype) -> dict[str, float]:
    """Return the median time of one call of everything."""
    x = torch.arange(length, dtype=dtype)
    y = x.clone()
    units = vector_units()
    calls = max(64, ELEMENTS_PER_CALL // length)
    in_cpp: dict[str, Callable[[], object]] = {
        "mismatch": lambda: cpp.mismatch(x, y, calls),
        "memcmp": lambda: cpp.memcmp_blocks(x, y, calls),
        "ours": lambda: cpp.shipped(x, y, calls),
    }
    in_cpp |= {name: lambda unit=unit: cpp.unit(x, y, unit, calls) for unit, name in enumerate(units)}
    for name, call in in_cpp.items():
        if (result := call()) != length:
            raise RuntimeError(f"{name} finds {result} of {length} equal elements")
    for unit, sums in itertools.product(range(len(units)), (2, 4, 8)):
        in_cpp[f"read {unit} {sums}"] = lambda unit=unit, sums=sums: cpp.read(x, y, unit, sums, calls)
    x_numpy, y_numpy = x.numpy(), y.numpy()
    x_list, y_list = x.tolist(), y.tolist()
    in_python: dict[str, Callable[[], object]] = {"NumPy": lambda: numpy_compare(x_numpy, y_numpy)}
    if length <= LONGEST_LOOP:
        in_python["Python"] = lambda: python_loop(x_list, y_list)
    times = {name: seconds * 1e9 for name, seconds in interleaved_medians(in_python).items()}
    times |= {name: seconds / calls * 1e9 for name, seconds in interleaved_medians(in_cpp).items()}
    times["limit"] = min(time for name, time in times.items() if name.startswith("read"))
    return times


def print_ladder(cpp: tvm_ffi.Module, dtype: torch.dtype) -> None:
    columns = ["Python", "NumPy", "mismatch", "memcmp", *vector_units(), "ours", "limit"]
    widths = {name: max(8, len(name) + 1) for name in columns}
    print(f"\n{str(dtype).removeprefix('torch.')}, nanoseconds per call")
    print(f"{'length':>6}{''.join(f'{name:>{width}}' for name, width in widths.items())}  limit / ours")
    for length in LENGTHS:
        times = nanoseconds(cpp, length, dtype)
        cells = ""
        for name, width in widths.items():
            cells += f"{times[name]:{width},.{int(times[name] < 1000)}f}" if name in times else " " * width
        target = " (>= 95%)" if length >= 1024 else ""
        print(f"{length:6}{cells} {times['limit'] / times['ours']:5.0%}{target}")
        if length == 4096 and dtype == torch.int32:
            ratio = times["mismatch"] / times["ours"]
            print(f"{'':6} std::mismatch takes {ratio:.1f}x as long as ours (target >= 15x)")


def print_call() -> None:
    x = torch.arange(16, dtype=torch.int32)
    y = x.clone()
    empty = x[:0]
    times = interleaved_medians(
        {
            "fast_compare_key, 16 elements (target <= 280 ns)": lambda: fast_compare_key(x, y),
            "fast_compare_key, no elements": lambda: fast_compare_key(empty, empty),
            "torch.equal, 16 elements": lambda: torch.equal(x, y),
        }
    )
    print("\nthe call from Python")
    for name, seconds in times.items():
        print(f"  {name:50} {seconds * 1e9:6.0f} ns")


def main() -> None:
    torch.set_num_threads(1)
    cpp = load(build("bench_radix", make_unit([SOURCE], ()), [SOURCE], host_target()))
    print("equal arrays; medians of 31 interleaved samples")
    for dtype in (torch.int32, torch.int64):
        print_ladder(cpp, dtype)
    print_call()


if __name__ == "__main__":
    main()
