"""Tensors of random bits, and the bytes of tensors: what `indexing` and `store_cache` are compared by."""

import re

import torch

# Quantised tensors carry a scale beside their bytes; DLPack has no bits types; integers of 1 to 7 bits are bytes.
_NOT_PLAIN = re.compile(r"torch\.(q|bits|u?int[1-7]$)")
DTYPES = sorted(
    {
        dtype
        for dtype in vars(torch).values()
        if isinstance(dtype, torch.dtype) and dtype.itemsize in (1, 2, 4, 8) and not _NOT_PLAIN.match(str(dtype))
    },
    key=str,
)


def random_table(rows: int, dim: int, dtype: torch.dtype, device: str = "cpu", offset: int = 1) -> torch.Tensor:
    """Return random bit patterns as `[rows, dim]`, starting `offset` elements into their allocation."""
    raw = torch.randint(0, 256, ((rows * dim + offset) * dtype.itemsize,), dtype=torch.uint8, device=device)
    if dtype == torch.bool:
        raw %= 2
    return raw.view(dtype)[offset:].view(rows, dim)


def poisoned(rows: int, dim: int, dtype: torch.dtype, device: str, offset: int) -> torch.Tensor:
    """Return `[rows, dim]` whose every byte is 1, which no lookup of a random table gives by chance."""
    raw = torch.ones(((rows * dim + offset) * dtype.itemsize,), dtype=torch.uint8, device=device)
    return raw.view(dtype)[offset:].view(rows, dim)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of each row; NaNs and signed zeros compare as what they are."""
    row_bytes = tensor.shape[1] * tensor.itemsize
    flat = tensor.contiguous().view(-1)
    return (flat.view(torch.uint8) if flat.numel() else flat.to(torch.uint8)).view(tensor.shape[0], row_bytes)
