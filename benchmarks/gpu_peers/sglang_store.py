"""SGLang's store kernel, compiled from an installed SGLang's sources without importing it."""

import functools
from importlib.metadata import version

import torch
from gpu_timing import Launch

from gpu_peers import package_folder
from gpu_peers.nvcc import compile_peer
from minisgl.compile.targets import cuda_arch

KERNEL = "jit_kernel/csrc/elementwise/kvcache.cuh"
FOLDER = package_folder("sglang", KERNEL)
VERSION = version("sglang")


class Store:
    """The kernel for rows of one width."""

    def __init__(self, row_bytes: int) -> None:
        arch = int(cuda_arch().removeprefix("sm_"))
        use_pdl = "true" if arch >= 90 else "false"
        unit = (
            f'#include "{FOLDER / KERNEL}"\n#include <tvm/ffi/function.h>\n'
            f"TVM_FFI_DLL_EXPORT_TYPED_FUNC(store_cache, (StoreKVCacheKernel<{row_bytes}, {use_pdl}>::run));\n"
        )
        include = [FOLDER / "jit_kernel" / "include"]
        self.function = compile_peer(unit, include, [f"-DSGL_CUDA_ARCH={arch}0", "-w"]).store_cache
        # How many warps share a row: SGLang's own rule.
        self.num_split = 4 if row_bytes % 2048 == 0 else 2 if row_bytes % 1024 == 0 else 1

    def bind(
        self, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> Launch:
        return functools.partial(self.function, k, v, k_cache, v_cache, slots, self.num_split)
