"""Verify and time `indexing` on the current GPU, with its peers in the same run, and write a record.

    python benchmarks/gpu_index.py notebooks/measurements [COMMIT]

Times are CUDA-graph replays: a graph holds many launches over buffers that together exceed the L2 cache several times,
so a launch finds nothing of its own there, and the CPU's launch cost is out of the picture. One sample is one replay
divided by its launches.
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from provenance import file_name, provenance

from minisgl.kernel import indexing
from minisgl.kernel.index import load_index_kernel, num_splits
from minisgl.kernel.utils import KernelConfig, load_jit

ROWS = [1, 16, 256, 1024, 4096, 16384, 65536]
ROW_BYTES = [256, 512, 1024, 2048, 4096, 8192, 16384]
REPLAYS = 15
TRAFFIC_PER_GRAPH = 512 * 2**20  # bytes; the L2 of an H200 holds 60 MiB
TABLE_BYTES = 2 * 2**30

EMPTY_KERNEL = """
#include <minisgl/ffi.h>
#include <minisgl/utils.cuh>
namespace test {
__global__ void empty_kernel() {}
inline void empty(minisgl::TensorView x) { minisgl::LaunchKernel(1, 128, x.device()).run<empty_kernel>(); }
}
"""

Lookup = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]


def replay_seconds(launches: list[Callable[[], object]]) -> list[float]:
    """Return the time per launch of each replay of a graph that holds `launches`."""
    for launch in launches[:3]:
        launch()  # compile and load outside the graph
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    return [float(f"{seconds / len(launches):.4g}") for seconds in timed(graph.replay)]


def timed(function: Callable[[], object]) -> list[float]:
    """Return the seconds that the GPU takes for `function`, several times over; the first three do not count."""
    samples = []
    for _ in range(REPLAYS + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) / 1e3)
    return samples[3:]


def kernel_with(splits: int, row_bytes: int, use_pdl: bool) -> Lookup:
    function = load_index_kernel(row_bytes, splits, KernelConfig(use_pdl=use_pdl), target="cuda")
    return lambda weights, indices, output: function(weights, indices, output, None, None)


def lookups(row_bytes: int) -> dict[str, Lookup]:
    """Return what is compared at one row size."""
    found: dict[str, Lookup] = {
        "indexing": lambda weights, indices, output: indexing(weights, indices, output=output),
        "torch.index_select": lambda weights, indices, output: torch.index_select(weights, 0, indices, out=output),
    }
    for splits in (1, 2, 4, 8):
        if row_bytes % (512 * splits) == 0 and splits != num_splits(row_bytes):
            found[f"indexing, {splits} warps a row"] = kernel_with(splits, row_bytes, False)
    found["indexing, PDL"] = kernel_with(num_splits(row_bytes), row_bytes, True)
    return found


def measure(row_bytes: int) -> list[dict[str, object]]:
    dim = row_bytes // 2
    table = torch.randint(-(2**15), 2**15, (TABLE_BYTES // row_bytes, dim), dtype=torch.int16, device="cuda")
    table = table.view(torch.float16)
    samples = []
    for rows in ROWS:
        count = max(20, min(400, TRAFFIC_PER_GRAPH // (2 * rows * row_bytes)))
        indices = [torch.randint(0, len(table), (rows,), device="cuda") for _ in range(count)]
        outputs = torch.empty(
            min(count, 1 + TRAFFIC_PER_GRAPH // (rows * row_bytes)), rows, dim, dtype=table.dtype, device="cuda"
        )
        for name, lookup in lookups(row_bytes).items():
            check = torch.full_like(outputs[0], float("nan"))
            lookup(table, indices[0], check)
            assert torch.equal(check.view(torch.int16), table.view(torch.int16)[indices[0]]), (name, rows, row_bytes)
            launches = [
                functools.partial(lookup, table, ids, outputs[i % len(outputs)]) for i, ids in enumerate(indices)
            ]
            seconds = replay_seconds(launches)
            samples.append({"name": name, "rows": rows, "row_bytes": row_bytes, "seconds": seconds})
            print(f"{rows:6} x {row_bytes:5} {name:26} {median(seconds) * 1e6:9.2f} us", flush=True)
    return samples


def copy_seconds_per_byte() -> list[float]:
    """Time large device-to-device copies: the ceiling, per byte read or written.

    Not in a graph: there a copy becomes a node of its own kind, which is slower than the kernel that PyTorch launches.
    """
    source = torch.randint(-(2**31), 2**31 - 1, (2**29,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    return [seconds / (2 * source.nbytes) for seconds in timed(lambda: target.copy_(source))]


def empty_kernel_seconds(folder: Path) -> list[float]:
    source = folder / "empty.cu"
    source.write_text(EMPTY_KERNEL)
    empty = load_jit(
        "empty", cuda_files=[source.resolve()], cuda_wrappers=[("empty", "test::empty")], target="cuda"
    ).empty
    x = torch.zeros(1, device="cuda")
    seconds = replay_seconds([lambda: empty(x)] * 400)
    source.unlink()
    return seconds


def main(folder: Path, commit: str = "unknown") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "kernel": "index",
        **provenance(commit),
        "method": "CUDA graph replays, buffers larger than L2, seconds per launch",
        "copy_seconds_per_byte": copy_seconds_per_byte(),
        "empty_kernel_seconds": empty_kernel_seconds(folder),
        "samples": [sample for row_bytes in ROW_BYTES for sample in measure(row_bytes)],
    }
    (folder / file_name("index")).write_text(json.dumps(record) + "\n")
    print(f"copy: {1 / median(record['copy_seconds_per_byte']) / 1e12:.2f} TB/s, ", end="")  # type: ignore[arg-type]
    print(f"empty kernel: {median(record['empty_kernel_seconds']) * 1e6:.2f} us")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
