"""`store_cache` on the CPU target against `index_copy_` twice, both on one thread.

Target: at most 1.5x slower at 64, 1024 and 16384 tokens.

The slots are random, and each side takes index sets of its own in turn: slots that one has just written would be in
the cache for the other.
"""

import itertools

import torch

from minisgl.kernel import store_cache
from minisgl.measure import interleaved_medians

SLOTS = 32768
INDEX_SETS = 16


def medians(tokens: int, row_bytes: int) -> tuple[float, float]:
    """Return the median seconds of `store_cache` and of `index_copy_` twice."""
    dim = row_bytes // 2
    k_cache, v_cache = torch.zeros(2, SLOTS, dim, dtype=torch.bfloat16)
    k, v = torch.randn(2, tokens, dim, dtype=torch.bfloat16)
    ours, theirs = (itertools.cycle([torch.randperm(SLOTS)[:tokens] for _ in range(INDEX_SETS)]) for _ in range(2))

    def copy_twice() -> None:
        slots = next(theirs)
        k_cache.index_copy_(0, slots, k)
        v_cache.index_copy_(0, slots, v)

    times = interleaved_medians(
        {"store_cache": lambda: store_cache(k_cache, v_cache, next(ours), k, v), "index_copy_": copy_twice}
    )
    return times["store_cache"], times["index_copy_"]


def main() -> None:
    torch.set_num_threads(1)
    print(f"bf16, {SLOTS} slots, one thread; medians of 31 interleaved samples")
    print(f"{'row of K':>10} {'tokens':>7} {'store_cache':>14} {'index_copy_ x 2':>18} {'ratio':>7}")
    for row_bytes, tokens in itertools.product([256, 1024, 2048, 8192], [64, 1024, 16384]):
        ours, theirs = medians(tokens, row_bytes)
        print(f"{row_bytes:8} B {tokens:7} {ours * 1e6:11.1f} us {theirs * 1e6:15.1f} us {ours / theirs:6.2f}x")


if __name__ == "__main__":
    main()
