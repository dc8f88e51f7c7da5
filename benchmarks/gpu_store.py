"""Verify and time `store_cache` on the current GPU, with its peers in the same run, and write a record.

    python benchmarks/gpu_store.py notebooks/measurements [COMMIT]

"store_cache, ..." is the ledger of ideas: other launch shapes, the shipped source with a few lines replaced, other
orders of the slots, and a float8 cache. `row_bytes` are those of one row of K, before it becomes float8.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

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
from gpu_variants import PLAIN_DIVISION, STORE_VARIANTS, add_variant

from minisgl.kernel import store_cache
from minisgl.kernel.store import load_store_kernel, store_wrapper
from minisgl.kernel.utils import KernelConfig, load_jit

SHIPPED = KernelConfig(num_threads=64, max_occupancy=24, use_pdl=True)
CONFIGS = {
    **{f"{n} vectors a thread": dataclasses.replace(SHIPPED, vectors_per_thread=n) for n in (1, 2)},
    # More vectors need more registers than 24 blocks leave for each.
    **{f"{n} vectors a thread": dataclasses.replace(SHIPPED, vectors_per_thread=n, max_occupancy=1) for n in (4, 8)},
    **{f"{n} threads a block": dataclasses.replace(SHIPPED, num_threads=n, max_occupancy=1) for n in (32, 128, 256)},
    "no PDL": dataclasses.replace(SHIPPED, use_pdl=False),
}
MIN_CACHE_BYTES = 2**30
MIN_SLOTS = 131072
SCALES = (0.37, 1.7)
FLOAT8_MAX = 448.0

# Takes k_cache, v_cache, slots, k, v.
Bind = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Launch]
Loader = Callable[[], object]


@dataclass
class Case:
    """The tensors of one size: `slots[j]` and `inputs[j]`, its K and V, belong to launch `j`."""

    caches: torch.Tensor  # [2, slots, row]
    expected: torch.Tensor  # as much memory, for what the caches should hold
    slots: torch.Tensor
    inputs: torch.Tensor  # [buffers, 2, rows, row]

    @classmethod
    def of(cls, caches: torch.Tensor, expected: torch.Tensor, rows: int) -> "Case":
        row_bytes = caches.shape[2] * caches.itemsize
        count = launches_per_graph(4 * rows * row_bytes)
        buffers = buffers_in_rotation(2 * rows * row_bytes, count)
        inputs = torch.empty(buffers, 2, rows, caches.shape[2], dtype=torch.bfloat16, device="cuda").normal_()
        return cls(caches, expected, random_rows(caches.shape[1], count, rows), inputs)

    def launches(self, bind: Bind, slots: torch.Tensor | None = None) -> list[Launch]:
        slots = self.slots if slots is None else slots
        return [self._launch(bind, ids, j % len(self.inputs)) for j, ids in enumerate(slots)]

    def hot_launches(self, bind: Bind) -> list[Launch]:
        return [self._launch(bind, self.slots[0], 0)] * len(self.slots)

    def _launch(self, bind: Bind, slots: torch.Tensor, buffer: int) -> Launch:
        (k_cache, v_cache), (k, v) = self.caches, self.inputs[buffer]
        return bind(k_cache, v_cache, slots, k, v)

    def right(self, launch: Launch, slots: torch.Tensor | None = None) -> bool:
        """Whether `launch`, the first one, leaves the caches as PyTorch leaves them, bit for bit."""
        ids = self.slots[0] if slots is None else slots[0]
        bits = torch.int16 if self.caches.dtype == torch.bfloat16 else torch.uint8
        self.expected.view(bits).fill_(77)
        for cache, row, scale in zip(self.expected, self.inputs[0], SCALES, strict=True):
            wanted = row if bits == torch.int16 else to_float8(row, torch.tensor(scale, device="cuda"))
            cache.view(bits)[ids] = wanted.view(bits)
        self.caches.view(bits).fill_(77)
        launch()
        return torch.equal(self.caches.view(bits), self.expected.view(bits))

    def float8(self) -> "Case":
        """Return the same case with float8 caches, in half of the memory."""
        caches, expected = (
            memory.view(torch.float8_e4m3fn).view(-1)[: memory.numel()].view(memory.shape)
            for memory in (self.caches, self.expected)
        )
        return Case(caches, expected, self.slots, self.inputs)


def to_float8(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Convert as PyTorch does. The scale is on the GPU: PyTorch multiplies by the reciprocal of one that is not."""
    return (rows.float() / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)


def bind_ours(*tensors: torch.Tensor) -> Launch:
    return functools.partial(store_cache, *tensors)


def bind_float8(*tensors: torch.Tensor) -> Launch:
    return functools.partial(store_cache, *tensors, k_scale=SCALES[0], v_scale=SCALES[1])


def bind_compiled(function: tvm_ffi.Function) -> Bind:
    return lambda *tensors: functools.partial(function, *tensors, 1.0, 1.0)


def bind_compiled_float8(function: tvm_ffi.Function) -> Bind:
    return lambda *tensors: functools.partial(function, *tensors, *SCALES)


def bind_two_launches(function: tvm_ffi.Function) -> Bind:
    """K alone, then V alone: the other one is a row of no bytes."""

    def bind(
        k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> Launch:
        first = functools.partial(function, k_cache, k_cache[:, :0], slots, k, k[:, :0], 1.0, 1.0)
        second = functools.partial(function, v_cache, v_cache[:, :0], slots, v, v[:, :0], 1.0, 1.0)
        return lambda: (first(), second())

    return bind


def bind_index_put(
    k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Launch:
    return lambda: (k_cache.index_put_((slots,), k), v_cache.index_put_((slots,), v))


def bind_index_copy(
    k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Launch:
    return lambda: (k_cache.index_copy_(0, slots, k), v_cache.index_copy_(0, slots, v))


def bind_torch_float8(
    k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Launch:
    pairs = [(k_cache.view(torch.uint8), k, SCALES[0]), (v_cache.view(torch.uint8), v, SCALES[1])]
    work = [(cache, rows, torch.tensor(scale, device="cuda")) for cache, rows, scale in pairs]

    def launch() -> None:
        for cache, rows, scale in work:
            cache.index_put_((slots,), to_float8(rows, scale).view(torch.uint8))

    return launch


def loaders(peers: dict[str, ModuleType]) -> dict[tuple[str, int], Loader]:
    """Return what compiles each kernel, by its name in the record and its row size."""
    variants = {name: add_variant("store", name, lines) for name, lines in STORE_VARIANTS.items()}
    plain_division = add_variant("store", "plain division", PLAIN_DIVISION)
    found: dict[tuple[str, int], Loader] = {}
    for row_bytes in ROW_BYTES:
        found["store_cache", row_bytes] = functools.partial(
            load_store_kernel, row_bytes, row_bytes, SHIPPED, target="cuda"
        )
        if sglang := peers.get("SGLang"):
            found["SGLang", row_bytes] = functools.partial(or_none, "SGLang", sglang.Store, row_bytes)
    if flashinfer := peers.get("FlashInfer"):
        found["FlashInfer", 0] = functools.partial(or_none, "FlashInfer", flashinfer.append_function)
    for row_bytes in LEDGER_ROW_BYTES:
        for name, config in CONFIGS.items():
            load = functools.partial(load_store_kernel, row_bytes, row_bytes, config, target="cuda")
            found[f"store_cache, {name}", row_bytes] = load
        for name, file in variants.items():
            found[f"store_cache, {name}", row_bytes] = functools.partial(
                load_variant, file, row_bytes, 0 if name == "two launches" else row_bytes
            )
        load = functools.partial(load_store_kernel, row_bytes, row_bytes, to_float8=True, target="cuda")
        found["store_cache, float8", row_bytes] = functools.partial(load, SHIPPED)
        unlimited = dataclasses.replace(SHIPPED, max_occupancy=1)
        found["store_cache, float8, registers not limited", row_bytes] = functools.partial(load, unlimited)
        found["store_cache, float8, plain division", row_bytes] = functools.partial(
            load_variant, plain_division, row_bytes, row_bytes, to_float8=True
        )
    return found


def or_none(peer: str, load: Callable[..., object], *args: int) -> object | None:
    """Return what `load` returns, or None with the reason printed: a peer that does not compile is left out."""
    try:
        return load(*args)
    except Exception as error:
        print(f"{peer} {args}: left out: {error}", flush=True)
        return None


def load_variant(file: str, k_row_bytes: int, v_row_bytes: int, *, to_float8: bool = False) -> tvm_ffi.Function:
    wrapper = store_wrapper(k_row_bytes, v_row_bytes, SHIPPED, to_float8=to_float8)
    args = (k_row_bytes, v_row_bytes)
    return load_jit(Path(file).stem, *args, cuda_files=[file], cuda_wrappers=[wrapper], target="cuda").store_cache


def peer_launches(
    case: Case, rows: int, row_bytes: int, peers: dict[str, ModuleType], kernels: dict[tuple[str, int], Any]
) -> Iterator[tuple[str, dict[str, list[Launch]]]]:
    """Yield each peer's name and its ways to do the work."""
    if triton := peers.get("Triton"):
        yield "Triton", {way: case.launches(bind) for way, bind in triton.store_ways().items()}
    if sglang := kernels.get(("SGLang", row_bytes)):
        yield "SGLang", {"": case.launches(sglang.bind)}
    if (append := kernels.get(("FlashInfer", 0))) and peers["FlashInfer"].supports(row_bytes):
        yield "FlashInfer", {"": case.launches(peers["FlashInfer"].Store(append, rows).bind)}


def measure_ledger(record: Record, case: Case, rows: int, row_bytes: int, kernels: dict[tuple[str, int], Any]) -> None:
    measure = functools.partial(record.measure, rows=rows, row_bytes=row_bytes)
    for name in [*CONFIGS, *STORE_VARIANTS]:
        bind = bind_two_launches if name == "two launches" else bind_compiled
        launches = case.launches(bind(kernels[f"store_cache, {name}", row_bytes]))
        measure(f"store_cache, {name}", launches=launches, right=case.right)

    sequential = torch.arange(case.slots.numel(), device="cuda").view(case.slots.shape) % case.caches.shape[1]
    for name, slots in (("sequential", sequential), ("sorted", case.slots.sort().values)):
        right = functools.partial(case.right, slots=slots)
        measure(f"store_cache, {name} slots", launches=case.launches(bind_ours, slots), right=right)
    sorts: list[Launch] = [functools.partial(torch.sort, slots) for slots in case.slots]
    measure("torch.sort", launches=sorts, right=lambda _: True)

    small = case.float8()
    measure("store_cache, float8", launches=small.launches(bind_float8), right=small.right)
    for way in ("registers not limited", "plain division"):
        launches = small.launches(bind_compiled_float8(kernels[f"store_cache, float8, {way}", row_bytes]))
        measure(f"store_cache, float8, {way}", launches=launches, right=small.right)
    measure("torch, float8", launches=small.launches(bind_torch_float8), right=small.right)
    if rows == 1:
        measure("store_cache, hot", launches=case.hot_launches(bind_ours), right=case.right, cold=False)


def main(folder: Path, commit: str = "unknown") -> None:
    peers = installed("Triton", "SGLang", "FlashInfer")
    kernels = load_all(loaders(peers))
    record = Record("store")
    for row_bytes in ROW_BYTES:
        slots = max(MIN_SLOTS, MIN_CACHE_BYTES // row_bytes)
        caches, expected = (
            torch.empty(2, slots, row_bytes // 2, dtype=torch.bfloat16, device="cuda") for _ in range(2)
        )
        for rows in ROWS:
            case = Case.of(caches, expected, rows)
            measure = functools.partial(record.measure, rows=rows, row_bytes=row_bytes, right=case.right)
            measure("store_cache", launches=case.launches(bind_ours))
            measure("torch.index_put_", launches=case.launches(bind_index_put))
            measure("torch.index_copy_", launches=case.launches(bind_index_copy))
            for name, ways in peer_launches(case, rows, row_bytes, peers, kernels):
                record.measure_best(name, rows, row_bytes, ways, right=case.right)
            if rows in LEDGER_ROWS and row_bytes in LEDGER_ROW_BYTES:
                measure_ledger(record, case, rows, row_bytes, kernels)
            torch.cuda.empty_cache()
    record.write(folder, commit, peers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
