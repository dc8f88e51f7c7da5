"""How many threads share a row, which bytes each of them carries, and how many vectors a launch gives to a thread."""

from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl.kernel.utils import load_jit

SOURCE = Path(__file__).with_name("rows.cu")
WIDTHS = [1, 2, 4, 8, 16]
MAX_BLOCKS = 2**31 - 1
# Bytes of a row, of a vector, and threads that share the row.
SHARES = [
    (1, 1, 1),
    (7, 1, 4),
    (35, 16, 2),
    (100, 4, 16),
    (512, 16, 8),
    (512, 16, 32),
    (576, 16, 8),
    (576, 16, 36),
    (528, 16, 33),
    (49, 16, 3),
    (1008, 16, 32),
    (8208, 16, 96),
    (10240, 16, 160),
]
SHARE_OF_LARGE_LAUNCHES = 5  # what rows.cu calls usual


@pytest.fixture(scope="module", params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def rows(request: pytest.FixtureRequest) -> tuple[tvm_ffi.Module, str]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    names = ["threads", "blocks", "places", "starts_next_early"]
    wrappers = [(name, f"minisgl::test::{name}") for name in names]
    wrappers += [(f"shape_{n}", f"minisgl::test::shape<{n}>") for n in (0, 3)]
    wrappers += [("carry_" + "_".join(map(str, s)), f"minisgl::test::carry<{s[0]}, {s[1]}, {s[2]}>") for s in SHARES]
    module = load_jit("rows", cuda_files=[SOURCE], cuda_wrappers=wrappers, target=request.param)
    return module, "cpu" if request.param == "host" else "cuda"


@pytest.mark.parametrize("vectors_per_thread", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("width", WIDTHS)
def test_threads_per_row(rows: tuple[tvm_ffi.Module, str], width: int, vectors_per_thread: int) -> None:
    count = rows[0].threads
    in_a_sector = max(32 // width, 1)
    for vectors in [*range(300), 511, 512, 513, 1023, 1024, 1025, 16384, 65537]:
        threads = count(vectors * width, width, vectors_per_thread)
        assert threads == count(vectors * width + width - 1, width, vectors_per_thread), "the tail has no threads"
        if vectors_per_thread == 1:
            assert threads == max(vectors, 1)
        elif vectors >= 32 * vectors_per_thread:
            assert threads % 32 == 0
            assert threads * vectors_per_thread >= vectors, "a thread with more"
            assert (threads - 32) * vectors_per_thread < vectors, "a warp without work"
        else:
            assert threads in (1, 2, 4, 8, 16, 32)
            assert threads * 2 * vectors_per_thread >= vectors, "a thread with more than twice as many"
            assert threads <= max(vectors, 1), "a thread without work"
            assert threads * vectors_per_thread <= vectors or threads <= in_a_sector, "a thread with less"
            assert threads >= in_a_sector or threads > vectors // 2, "half a sector"


def test_one_thread_carries_a_whole_row_on_a_cpu(rows: tuple[tvm_ffi.Module, str]) -> None:
    """It has no lanes that could share a sector."""
    assert [rows[0].threads(n, 1, 4096) for n in (0, 1, 31, 32, 8191)] == [1, 1, 1, 1, 1]
    assert rows[0].threads(2 * 4096, 1, 4096) == 2
    assert rows[0].threads(2**20, 1, 4096) == 256


@pytest.mark.parametrize(
    ("row_bytes", "width", "vectors_per_thread", "threads"),
    [
        (0, 16, 4, 1),
        (7, 16, 4, 1),
        (16, 16, 1, 1),
        (31, 1, 4, 16),
        (32, 1, 4, 32),
        (256, 16, 4, 4),
        (256, 16, 1, 16),
        (496, 16, 1, 31),
        (512, 16, 1, 32),
        (528, 16, 1, 33),
        (512, 16, 4, 8),
        (576, 16, 4, 8),
        (576, 16, 2, 16),
        (576, 16, 1, 36),
        (2032, 16, 4, 16),
        (2048, 16, 4, 32),
        (2064, 16, 4, 64),
        (8192, 16, 4, 128),
        (8192, 16, 2, 256),
        (10240, 16, 4, 160),
        (14336, 16, 4, 224),
    ],
)
def test_threads_of_rows_that_models_have(
    rows: tuple[tvm_ffi.Module, str], row_bytes: int, width: int, vectors_per_thread: int, threads: int
) -> None:
    assert rows[0].threads(row_bytes, width, vectors_per_thread) == threads


@pytest.mark.parametrize(("row_bytes", "width", "threads"), SHARES)
def test_every_byte_is_carried_once(rows: tuple[tvm_ffi.Module, str], row_bytes: int, width: int, threads: int) -> None:
    module, device = rows
    row = torch.randint(1, 256, (row_bytes,), dtype=torch.uint8, device=device)
    output = torch.zeros(threads, -(-row_bytes // 16) * 16, dtype=torch.uint8, device=device)
    getattr(module, f"carry_{row_bytes}_{width}_{threads}")(output, row)
    assert not output[:, row_bytes:].any()
    carried = output[:, :row_bytes].cpu()
    assert torch.equal(carried.ne(0).sum(0), torch.ones(row_bytes, dtype=torch.int64))
    assert torch.equal(carried.amax(0), row.cpu())

    vectors = carried[:, : row_bytes // width * width].ne(0).view(threads, -1, width)
    assert torch.equal(vectors.any(2), vectors.all(2)), "a vector of two threads"
    owners = vectors.all(2).int().argmax(0).tolist()
    assert [owner // 32 for owner in owners] == sorted(owner // 32 for owner in owners), "a warp's part has a gap"
    rounds = -(-len(owners) // threads)
    assert max(map(owners.count, owners), default=0) <= rounds
    lanes = min(threads, 32)
    assert [owner % lanes for owner in owners] == [i % lanes for i in range(len(owners))], "lanes are no neighbours"


@pytest.mark.parametrize(
    ("num_rows", "threads_per_row", "num_threads", "blocks"),
    [
        (1, 1, 64, 1),
        (64, 1, 64, 1),
        (65, 1, 64, 2),
        (7, 16, 64, 2),
        (3, 160, 64, 8),
        (MAX_BLOCKS, 64, 64, MAX_BLOCKS),
        (2**33, 8, 32, 2**31),
        (2**31, 1024, 1024, 2**31),
    ],
)
def test_num_blocks(
    rows: tuple[tvm_ffi.Module, str], num_rows: int, threads_per_row: int, num_threads: int, blocks: int
) -> None:
    def count() -> int:
        return rows[0].blocks(num_rows, threads_per_row, num_threads)

    if blocks <= MAX_BLOCKS:
        assert count() == blocks
    else:
        with pytest.raises(ValueError, match=f"expected work for fewer than 2\\^31 blocks, got {blocks}"):
            count()


@pytest.mark.parametrize("width", WIDTHS)
def test_vectors_of_a_thread(rows: tuple[tvm_ffi.Module, str], width: int) -> None:
    """A GPU spreads few wide vectors over more threads; a config has the last word."""
    module, device = rows
    any_tensor = torch.zeros(1, device=device)
    few = module.places(any_tensor) // 4
    large = 100 * width + SHARE_OF_LARGE_LAUNCHES
    small = 100 * width + 1 if device == "cuda" and width == 16 else large
    assert [module.shape_0(width, n, any_tensor) for n in (1, few, few + 1, 2**40)] == [small, small, large, large]
    assert [module.shape_3(width, n, any_tensor) for n in (1, 2**40)] == [100 * width + 3] * 2


def test_which_launches_start_the_next_one_early(rows: tuple[tvm_ffi.Module, str]) -> None:
    """All but those that fill more than a quarter of the GPU, and less than nine tenths."""
    module, device = rows
    any_tensor = torch.zeros(1, device=device)
    places = module.places(any_tensor)
    assert places >= 1024
    most = places * 9 // 10
    sizes = {1: True, places // 4: True, places // 4 + 1: False, most - 1: False, most: True, 9 * places: True}
    assert {size: module.starts_next_early(size, any_tensor) for size in sizes} == sizes
