# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:16613ca47739

"""What an engine may ask of a prefix cache, whichever it uses."""

from typing import NamedTuple, Protocol

import torch


class CacheHandle(Protocol):
    """A cached prefix, as a match or an insertion returned it."""

    @property
    def cached_len(self) -> int:
        """How many tokens the prefix has."""

    def get_matched_indices(self) -> torch.Tensor:
        """Return where their KV is: `[cached_len]`, as inserted, on the device of the cache."""


class MatchResult(NamedTuple):
    """What `match_prefix` found: `handle.cached_len` tokens."""

    handle: CacheHandle


class InsertResult(NamedTuple):
    """What `insert_prefix` did.

    Attributes:
        cached_len: tokens that were in the cache before; their `indices` were not taken and are the caller's to free.
        handle: the whole inserted prefix.
    """

    cached_len: int
    handle: CacheHandle


class SizeInfo(NamedTuple):
    """Tokens in the cache: those that `evict` can free, and those under a lock."""

    evictable_size: int
    protected_size: int

    @property
    def total_size(self) -> int:
        """All of them."""
        return self.evictable_size + self.protected_size


class CacheStats(NamedTuple):
    """What a cache has done since it was made; `reset` does not clear it.

    Attributes:
        lookups: calls of `match_prefix` and `match_and_lock`.
        hits: those that found anything.
        tokens_looked_up: tokens in whole pages that were asked for.
        tokens_saved: those that were found, so that no KV had to be computed for them.
        tokens_inserted: new tokens.
        nodes_evicted: leaves of the tree that were evicted.
        tokens_evicted: their tokens.
    """

    lookups: int
    hits: int
    tokens_looked_up: int
    tokens_saved: int
    tokens_inserted: int
    nodes_evicted: int
    tokens_evicted: int


class PrefixCache(Protocol):
    """Keeps the KV cache of finished requests for new ones that begin with the same tokens.

    Token ids are `[L]` int32 or int64 on the CPU, indices `[L]` int32 or int64. `RadixPrefixCache` describes each call.
    """

    def match_prefix(self, input_ids: torch.Tensor) -> MatchResult:
        """Return the longest cached prefix of `input_ids` `[L]`. Lock it before its KV is used."""

    def insert_prefix(self, input_ids: torch.Tensor, indices: torch.Tensor) -> InsertResult:
        """Add tokens `[L]` and where their KV is `[L]`."""

    def lock_handle(self, handle: CacheHandle, unlock: bool = False) -> None:
        """Keep a prefix from being evicted, or with `unlock` allow it again."""

    def evict(self, size: int) -> torch.Tensor:
        """Forget at least `size` tokens and return their indices."""

    def reset(self) -> None:
        """Forget everything."""

    @property
    def size_info(self) -> SizeInfo:
        """How many tokens are in the cache."""

    def check_integrity(self) -> None:
        """Raise RuntimeError if the cache is corrupt."""


def require_page_size(function: str, page_size: int) -> int:
    """Return `page_size`, or raise TypeError or ValueError if no cache can have it."""
    if type(page_size) is not int:
        raise TypeError(f"{function}: page_size: expected an int, got {page_size!r}")
    if not 1 <= page_size < 2**31:
        raise ValueError(f"{function}: page_size: expected 1 to {2**31 - 1}, got {page_size}")
    return page_size
