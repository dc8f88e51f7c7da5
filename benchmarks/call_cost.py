"""What a call costs before any byte is copied: its Python, its checks, its launch on the CPU target."""

from collections.abc import Callable, Mapping

import torch

from minisgl.kernel import indexing, store_cache
from minisgl.kernel.index import load_index_kernel
from minisgl.kernel.store import load_store_kernel
from minisgl.measure import interleaved_medians


def index_calls() -> dict[str, Callable[[], object]]:
    weights, ids = torch.randn(8, 8), torch.tensor([3])
    output = torch.empty(1, 8)
    kernel = load_index_kernel(32)
    return {
        "indexing(weights, ids, output=...)": lambda: indexing(weights, ids, output=output),
        "indexing(weights, ids)": lambda: indexing(weights, ids),
        "the compiled function alone": lambda: kernel(weights, ids, output, None, None),
        "torch.index_select(out=...)": lambda: torch.index_select(weights, 0, ids, out=output),
        "torch.nn.functional.embedding": lambda: torch.nn.functional.embedding(ids, weights),
    }


def store_calls() -> dict[str, Callable[[], object]]:
    k_cache, v_cache = torch.zeros(2, 8, 8)
    k, v = torch.randn(2, 1, 8)
    slots = torch.tensor([3])
    kernel = load_store_kernel(32, 32)
    return {
        "store_cache": lambda: store_cache(k_cache, v_cache, slots, k, v),
        "the compiled function alone": lambda: kernel(k_cache, v_cache, slots, k, v, 1.0, 1.0),
        "torch.Tensor.index_copy_ twice": lambda: (k_cache.index_copy_(0, slots, k), v_cache.index_copy_(0, slots, v)),
        "torch.Tensor.index_put_ twice": lambda: (k_cache.index_put_((slots,), k), v_cache.index_put_((slots,), v)),
    }


def print_medians(title: str, functions: Mapping[str, Callable[[], object]]) -> None:
    print(title)
    for name, seconds in interleaved_medians(functions).items():
        print(f"  {name:38} {seconds * 1e6:6.2f} us")


def main() -> None:
    print_medians("Look up one row of 32 bytes:", index_calls())
    print_medians("Store one token, K and V rows of 32 bytes:", store_calls())


if __name__ == "__main__":
    main()
