# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:cb38ef52d446

"""Prefix caches: which part of a new request is in the KV cache already."""

from minisgl.kvcache.naive_cache import NaivePrefixCache
from minisgl.kvcache.protocol import CacheHandle, CacheStats, InsertResult, MatchResult, PrefixCache, SizeInfo
from minisgl.kvcache.radix_cache import MemoryInfo, NodeInfo, RadixCacheHandle, RadixPrefixCache

__all__ = [
    "CacheHandle",
    "CacheStats",
    "InsertResult",
    "MatchResult",
    "MemoryInfo",
    "NaivePrefixCache",
    "NodeInfo",
    "PrefixCache",
    "RadixCacheHandle",
    "RadixPrefixCache",
    "SizeInfo",
]
