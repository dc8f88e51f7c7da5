"""What a call of `indexing` costs before any byte is copied: its Python, its checks, its launch on the CPU target."""

import torch

from minisgl.kernel import indexing
from minisgl.kernel.index import load_index_kernel
from minisgl.measure import interleaved_medians


def main() -> None:
    weights, ids = torch.randn(8, 8), torch.tensor([3])
    output = torch.empty(1, 8)
    kernel = load_index_kernel(32, 1)
    times = interleaved_medians(
        {
            "indexing(weights, ids, output=...)": lambda: indexing(weights, ids, output=output),
            "indexing(weights, ids)": lambda: indexing(weights, ids),
            "the compiled function alone": lambda: kernel(weights, ids, output, None, None),
            "torch.index_select(out=...)": lambda: torch.index_select(weights, 0, ids, out=output),
            "torch.nn.functional.embedding": lambda: torch.nn.functional.embedding(ids, weights),
        }
    )
    print("One row of 32 bytes:")
    for name, seconds in times.items():
        print(f"  {name:38} {seconds * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
