"""`indexing` on the CPU target against `torch.index_select`, both on one thread.

Target: at most 2x slower for fp16, a table of 32768 x 4096, 256 and 4096 rows. Of narrower rows, a few hundred cost
less than the call.

"warm" looks the same rows up in every call, so that they may stay in the cache; "cold" takes 64 sets of rows in turn.
"given" writes into one output, "fresh" into a new one each time.
"""

import itertools

import torch

from minisgl.kernel import indexing
from minisgl.measure import interleaved_medians


def ratio(dim: int, rows: int, index_sets: int, *, fresh: bool) -> tuple[float, float]:
    """Return the median seconds of `indexing` and of `torch.index_select`.

    Each has `index_sets` sets of its own: rows that one has just read would be in the cache for the other.
    """
    weights = torch.randn(32768, dim).to(torch.float16)
    output = None if fresh else torch.empty(rows, dim, dtype=torch.float16)
    ours, theirs = (
        itertools.cycle([torch.randint(0, len(weights), (rows,)) for _ in range(index_sets)]) for _ in range(2)
    )
    times = interleaved_medians(
        {
            "indexing": lambda: indexing(weights, next(ours), output=output),
            "index_select": lambda: torch.index_select(weights, 0, next(theirs), out=output),
        }
    )
    return times["indexing"], times["index_select"]


def main() -> None:
    torch.set_num_threads(1)
    print("fp16, 32768 rows in the table, one thread; medians of 31 interleaved samples")
    print(f"{'row':>8} {'rows':>6} {'table':>7} {'output':>7} {'indexing':>11} {'torch':>11} {'ratio':>7}")
    for dim, rows, sets, fresh in itertools.product([64, 128, 256, 4096], [1, 256, 4096], [1, 64], [False, True]):
        ours, theirs = ratio(dim, rows, sets, fresh=fresh)
        place, kind = "warm" if sets == 1 else "cold", "fresh" if fresh else "given"
        times = f"{ours * 1e6:8.1f} us {theirs * 1e6:8.1f} us {ours / theirs:6.2f}x"
        print(f"{2 * dim:6} B {rows:6} {place:>7} {kind:>7} {times}")


if __name__ == "__main__":
    main()
