"""FlashInfer's append to a paged cache, compiled from an installed FlashInfer's sources without importing it.

With pages of one slot and one request whose pages are the slots, it is the store of the other contestants.
"""

import functools
from importlib.metadata import version

import torch
import tvm_ffi
from gpu_timing import Launch

from gpu_peers import package_folder
from gpu_peers.nvcc import compile_peer

KERNEL = "data/csrc/page.cu"
FOLDER = package_folder("flashinfer", KERNEL)
VERSION = version("flashinfer-python")
NHD = 0  # layout: pages, slots, heads, elements of a head
HEAD_DIM = 128


def supports(row_bytes: int) -> bool:
    """Whether a row is a whole number of 16-bit heads of the usual width."""
    return row_bytes % (2 * HEAD_DIM) == 0


def append_function() -> tvm_ffi.Function:
    """Compile the kernel; it takes rows of any number of heads."""
    unit = (
        f'#include "{FOLDER / KERNEL}"\n#include <tvm/ffi/function.h>\n'
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(append_paged_kv_cache, append_paged_kv_cache);\n"
    )
    cccl = FOLDER / "data" / "cccl"
    include = [cccl / "libcudacxx" / "include", cccl / "cub", cccl / "thrust"]
    include += [FOLDER / "data" / "include", FOLDER / "data" / "csrc"]
    return compile_peer(
        unit, include, ["-w", "-DFLASHINFER_ENABLE_F16", "-DFLASHINFER_ENABLE_BF16"]
    ).append_paged_kv_cache


class Store:
    """The kernel for a launch of `rows` rows. What says which request a row belongs to is shared by all launches."""

    def __init__(self, function: tvm_ffi.Function, rows: int) -> None:
        self.function = function
        self.batch_indices = torch.zeros(rows, dtype=torch.int32, device="cuda")
        self.positions = torch.arange(rows, dtype=torch.int32, device="cuda")
        self.indptr = torch.tensor([0, rows], dtype=torch.int32, device="cuda")
        self.last_page_len = torch.ones(1, dtype=torch.int32, device="cuda")

    def bind(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> Launch:
        return functools.partial(
            self.function,
            k.view(len(k), -1, HEAD_DIM),
            v.view(len(v), -1, HEAD_DIM),
            self.batch_indices,
            self.positions,
            k_cache.view(len(k_cache), 1, -1, HEAD_DIM),
            v_cache.view(len(v_cache), 1, -1, HEAD_DIM),
            slots.to(torch.int32),
            self.indptr,
            self.last_page_len,
            NHD,
        )
