"""Lookup and store in Triton, as good as we can make them. A program moves a tile of some rows by some columns."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from gpu_timing import Launch

VERSION = triton.__version__


@triton.jit(do_not_specialize=["num_rows"])
def index_tile(
    output,
    weights,
    indices,
    num_rows,
    output_stride,
    weights_stride,
    DIM: tl.constexpr,  # noqa: N803
    TILE_ROWS: tl.constexpr,  # noqa: N803
    TILE_COLUMNS: tl.constexpr,  # noqa: N803
    USE_PDL: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(1) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    if USE_PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    index = tl.load(indices + row, mask=row < num_rows, other=0)
    mask = (row < num_rows)[:, None] & (column < DIM)[None, :]
    source = weights + index.to(tl.int64)[:, None] * weights_stride + column[None, :]
    values = tl.load(source, mask=mask)
    tl.store(output + row.to(tl.int64)[:, None] * output_stride + column[None, :], values, mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def store_tile(
    k_cache,
    v_cache,
    slots,
    k,
    v,
    num_rows,
    cache_stride,
    input_stride,
    DIM: tl.constexpr,  # noqa: N803
    TILE_ROWS: tl.constexpr,  # noqa: N803
    TILE_COLUMNS: tl.constexpr,  # noqa: N803
    USE_PDL: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(1) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
    if USE_PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    slot = tl.load(slots + row, mask=row < num_rows, other=-1)
    mask = (slot >= 0)[:, None] & (column < DIM)[None, :]
    source = row.to(tl.int64)[:, None] * input_stride + column[None, :]
    target = slot.to(tl.int64)[:, None] * cache_stride + column[None, :]
    in_bounds = (row < num_rows)[:, None] & (column < DIM)[None, :]  # the loads need not wait for the slots
    k_values = tl.load(k + source, mask=in_bounds)
    v_values = tl.load(v + source, mask=in_bounds)
    tl.store(k_cache + target, k_values, mask=mask)
    tl.store(v_cache + target, v_values, mask=mask)


@dataclass(frozen=True)
class Tile:
    """How a program is shaped: its bytes (of one tensor), its warps, and programmatic dependent launch."""

    tile_bytes: int
    num_warps: int
    use_pdl: bool

    def __str__(self) -> str:
        return f"{self.tile_bytes} bytes, {self.num_warps} warps{', PDL' if self.use_pdl else ''}"

    def shape(self, dim: int, element_bytes: int) -> tuple[int, int]:
        """Return rows and columns: whole rows if they fit."""
        elements = self.tile_bytes // element_bytes
        columns = min(elements, triton.next_power_of_2(dim))
        return elements // columns, columns


# Bytes and warps. One vector of 16 bytes for each thread, for few rows; several, for many.
INDEX_SHAPES = [(512, 1), (2048, 4), (4096, 2), (8192, 4)]
STORE_SHAPES = [(512, 1), (2048, 4), (2048, 2), (4096, 4)]


def tiles(shapes: list[tuple[int, int]]) -> list[Tile]:
    """Return what is worth a try on this GPU; programmatic dependent launch exists from sm_90 on."""
    has_pdl = torch.cuda.get_device_capability() >= (9, 0)
    return [Tile(*shape, use_pdl) for shape in shapes for use_pdl in ([True, False] if has_pdl else [False])]


def _launch_shape(tile: Tile, moved: torch.Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    rows, dim = moved.shape
    tile_rows, tile_columns = tile.shape(dim, moved.itemsize)
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(dim, tile_columns))
    options = {
        "DIM": dim,
        "TILE_ROWS": tile_rows,
        "TILE_COLUMNS": tile_columns,
        "USE_PDL": tile.use_pdl,
        "num_warps": tile.num_warps,
        "launch_pdl": tile.use_pdl,
    }
    return grid, options


def index_ways() -> dict[str, Callable[..., Launch]]:
    """Return what binds a launch to `(weights, indices, output)`, by the name of its tile."""
    return {str(tile): functools.partial(_bind_index, tile) for tile in tiles(INDEX_SHAPES)}


def store_ways() -> dict[str, Callable[..., Launch]]:
    """Return what binds a launch to `(k_cache, v_cache, slots, k, v)`, by the name of its tile."""
    return {str(tile): functools.partial(_bind_store, tile) for tile in tiles(STORE_SHAPES)}


def _bind_index(tile: Tile, weights: torch.Tensor, indices: torch.Tensor, output: torch.Tensor) -> Launch:
    grid, options = _launch_shape(tile, output)
    args = (output, weights, indices, len(indices), output.stride(0), weights.stride(0))
    return functools.partial(index_tile[grid], *args, **options)


def _bind_store(
    tile: Tile, k_cache: torch.Tensor, v_cache: torch.Tensor, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Launch:
    grid, options = _launch_shape(tile, k)
    args = (k_cache, v_cache, slots, k, v, len(slots), k_cache.stride(0), k.stride(0))
    return functools.partial(store_tile[grid], *args, **options)
