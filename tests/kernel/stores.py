"""The store of PyTorch that `store_cache` is compared with, and what it is given."""

from collections.abc import Callable, Sequence

import torch

from minisgl.kernel import store_cache

FLOAT8 = torch.float8_e4m3fn
HALVES = [torch.float16, torch.bfloat16]
Layout = Callable[[torch.Tensor], Sequence[torch.Tensor]]  # memory in, k_cache and v_cache out: views of it


def random_bytes(count: int, device: str = "cpu") -> torch.Tensor:
    return torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)


def some_slots(size: int, num_slots: int, *, skipped: float = 0.25) -> torch.Tensor:
    """Return `size` different slots in any order, the first and the last among them, and -1 in between."""
    inner = 1 + torch.randperm(num_slots - 2)
    slots = torch.cat([torch.tensor([0, num_slots - 1]), inner])[:size]
    slots[2:][torch.rand(max(size - 2, 0)) < skipped] = -1
    return slots[torch.randperm(size)]


def every_second(slots: torch.Tensor) -> torch.Tensor:
    """Return `slots` with a stride of 2, between numbers that are no slots."""
    return torch.stack([slots, torch.full_like(slots, 2**31 - 1)], dim=1).view(-1)[::2]


def quantised(rows: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the rows in float8. PyTorch's CPU divides, its GPU would multiply by the reciprocal."""
    return (rows.cpu().float() / torch.tensor(scale)).clamp(-448, 448).to(FLOAT8).to(rows.device)


def two_tables(num_slots: int, dim: int, dtype: torch.dtype, offset: int = 0) -> Layout:
    """Return a layout: K, then V, some elements into the memory."""
    count = num_slots * dim
    return lambda memory: memory.view(dtype)[offset : offset + 2 * count].view(2, num_slots, dim).unbind(0)


def put(cache: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor, page_size: int) -> None:
    """PyTorch's answer, computed on bytes: every dtype can be stored so."""
    stored = slots != -1
    where = slots[stored].to(torch.int64)
    places = (where,) if page_size == 1 else (where // page_size, where % page_size)
    cache_bytes = cache.flatten(len(places)).view(torch.uint8)  # rows are contiguous: this is a view
    cache_bytes.index_put_(places, rows.flatten(1).view(torch.uint8)[stored])


def check(
    memory: torch.Tensor,
    layout: Layout,
    slots: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    page_size: int = 1,
    scales: tuple[float, float] | None = None,
) -> None:
    """Store, and compare all of the memory: the rows, the untouched slots and every byte between them."""
    rows = (k, v) if scales is None else (quantised(k, scales[0]), quantised(v, scales[1]))
    expected = memory.clone()
    for cache, new in zip(layout(expected), rows, strict=True):
        put(cache, slots, new, page_size)
    k_cache, v_cache = layout(memory)
    k_scale, v_scale = scales or (None, None)
    store_cache(k_cache, v_cache, slots, k, v, k_scale=k_scale, v_scale=v_scale, page_size=page_size)
    assert torch.equal(memory, expected)
