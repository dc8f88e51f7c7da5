# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:de88c1258ba6

"""A prefix cache that keeps nothing: what an engine without reuse does, under the same protocol."""

import torch

from minisgl.kvcache.protocol import CacheHandle, InsertResult, MatchResult, SizeInfo, require_page_size


class NaiveCacheHandle:
    """A prefix of no tokens."""

    cached_len = 0

    def __init__(self, indices: torch.Tensor) -> None:
        self._indices = indices

    def get_matched_indices(self) -> torch.Tensor:
        """Return `[0]` int32, on the device of the cache."""
        return self._indices


class NaivePrefixCache:
    """Keeps nothing: every match is empty, and every inserted index is the caller's to free.

    The arguments are those of `RadixPrefixCache`.
    """

    def __init__(self, device: torch.device | str, page_size: int = 1) -> None:
        self.page_size = require_page_size("NaivePrefixCache", page_size)
        self.device = torch.device(device)
        self._no_indices = torch.empty(0, dtype=torch.int32, device=self.device)
        self._handle = NaiveCacheHandle(self._no_indices)

    def match_prefix(self, input_ids: torch.Tensor) -> MatchResult:
        """Find nothing."""
        return MatchResult(self._handle)

    def insert_prefix(self, input_ids: torch.Tensor, indices: torch.Tensor) -> InsertResult:
        """Keep nothing. `cached_len` counts the whole pages of `input_ids`, so the caller frees all their indices.

        Raises ValueError unless both have the same length.
        """
        if len(indices) != len(input_ids):
            raise ValueError(f"insert_prefix: indices: expected [L={len(input_ids)}], got [{len(indices)}]")
        return InsertResult(len(input_ids) // self.page_size * self.page_size, self._handle)

    def lock_handle(self, handle: CacheHandle, unlock: bool = False) -> None:
        """Do nothing: there is nothing to protect."""

    def evict(self, size: int) -> torch.Tensor:
        """Return no indices. Raises RuntimeError if `size` is more than 0, ValueError if it is negative."""
        if size < 0:
            raise ValueError(f"evict: size: expected at least 0, got {size}")
        if size > 0:
            raise RuntimeError(f"evict: size: expected at most the evictable 0 tokens, got {size}")
        return self._no_indices

    def reset(self) -> None:
        """Do nothing."""

    @property
    def size_info(self) -> SizeInfo:
        """Nothing."""
        return SizeInfo(0, 0)

    def check_integrity(self) -> None:
        """Nothing can be wrong."""
