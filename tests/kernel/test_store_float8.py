"""A float8 cache: `store_cache` with scales against PyTorch's division, clamp and conversion."""

import itertools

import pytest
import torch
from stores import (  # type: ignore[import-not-found]  # pytest puts this folder on the path
    FLOAT8,
    HALVES,
    check,
    every_second,
    quantised,
    random_bytes,
    some_slots,
    two_tables,
)

from minisgl.kernel import store_cache

ALL_CODES = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)


@pytest.fixture(params=HALVES, ids=str)
def all_codes(request: pytest.FixtureRequest, device: str) -> torch.Tensor:
    """Every number of a 16-bit dtype, NaNs and infinities included, in rows of 2 KiB."""
    return ALL_CODES.view(request.param).view(64, 1024).to(device)


SCALES = [1.0, 3.0, 0.75, 0.37, 2.0**-64, 2.0**64, 448.0, 1 / 448, 1 / 3, 1e-6, 6.1e4, 1.0 + 2**-23, 2.0 - 2**-23]


def check_float8(codes: torch.Tensor, k_scale: float, v_scale: float) -> None:
    size, dim = codes.shape
    k_cache, v_cache = (torch.zeros(size, dim, device=codes.device).to(FLOAT8) for _ in "kv")
    slots = torch.arange(size, device=codes.device)
    store_cache(k_cache, v_cache, slots, codes, codes, k_scale=k_scale, v_scale=v_scale)
    for cache, scale in ((k_cache, k_scale), (v_cache, v_scale)):
        expected = quantised(codes.cpu(), scale)
        got, nan = cache.cpu(), expected.isnan()
        assert torch.equal(got.isnan(), nan)
        assert nan.sum() == codes.isnan().sum()
        assert torch.equal(got.view(torch.uint8)[~nan], expected.view(torch.uint8)[~nan]), f"scale {scale}"


def test_float8_of_every_number(all_codes: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    anywhere = (2.0 ** (torch.rand(99, generator=generator, dtype=torch.float64) * 128 - 64)).tolist()
    useful = (2.0 ** (torch.rand(100, generator=generator, dtype=torch.float64) * 16 - 8)).tolist()
    scales = SCALES + anywhere + useful
    assert len(scales) % 2 == 0
    for k_scale, v_scale in zip(scales[::2], scales[1::2], strict=True):
        check_float8(all_codes, k_scale, v_scale)


def test_float8_saturates_and_keeps_signs(device: str) -> None:
    x = torch.tensor([[0.0, -0.0, 447.0, 465.0, -7e4, torch.inf, -torch.inf, torch.nan, 2.0**-10, -(2.0**-11)]])
    k_cache, v_cache = (torch.zeros(1, 10, device=device).to(FLOAT8) for _ in "kv")
    rows = x.bfloat16().to(device)
    store_cache(k_cache, v_cache, torch.tensor([0], device=device), rows, rows, k_scale=1, v_scale=1.0)
    expected = [0.0, -0.0, 448.0, 448.0, -448.0, 448.0, -448.0, torch.nan, 0.0, -0.0]
    for cache in (k_cache, v_cache):
        torch.testing.assert_close(cache.float().cpu(), torch.tensor([expected]), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(cache.float().cpu()[:, :7]), torch.signbit(x[:, :7]))
        assert torch.signbit(cache.float()[0, 9])


@pytest.mark.parametrize("dim", [1, 7, 100])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_float8_rows_of_any_width(dtype: torch.dtype, dim: int, device: str) -> None:
    for offset, size in itertools.product((0, 1, 8), (0, 1, 50)):
        k, v = (torch.randn(size * dim + offset, device=device).to(dtype)[offset:].view(size, dim) for _ in "kv")
        slots = every_second(some_slots(size, 60)).to(device)
        memory = random_bytes(2 * 60 * dim + 16, device)
        check(memory, two_tables(60, dim, FLOAT8, offset), slots, k, v, scales=(0.02, 1.5))


@pytest.mark.parametrize(("k_dim", "v_dim"), [(64, 7), (100, 64)])
def test_float8_rows_that_are_no_whole_vectors(k_dim: int, v_dim: int, device: str) -> None:
    """All rows begin at multiples of 128 elements: only their widths forbid wide vectors."""
    size, num_slots = 20, 30
    k, v = (torch.randn(size, 128, device=device).half()[:, :dim] for dim in (k_dim, v_dim))

    def layout(memory: torch.Tensor) -> list[torch.Tensor]:
        k_cache, v_cache = memory.view(FLOAT8).view(num_slots, 2, 128).unbind(1)
        return [k_cache[:, :k_dim], v_cache[:, :v_dim]]

    slots = some_slots(size, num_slots).to(device)
    check(random_bytes(num_slots * 256, device), layout, slots, k, v, scales=(0.02, 1.5))
