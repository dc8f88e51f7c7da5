"""`warp::copy` and `warp::reset` for any byte count at any alignment: every byte of the row, and none beside it."""

from pathlib import Path

import pytest
import torch
import tvm_ffi

from minisgl.kernel.utils import load_jit

SOURCE = Path(__file__).with_name("warp.cu")
SIZES = [1, 2, 3, 15, 16, 17, 31, 96, 100, 511, 512, 513, 576, 1000, 4096, 4097, 4113, 8207]
# Bytes and threads: parts of a warp, several warps, rows that are too short for all and too long for one batch.
SHAPES = [(size, 32) for size in SIZES] + [(7, 1), (100, 2), (1008, 4), (4097, 8), (576, 16), (513, 64), (40001, 96)]
PAD = 64


@pytest.fixture(scope="module", params=["host", pytest.param("cuda", marks=pytest.mark.gpu)])
def warp(request: pytest.FixtureRequest) -> tuple[tvm_ffi.Module, str]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here; the same source is tested on the CPU")
    wrappers = [(f"move_{size}_{n}", f"minisgl::test::move_row<{size}, {n}>") for size, n in SHAPES]
    module = load_jit("warp", cuda_files=[SOURCE], cuda_wrappers=wrappers, target=request.param)
    return module, "cpu" if request.param == "host" else "cuda"


def row(size: int, offset: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random memory and the `size` bytes in it that start `offset` bytes behind a multiple of 64."""
    memory = torch.randint(1, 256, (size + 3 * PAD,), dtype=torch.uint8, device=device)
    start = PAD + (-memory.data_ptr() % 64) + offset
    return memory, memory[start : start + size]


@pytest.mark.parametrize(("size", "threads"), SHAPES)
def test_copy_and_reset(warp: tuple[tvm_ffi.Module, str], size: int, threads: int) -> None:
    module, device = warp
    move = getattr(module, f"move_{size}_{threads}")
    for to, start in [(0, 0), (8, 0), (4, 8), (2, 0), (1, 0), (3, 5), (16, 48), (0, 1)]:
        _, src = row(size, start, device)
        memory, dst = row(size, to, device)
        for source, expected_row in ((src, src), (None, torch.zeros_like(dst))):
            expected = memory.clone()
            expected[dst.storage_offset() : dst.storage_offset() + size] = expected_row
            width = move(dst, source)
            lowest = min(16, *(bit & -bit for bit in (to, start if source is not None else 0) if bit), 16)
            assert width == lowest
            assert torch.equal(memory, expected)
