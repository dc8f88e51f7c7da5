"""Verify and time `indexing` on the current GPU, with its peers in the same run, and write a record.

    python benchmarks/gpu_index.py notebooks/measurements [COMMIT]

"indexing, ..." is the ledger of ideas: other launch shapes, and the shipped source with a few lines replaced.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tvm_ffi
from gpu_peers import installed
from gpu_record import (
    LEDGER_ROW_BYTES,
    LEDGER_ROWS,
    ROW_BYTES,
    ROWS,
    Record,
    buffers_in_rotation,
    launches_per_graph,
    load_all,
    random_rows,
)
from gpu_timing import Launch
from gpu_variants import INDEX_VARIANTS, add_variant

from minisgl.kernel import indexing
from minisgl.kernel.index import index_wrapper, load_index_kernel
from minisgl.kernel.utils import KernelConfig, load_jit

SHIPPED = KernelConfig(num_threads=64, use_pdl=True)
CONFIGS = {
    **{f"{n} vectors a thread": KernelConfig(num_threads=64, use_pdl=True, vectors_per_thread=n) for n in (1, 2, 4, 8)},
    **{f"{n} threads a block": KernelConfig(num_threads=n, use_pdl=True) for n in (32, 128, 256)},
    "no PDL": KernelConfig(num_threads=64),
}
MIN_TABLE_BYTES = 2**30
MIN_TABLE_ROWS = 131072

Bind = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Launch]


@dataclass
class Case:
    """The tensors of one size: `indices[j]` and `outputs[j]` belong to launch `j`."""

    table: torch.Tensor
    indices: torch.Tensor
    outputs: torch.Tensor

    @classmethod
    def of(cls, table: torch.Tensor, rows: int) -> "Case":
        row_bytes = table.shape[1] * table.itemsize
        count = launches_per_graph(2 * rows * row_bytes)
        buffers = buffers_in_rotation(rows * row_bytes, count)
        outputs = torch.empty(buffers, rows, table.shape[1], dtype=table.dtype, device="cuda")
        return cls(table, random_rows(len(table), count, rows), outputs)

    def launches(self, bind: Bind) -> list[Launch]:
        buffers = len(self.outputs)
        return [bind(self.table, ids, self.outputs[j % buffers]) for j, ids in enumerate(self.indices)]

    def hot_launches(self, bind: Bind) -> list[Launch]:
        return [bind(self.table, self.indices[0], self.outputs[0])] * len(self.indices)

    def right(self, launch: Launch) -> bool:
        """Whether `launch`, the first one, gives what PyTorch gives, bit for bit."""
        output, table = self.outputs[0].view(torch.int16), self.table.view(torch.int16)
        expected = table[self.indices[0]]
        output.copy_(~expected)
        launch()
        return torch.equal(output, expected)


def loaders() -> dict[tuple[str, int], Callable[[], tvm_ffi.Function]]:
    """Return what compiles each kernel, by its name in the record and its row size."""
    variants = {name: add_variant("index", name, lines) for name, lines in INDEX_VARIANTS.items()}
    found: dict[tuple[str, int], Callable[[], tvm_ffi.Function]] = {}
    for row_bytes in ROW_BYTES:
        found["indexing", row_bytes] = functools.partial(load_index_kernel, row_bytes, SHIPPED, target="cuda")
    for row_bytes in LEDGER_ROW_BYTES:
        for name, config in CONFIGS.items():
            load = functools.partial(load_index_kernel, row_bytes, config, target="cuda")
            found[f"indexing, {name}", row_bytes] = load
        for name, file in variants.items():
            found[f"indexing, {name}", row_bytes] = functools.partial(load_variant, file, row_bytes)
    return found


def load_variant(file: str, row_bytes: int) -> tvm_ffi.Function:
    wrapper = index_wrapper(row_bytes, SHIPPED)
    return load_jit(Path(file).stem, row_bytes, cuda_files=[file], cuda_wrappers=[wrapper], target="cuda").indexing


def bind_compiled(function: tvm_ffi.Function) -> Bind:
    return lambda table, ids, output: functools.partial(function, table, ids, output, None, None)


def bind_ours(table: torch.Tensor, ids: torch.Tensor, output: torch.Tensor) -> Launch:
    return functools.partial(indexing, table, ids, output=output)


def bind_torch(table: torch.Tensor, ids: torch.Tensor, output: torch.Tensor) -> Launch:
    return functools.partial(torch.index_select, table, 0, ids, out=output)


def random_table(row_bytes: int) -> torch.Tensor:
    rows = max(MIN_TABLE_ROWS, MIN_TABLE_BYTES // row_bytes)
    bits = torch.randint(-(2**15), 2**15, (rows, row_bytes // 2), dtype=torch.int16, device="cuda")
    return bits.view(torch.float16)


def main(folder: Path, commit: str = "unknown") -> None:
    peers = installed("Triton")
    kernels = load_all(loaders())
    record = Record("index")
    for row_bytes in ROW_BYTES:
        table = random_table(row_bytes)
        ledger = {name: bind_compiled(kernel) for (name, width), kernel in kernels.items() if width == row_bytes}
        ledger.pop("indexing")
        for rows in ROWS:
            case = Case.of(table, rows)
            measure = functools.partial(record.measure, rows=rows, row_bytes=row_bytes, right=case.right)
            measure("indexing", launches=case.launches(bind_ours))
            measure("torch.index_select", launches=case.launches(bind_torch))
            if triton := peers.get("Triton"):
                ways = {way: case.launches(bind) for way, bind in triton.index_ways().items()}
                record.measure_best("Triton", rows, row_bytes, ways, right=case.right)
            if rows in LEDGER_ROWS and row_bytes in LEDGER_ROW_BYTES:
                for name, bind in ledger.items():
                    measure(name, launches=case.launches(bind))
                if rows == 1:
                    measure("indexing, hot", launches=case.hot_launches(bind_ours), cold=False)
    record.write(folder, commit, peers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
