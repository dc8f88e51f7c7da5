# Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:8d3a43a22867

"""The prefix cache: a radix tree over token ids, in C++."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import tvm_ffi

from minisgl.kernel.radix import explained, radix_library
from minisgl.kvcache.picture import draw_tree
from minisgl.kvcache.protocol import (
    CacheHandle,
    CacheStats,
    InsertResult,
    MatchResult,
    SizeInfo,
    require_page_size,
)
from minisgl.svg import Picture

_TENSOR = torch.empty(0, device="cpu")  # passed along, so that a result comes as a PyTorch tensor


class MemoryInfo(NamedTuple):
    """What a cache holds on the host.

    Attributes:
        num_tokens: tokens in the cache.
        num_nodes: nodes of the tree.
        token_bytes: bytes of their ids (4 each, 8 in an insertion with ids that need it) and indices (4 or 8).
        node_bytes: bytes of everything else, free places for nodes included; it shrinks at `reset` only.
    """

    num_tokens: int
    num_nodes: int
    token_bytes: int
    node_bytes: int


class NodeInfo(NamedTuple):
    """One node of the tree, as `RadixPrefixCache.nodes` lists it.

    Attributes:
        node_id: a number that no other node of the tree has at present.
        parent_id: that of the parent; -1 for the root.
        tokens: the ids that follow those of the parent.
        lock_count: locks on this node, also through handles further down.
        lru_rank: 0 for the node that `evict` frees first; -1 if it is locked, or the root.
    """

    node_id: int
    parent_id: int
    tokens: list[int]
    lock_count: int
    lru_rank: int


class RadixCacheHandle(tvm_ffi.Object):
    """A prefix in a `RadixPrefixCache`: valid while other calls split its nodes, stale once it is evicted.

    Attributes:
        cached_len: tokens of the prefix.
        num_present: how many of them were cached before the call that made this handle.
        device: where its indices go, as a string.
    """

    cached_len: int
    num_present: int
    device: str

    def get_matched_indices(self) -> torch.Tensor:
        """Return where the KV of the prefix is: `[cached_len]`, of the dtype inserted, on the device of the cache.

        They are safe to use while the handle is locked. Raises RuntimeError if it is stale.
        """
        indices = radix_library().get_matched_indices(self, _TENSOR)
        return indices if self.device == "cpu" else indices.to(self.device)


def _on_host(indices: torch.Tensor) -> torch.Tensor:
    return indices.cpu() if isinstance(indices, torch.Tensor) else indices  # the library refuses all else


@functools.cache
def _register_handle() -> None:
    """Tell TVM-FFI the Python class of the library's handles; the library must be loaded."""
    tvm_ffi.register_object("minisgl.RadixHandle")(RadixCacheHandle)


class RadixPrefixCache:
    """The longest cached prefix of a request, found in a radix tree over token ids.

    Args:
        device: where results go, such as `"cuda"`. The tree itself is in the memory of the host.
        page_size: tokens per page of the KV cache; prefixes are matched, inserted and evicted in whole pages.

    Token ids are `[L]` int32 or int64, contiguous, on the CPU; both kinds may be mixed. Several threads may use one
    cache: every call is one step. Raises TypeError or ValueError for a `page_size` that is no int above 0, and
    ToolchainError if no library for this came with the package and there is no compiler.

    Source: the radix attention of SGLang (arXiv:2312.07104), and Mini-SGLang's interface to it.
    """

    def __init__(self, device: torch.device | str, page_size: int = 1) -> None:
        self.page_size = require_page_size("RadixPrefixCache", page_size)
        self.device = torch.device(device)
        self._on_cpu = self.device.type == "cpu"
        self._library = library = radix_library()
        _register_handle()
        self._tree = library.new_tree(page_size, str(self.device))
        self._match_prefix = library.match_prefix
        self._match_and_lock = library.match_and_lock
        self._insert_prefix = library.insert_prefix
        self._insert_and_unlock = library.insert_and_unlock
        self._lock_handle = library.lock_handle
        self._evict = library.evict

    def match_prefix(self, input_ids: torch.Tensor) -> MatchResult:
        """Find the longest prefix of `input_ids` `[L]` that is cached, in whole pages.

        It counts as used just now. Lock its handle before the next `evict`. Raises TypeError or ValueError for anything
        but a list of token ids as the class describes it.
        """
        try:
            return MatchResult(self._match_prefix(self._tree, input_ids))
        except (TypeError, RuntimeError) as error:
            raise explained(error, "match_prefix", input_ids=input_ids) from None

    def match_and_lock(self, input_ids: torch.Tensor) -> MatchResult:
        """Do `match_prefix`, then `lock_handle`, in one step."""
        try:
            return MatchResult(self._match_and_lock(self._tree, input_ids))
        except (TypeError, RuntimeError) as error:
            raise explained(error, "match_and_lock", input_ids=input_ids) from None

    def insert_prefix(self, input_ids: torch.Tensor, indices: torch.Tensor) -> InsertResult:
        """Add `input_ids` and where their KV is, both cut to whole pages.

        Args:
            input_ids: `[L]` token ids from the first on.
            indices: `[L]` int32 or int64, contiguous, on the CPU or the device of the cache; the same dtype in all
                insertions up to a `reset`.

        Returns:
            How many of the tokens were cached before, and a handle of the whole prefix, which is not locked.

        Raises:
            TypeError: a wrong dtype, or indices of another one than before.
            ValueError: a wrong shape, stride or device.
        """
        try:
            handle = self._insert_prefix(self._tree, input_ids, indices if self._on_cpu else _on_host(indices))
        except (TypeError, RuntimeError) as error:
            raise explained(error, "insert_prefix", input_ids=input_ids, indices=indices) from None
        return InsertResult(handle.num_present, handle)

    def insert_and_unlock(self, input_ids: torch.Tensor, indices: torch.Tensor, handle: CacheHandle) -> InsertResult:
        """Do `insert_prefix`, then `lock_handle(handle, unlock=True)`, in one step: what the end of a request needs.

        `handle` is that of a locked prefix of `input_ids`, usually from the request's own `match_and_lock`; the tokens
        of this prefix are not read again, except for the last few (up to 16, those of its last node). The errors are
        those of `insert_prefix` and `lock_handle`, and ValueError if these tokens differ. After an error the handle is
        locked as before.
        """
        try:
            on_host = indices if self._on_cpu else _on_host(indices)
            inserted = self._insert_and_unlock(self._tree, input_ids, on_host, handle)
        except (TypeError, RuntimeError) as error:
            raise explained(error, "insert_and_unlock", input_ids=input_ids, indices=indices) from None
        return InsertResult(inserted.num_present, inserted)

    def lock_handle(self, handle: CacheHandle, unlock: bool = False) -> None:
        """Lock a prefix, so that it is not evicted; or take one lock of this handle away.

        A lock stays when the handle is dropped: then only `reset` frees these tokens. Raises RuntimeError if the handle
        is stale, or is to be unlocked more often than it was locked; ValueError if it belongs to another cache.
        """
        self._lock_handle(self._tree, handle, unlock)

    def evict(self, size: int) -> torch.Tensor:
        """Free the least recently used leaves until at least `size` tokens are free.

        A prefix is used when a match or an insertion walks through it, and when its last lock is taken away.

        Returns:
            The indices of the freed tokens, `[n]` with `n >= size`, of the dtype inserted (int32 before the first
            insertion), on the device of the cache.

        Raises:
            RuntimeError: `size` is more than `size_info.evictable_size`. Nothing was freed.
            ValueError: `size` is negative.
        """
        indices = self._evict(self._tree, size, _TENSOR)
        return indices if self._on_cpu else indices.to(self.device)

    def reset(self) -> None:
        """Forget everything but the counters, what is locked too. Every handle is stale afterwards."""
        self._library.reset(self._tree)

    @property
    def size_info(self) -> SizeInfo:
        """How many tokens can be evicted, and how many are locked."""
        return SizeInfo(*self._sizes()[:2])

    @property
    def memory(self) -> MemoryInfo:
        """How much memory of the host the tree takes."""
        evictable, protected, num_nodes, token_bytes, node_bytes = self._sizes()[:5]
        return MemoryInfo(evictable + protected, num_nodes, token_bytes, node_bytes)

    @property
    def stats(self) -> CacheStats:
        """What the cache has done since it was made, for an engine to export."""
        return CacheStats(*self._sizes()[5:])

    def check_integrity(self) -> None:
        """Check the whole tree. Raises RuntimeError if anything in it disagrees."""
        self._library.check_integrity(self._tree)

    def nodes(self) -> list[NodeInfo]:
        """List all nodes: the root, which has no tokens, then parents ahead of their children."""
        numbers = self._library.describe_nodes(self._tree, _TENSOR).tolist()
        children: dict[int, list[NodeInfo]] = {}
        position = 0
        while position < len(numbers):
            slot, parent, locks, lru_rank, length = numbers[position : position + 5]
            position += 5 + length
            node = NodeInfo(slot, parent, numbers[position - length : position], locks, lru_rank)
            children.setdefault(parent, []).append(node)
        found = [NodeInfo(0, -1, [], 0, -1)]
        for node in found:
            found += sorted(children.get(node.node_id, []), key=lambda child: child.tokens)
        return found

    def picture(self, decode: Callable[[list[int]], str] | None = None, max_nodes: int = 40) -> Picture:
        """Draw the tree, for a notebook: a box for each node with its tokens, its locks, and when it would be evicted.

        It lists all `nodes()` first, with all tokens: seconds for a cache of millions of tokens.

        Args:
            decode: turns ids into text, such as the `decode` of a tokenizer; without it, ids are shown.
            max_nodes: boxes, at most. Of the other nodes, each parent says how many there are; those locked and those
                with most tokens below them are shown first.
        """
        return draw_tree(self.nodes(), decode, max_nodes)

    def _sizes(self) -> list[int]:
        return self._library.sizes(self._tree, _TENSOR).tolist()
