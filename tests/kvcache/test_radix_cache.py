"""The radix cache by example: what it finds, keeps, frees and refuses."""

import copy
import ctypes
import gc
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from minisgl.compile import sources
from minisgl.kernel.radix import radix_library
from minisgl.kvcache import (
    CacheHandle,
    CacheStats,
    InsertResult,
    MatchResult,
    NaivePrefixCache,
    PrefixCache,
    RadixCacheHandle,
    RadixPrefixCache,
    SizeInfo,
)

DTYPES = [torch.int32, torch.int64]


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int32)


def put(cache: RadixPrefixCache, tokens: torch.Tensor, first: int = 0) -> InsertResult:
    """Insert tokens with the indices `first`, `first` + 1, ..."""
    return cache.insert_prefix(tokens, torch.arange(first, first + len(tokens), dtype=torch.int32))


def found(cache: RadixPrefixCache, tokens: torch.Tensor) -> list[int]:
    return cache.match_prefix(tokens).handle.get_matched_indices().tolist()


def state(cache: RadixPrefixCache) -> object:
    """Everything that can be seen of a cache."""
    return cache.nodes(), cache.size_info, cache.memory, cache.stats


# What is found


def test_requests_share_what_they_begin_with() -> None:
    cache = RadixPrefixCache("cpu")
    first = put(cache, ids(1, 2, 3, 4), first=10)
    assert (first.cached_len, first.handle.cached_len) == (0, 4)
    second = put(cache, ids(1, 2, 5), first=20)
    assert (second.cached_len, second.handle.cached_len) == (2, 3)  # indices 20 and 21 are the caller's to free
    assert second.handle.get_matched_indices().tolist() == [10, 11, 22]
    assert first.handle.get_matched_indices().tolist() == [10, 11, 12, 13]  # though its node was split
    assert found(cache, ids(1, 2, 3, 9)) == [10, 11, 12]
    assert found(cache, ids(2)) == []
    assert [node.tokens for node in cache.nodes()] == [[], [1, 2], [3], [5], [4]]
    assert cache.memory.num_nodes == 4
    assert cache.size_info == SizeInfo(evictable_size=5, protected_size=0)


def test_what_is_there_stays_as_it_was_inserted_first() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2, 3), first=10)
    assert put(cache, ids(1, 2, 3), first=50).cached_len == 3
    assert put(cache, ids(1, 2), first=50).cached_len == 2
    assert found(cache, ids(1, 2, 3)) == [10, 11, 12]
    assert cache.stats.tokens_inserted == 3


def test_only_whole_pages_count() -> None:
    cache = RadixPrefixCache("cpu", page_size=4)
    result = put(cache, torch.arange(11, dtype=torch.int32))
    assert (result.cached_len, result.handle.cached_len) == (0, 8)
    assert cache.size_info.total_size == 8
    assert found(cache, torch.arange(7, dtype=torch.int32)) == [0, 1, 2, 3]
    assert found(cache, ids(0, 1, 2, 3, 4, 5, 6, 9)) == [0, 1, 2, 3]
    assert put(cache, ids(0, 1, 2, 9)).cached_len == 0  # another first page below the same parent
    assert cache.stats.tokens_looked_up == 4 + 8


@pytest.mark.parametrize("tokens", [ids(), ids(1), ids(1, 2, 3)])
def test_less_than_a_page_is_the_empty_prefix(tokens: torch.Tensor) -> None:
    cache = RadixPrefixCache("cpu", page_size=4)
    put(cache, ids(1, 2, 3, 4))
    handle = cache.match_prefix(tokens).handle
    assert handle.cached_len == 0
    assert handle.get_matched_indices().shape == (0,)
    inserted = put(cache, tokens)
    assert (inserted.cached_len, inserted.handle.cached_len) == (0, 0)
    cache.lock_handle(handle)
    assert cache.size_info == (4, 0)
    cache.lock_handle(handle, unlock=True)
    assert cache.stats.hits == 0
    cache.check_integrity()


def test_ids_of_32_and_64_bits_are_the_same_ids() -> None:
    tokens = torch.tensor([5, -1, -(2**31), 2**31 - 1])
    cache = RadixPrefixCache("cpu")
    put(cache, tokens)
    assert found(cache, tokens.int()) == [0, 1, 2, 3]
    assert cache.memory.token_bytes == 4 * (4 + 4)  # though they came in 64 bits
    wide = torch.tensor([5, -1, 2**31, 2**32 - 1])
    assert put(cache, wide).cached_len == 2
    assert cache.memory.token_bytes == 4 * (4 + 4) + 2 * (8 + 4)
    assert found(cache, torch.tensor([5, 2**32 - 1])) == [0]  # the lower half of -1 is not -1


@pytest.mark.parametrize("kept", DTYPES, ids=str)
@pytest.mark.parametrize("asked", DTYPES, ids=str)
def test_every_length_at_which_lists_of_any_widths_part(kept: torch.dtype, asked: torch.dtype) -> None:
    length = 301
    tokens = torch.randint(-(2**31), 2**31, (length,), generator=torch.Generator().manual_seed(0))
    if kept == torch.int64:
        tokens[-1] = 2**40  # so that the run is kept in 64 bits
    last = length - (kept == torch.int64)  # which 32 bits cannot ask for
    for position in range(last):
        cache = RadixPrefixCache("cpu")
        put(cache, tokens.to(kept))
        other = tokens[:last].clone()
        other[position] ^= 1 << position % 31
        assert found(cache, other.to(asked)) == list(range(position))


@pytest.mark.parametrize("offset", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ids_and_indices_at_odd_addresses(offset: int, dtype: torch.dtype) -> None:
    def misaligned(values: torch.Tensor) -> torch.Tensor:
        memory = bytearray(values.nbytes + 8)
        memory[offset : offset + values.nbytes] = values.numpy().tobytes()
        return torch.frombuffer(memory, dtype=values.dtype, count=len(values), offset=offset)

    cache = RadixPrefixCache("cpu", page_size=3)
    tokens = torch.arange(200).to(dtype)
    cache.insert_prefix(misaligned(tokens), misaligned(tokens * 2))
    assert found(cache, misaligned(tokens)) == (tokens * 2)[:198].tolist()


def test_ids_that_change_later_are_copied() -> None:
    cache = RadixPrefixCache("cpu")
    tokens, indices = ids(1, 2, 3), ids(7, 8, 9)
    cache.insert_prefix(tokens, indices)
    tokens.zero_()
    indices.zero_()
    assert found(cache, ids(1, 2, 3)) == [7, 8, 9]


# What is kept


def test_least_recently_used_leaves_go_first_and_whole() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2, 3, 4), first=10)
    put(cache, ids(1, 2, 5, 6), first=20)
    put(cache, ids(9, 9), first=30)
    cache.match_prefix(ids(1, 2, 3, 4))
    assert cache.evict(1).tolist() == [22, 23]  # two tokens: leaves go whole
    assert cache.evict(3).tolist() == [30, 31, 12, 13]
    assert cache.evict(0).tolist() == []
    assert cache.evict(2).tolist() == [10, 11]  # the inner node has become a leaf
    assert cache.memory.num_nodes == 0
    assert cache.stats[-2:] == (4, 8)


def test_a_walk_that_ends_inside_a_node_uses_both_halves() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2, 3, 4), first=10)
    put(cache, ids(9, 9), first=30)
    cache.match_prefix(ids(1, 2))
    assert cache.evict(1).tolist() == [30, 31]
    put(cache, ids(1, 7), first=40)  # the rear half is older than the new leaf
    assert cache.evict(4).tolist() == [12, 13, 11, 41]


def test_a_locked_prefix_is_not_evicted() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2, 3, 4), first=10)
    handle = cache.match_and_lock(ids(1, 2)).handle
    assert cache.size_info == (2, 2)
    with pytest.raises(RuntimeError, match=r"^evict: size: expected at most the evictable 2 tokens, got 3$"):
        cache.evict(3)
    assert cache.evict(2).tolist() == [12, 13]
    cache.lock_handle(handle)
    cache.lock_handle(handle, unlock=True)
    assert cache.size_info == (0, 2)  # locks count
    cache.lock_handle(handle, unlock=True)
    assert cache.evict(2).tolist() == [10, 11]


def test_the_last_unlock_is_a_use() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2), first=10)
    handle = cache.match_and_lock(ids(1, 2)).handle
    put(cache, ids(9), first=30)
    cache.lock_handle(handle, unlock=True)
    assert cache.evict(1).tolist() == [30]


def test_a_prefix_grows_while_it_is_locked() -> None:
    cache = RadixPrefixCache("cpu")
    handle = put(cache, ids(1, 2, 3)).handle
    cache.lock_handle(handle)
    longer = put(cache, ids(1, 2, 3, 4, 5), first=10).handle
    assert cache.size_info == (2, 3)
    shorter = put(cache, ids(1, 8), first=20).handle  # splits the locked node
    assert cache.size_info == (3, 3)
    cache.check_integrity()
    assert sorted(cache.evict(3).tolist()) == [13, 14, 21]
    for evicted in longer, shorter:
        with pytest.raises(RuntimeError, match="stale"):
            evicted.get_matched_indices()
    assert handle.get_matched_indices().tolist() == [0, 1, 2]
    cache.lock_handle(handle, unlock=True)
    assert cache.size_info == (3, 0)


def test_insert_and_unlock_is_both_in_one() -> None:
    caches = RadixPrefixCache("cpu", 2), RadixPrefixCache("cpu", 2)
    for cache in caches:
        put(cache, ids(1, 2, 3, 4), first=10)
    tokens, indices = ids(1, 2, 5, 6, 7), torch.arange(20, 25, dtype=torch.int32)
    handles = [cache.match_and_lock(tokens).handle for cache in caches]
    assert handles[0].cached_len == 2
    one = caches[0].insert_and_unlock(tokens, indices, handles[0])
    two = caches[1].insert_prefix(tokens, indices)
    caches[1].lock_handle(handles[1], unlock=True)
    assert one.cached_len == two.cached_len == 2
    assert one.handle.get_matched_indices().tolist() == two.handle.get_matched_indices().tolist() == [10, 11, 22, 23]
    assert state(caches[0]) == state(caches[1])


def test_insert_and_unlock_starts_behind_its_handle() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, torch.arange(40, dtype=torch.int32))
    handle = cache.match_and_lock(torch.arange(40, dtype=torch.int32)).handle
    before = state(cache)
    for tokens, message in [
        (torch.arange(39), "input_ids: expected at least the 40 tokens of handle, got 39"),
        (torch.arange(1, 50), "input_ids: expected the tokens of handle first, got others"),
    ]:
        with pytest.raises(ValueError, match=f"^insert_and_unlock: {message}$"):
            cache.insert_and_unlock(tokens, torch.zeros(len(tokens), dtype=torch.int32), handle)
        assert state(cache) == before
    inserted = cache.insert_and_unlock(torch.arange(41), torch.arange(100, 141, dtype=torch.int32), handle)
    assert inserted.handle.get_matched_indices().tolist() == [*range(40), 140]
    assert cache.size_info == (41, 0)


# Handles


def test_a_handle_is_stale_once_its_end_is_evicted() -> None:
    cache = RadixPrefixCache("cpu")
    long = put(cache, ids(1, 2, 3, 4)).handle
    short = cache.match_prefix(ids(1, 2)).handle
    cache.evict(1)
    assert short.get_matched_indices().tolist() == [0, 1]
    check_stale(cache, long)
    put(cache, ids(1, 2, 3, 4), first=10)
    check_stale(cache, long)  # the same tokens again are not the same KV
    cache.evict(4)
    check_stale(cache, short)


def test_handles_are_stale_after_reset() -> None:
    cache = RadixPrefixCache("cpu")
    handle = put(cache, ids(1, 2, 3, 4)).handle
    empty = cache.match_prefix(ids()).handle
    cache.lock_handle(handle)
    stats = cache.stats
    cache.reset()
    assert cache.size_info == (0, 0)
    assert cache.memory[:3] == (0, 0, 0)
    assert cache.stats == stats
    assert found(cache, ids(1, 2, 3, 4)) == []
    check_stale(cache, handle)
    check_stale(cache, empty)
    cache.insert_prefix(ids(1, 2), torch.tensor([5, 6]))  # indices of 64 bits from now on
    check_stale(cache, handle)
    assert cache.evict(2).tolist() == [5, 6]
    cache.check_integrity()


def check_stale(cache: RadixPrefixCache, handle: CacheHandle) -> None:
    before = state(cache)
    message = "handle: is stale: its tokens were evicted, or the cache was reset$"
    for unlock in False, True:
        with pytest.raises(RuntimeError, match="^lock_handle: " + message):
            cache.lock_handle(handle, unlock=unlock)
    with pytest.raises(RuntimeError, match="^get_matched_indices: " + message):
        handle.get_matched_indices()
    with pytest.raises(RuntimeError, match="^insert_and_unlock: " + message):
        cache.insert_and_unlock(ids(1, 2, 3, 4), ids(1, 2, 3, 4), handle)
    assert state(cache) == before


def test_a_handle_may_be_unlocked_as_often_as_it_was_locked() -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2))
    one, two = cache.match_and_lock(ids(1, 2)).handle, cache.match_prefix(ids(1, 2)).handle
    message = "handle: expected one that is locked, got one that is not$"
    with pytest.raises(RuntimeError, match="^lock_handle: " + message):
        cache.lock_handle(two, unlock=True)  # though the node is locked, through another handle
    with pytest.raises(RuntimeError, match="^insert_and_unlock: " + message):
        cache.insert_and_unlock(ids(1, 2, 3), ids(1, 2, 3), two)
    assert cache.size_info == (0, 2)
    cache.lock_handle(one, unlock=True)
    with pytest.raises(RuntimeError, match="^lock_handle: " + message):
        cache.lock_handle(one, unlock=True)
    assert cache.size_info == (2, 0)


def test_a_handle_of_another_cache() -> None:
    one, two = RadixPrefixCache("cpu"), RadixPrefixCache("cpu")
    handle = put(one, ids(1, 2)).handle
    put(two, ids(1, 2))
    one.lock_handle(handle)
    message = "handle: expected one of this cache, got one of another$"
    with pytest.raises(ValueError, match="^lock_handle: " + message):
        two.lock_handle(handle, unlock=True)
    with pytest.raises(ValueError, match="^insert_and_unlock: " + message):
        two.insert_and_unlock(ids(1, 2, 3), ids(1, 2, 3), handle)
    assert two.size_info == (2, 0)


@pytest.mark.parametrize(
    "other",
    [None, 3, ids(1), NaivePrefixCache("cpu").match_prefix(ids(1)).handle],
    ids=lambda other: type(other).__name__,
)
def test_what_is_no_handle(other: object) -> None:
    cache = RadixPrefixCache("cpu")
    with pytest.raises(TypeError, match=r"^lock_handle: argument 1: expected minisgl.RadixHandle, got "):
        cache.lock_handle(other)  # type: ignore[arg-type]


def test_handles_are_made_by_caches_alone() -> None:
    handle = put(RadixPrefixCache("cpu"), ids(1)).handle
    with pytest.raises(TypeError):
        RadixCacheHandle()
    with pytest.raises(TypeError):
        copy.copy(handle)
    with pytest.raises(AttributeError):
        handle.cached_len = 3  # type: ignore[misc]


def test_a_handle_outlives_its_cache() -> None:
    cache = RadixPrefixCache("cpu")
    handle = put(cache, ids(1, 2, 3)).handle
    del cache
    gc.collect()
    assert handle.get_matched_indices().tolist() == [0, 1, 2]


# What is refused

REFUSED: list[tuple[Callable[[RadixPrefixCache], object], type[Exception], str]] = [
    (lambda c: c.evict(-1), ValueError, "evict: size: expected at least 0, got -1"),
    (lambda c: c.evict(5), RuntimeError, "evict: size: expected at most the evictable 4 tokens, got 5"),
    (lambda c: c.evict(1.5), TypeError, "evict: argument 1: expected an int, got a float"),  # type: ignore[arg-type]
    (
        lambda c: c.match_prefix(torch.zeros(2)),
        TypeError,
        "match_prefix: input_ids: expected [L] int32|int64 on cpu, contiguous, got [2] float32 on cpu",
    ),
    (
        lambda c: c.match_and_lock(torch.zeros(2, 2, dtype=torch.int32)),
        ValueError,
        "match_and_lock: input_ids: expected [L] int32|int64 on cpu, contiguous, got [2, 2] int32 on cpu",
    ),
    (
        lambda c: c.match_prefix(torch.arange(8)[::2]),
        ValueError,
        "match_prefix: input_ids: expected [L] int32|int64 on cpu, contiguous, got [4] int64 on cpu with a stride of 2",
    ),
    (
        lambda c: c.match_prefix([1, 2]),  # type: ignore[arg-type]
        TypeError,
        "match_prefix: input_ids: expected a torch.Tensor, got list",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2, 3), ids(1, 2)),
        ValueError,
        "insert_prefix: indices: expected [L=3] int32|int64 on cpu, contiguous, got [2] int32 on cpu",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2), ids(1, 2, 3)),
        ValueError,
        "insert_prefix: indices: expected [L=2] int32|int64 on cpu, contiguous, got [3] int32 on cpu",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2), ids(1, 2).view(2, 1)),
        ValueError,
        "insert_prefix: indices: expected [L=2] int32|int64 on cpu, contiguous, got [2, 1] int32 on cpu",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2), torch.zeros(2)),
        TypeError,
        "insert_prefix: indices: expected [L=2] int32|int64 on cpu, contiguous, got [2] float32 on cpu",
    ),
    (
        lambda c: c.insert_prefix(ids(9, 2), ids(1, 2).long()),
        TypeError,
        "insert_prefix: indices: expected int32 as in earlier insertions, got int64",
    ),
    (
        lambda c: c.match_prefix(ids(1, 2).to("meta")),
        ValueError,
        "match_prefix: input_ids: expected a tensor on cpu or cuda, got meta",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2), ids(1, 2).to("meta")),
        ValueError,
        "insert_prefix: indices: expected a tensor on cpu or cuda, got meta",
    ),
    (
        lambda c: c.insert_prefix(ids(1, 2), [1, 2]),  # type: ignore[arg-type]
        TypeError,
        "insert_prefix: indices: expected a torch.Tensor, got list",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_what_is_refused_changes_nothing(
    call: Callable[[RadixPrefixCache], object], error: type[Exception], message: str
) -> None:
    cache = RadixPrefixCache("cpu")
    put(cache, ids(1, 2, 3, 4))
    before = state(cache)
    with pytest.raises(error) as caught:
        call(cache)
    assert str(caught.value) == message
    assert state(cache) == before
    cache.check_integrity()


@pytest.mark.parametrize("kind", [RadixPrefixCache, NaivePrefixCache])
@pytest.mark.parametrize("page_size", [0, -4, 2**31, 2**70])
def test_pages_have_tokens(kind: type[PrefixCache], page_size: int) -> None:
    with pytest.raises(ValueError, match=f"^{kind.__name__}: page_size: expected 1 to 2147483647, got {page_size}$"):
        kind("cpu", page_size)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [RadixPrefixCache, NaivePrefixCache])
@pytest.mark.parametrize("page_size", [1.0, True, "4", None])
def test_page_sizes_are_ints(kind: type[PrefixCache], page_size: object) -> None:
    message = re.escape(f"{kind.__name__}: page_size: expected an int, got {page_size!r}")
    with pytest.raises(TypeError, match=f"^{message}$"):
        kind("cpu", page_size)  # type: ignore[call-arg]


# Where results are


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_indices_keep_their_dtype(dtype: torch.dtype) -> None:
    cache = RadixPrefixCache("cpu")
    assert cache.evict(0).dtype == torch.int32  # nothing is known yet
    big = torch.iinfo(dtype).max
    handle = cache.insert_prefix(ids(1, 2, 3), torch.tensor([0, -1, big], dtype=dtype)).handle
    for result in (
        handle.get_matched_indices(),
        cache.match_prefix(ids()).handle.get_matched_indices(),
        cache.evict(0),
        cache.evict(1),
        cache.evict(0),
    ):
        assert result.dtype == dtype
        assert result.device == torch.device("cpu")
        assert result.tolist() in ([], [0, -1, big])


def test_results_are_new_tensors() -> None:
    cache = RadixPrefixCache("cpu")
    handle = put(cache, ids(1, 2, 3)).handle
    handle.get_matched_indices().zero_()
    assert handle.get_matched_indices().tolist() == [0, 1, 2]


def test_results_are_on_the_device_of_the_cache() -> None:
    """PyTorch's "meta" stands for any other device."""
    cache = RadixPrefixCache("meta", page_size=2)
    handle = put(cache, ids(1, 2, 3)).handle
    assert cache.device == torch.device("meta")
    for result in (
        handle.get_matched_indices(),
        cache.match_prefix(ids(1, 2)).handle.get_matched_indices(),
        cache.evict(1),
    ):
        assert (result.device.type, result.shape, result.dtype) == ("meta", (2,), torch.int32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the tree is on the host in any case")
def test_indices_on_a_gpu() -> None:
    cache = RadixPrefixCache("cuda", page_size=2)
    indices = torch.arange(10, 15, device="cuda")
    handle = cache.insert_prefix(ids(1, 2, 3, 4, 5), indices).handle
    for result in handle.get_matched_indices(), cache.evict(4):
        assert result.device.type == "cuda"
        assert result.tolist() == [10, 11, 12, 13]
    with pytest.raises(
        ValueError, match=r"input_ids: expected \[L\] int32\|int64 on cpu, contiguous, got \[5\] int64 on cuda:0"
    ):
        cache.match_prefix(indices)
    with pytest.raises(
        ValueError, match=r"indices: expected \[L=5\] int32\|int64 on cpu, contiguous, got \[5\] int64 on cuda:0"
    ):
        RadixPrefixCache("cpu").insert_prefix(ids(1, 2, 3, 4, 5), indices)


# How much it takes


def deep_chain(cache: RadixPrefixCache, num_pages: int) -> torch.Tensor:
    """Make a chain of one page per node, by walks that end inside its last long node; return its tokens.

    The tokens count up, as do the numbers of the nodes: no way of hashing both may put them all in one bucket.
    """
    tokens = torch.arange(num_pages * cache.page_size, dtype=torch.int32)
    put(cache, tokens)
    for length in range(len(tokens) - cache.page_size, 0, -cache.page_size):
        cache.match_prefix(tokens[:length])
    assert cache.memory.num_nodes == num_pages
    return tokens


@pytest.mark.parametrize(("page_size", "num_pages"), [(1, 100_000), (16, 62_500)])
def test_deep_chains(page_size: int, num_pages: int) -> None:
    """100,000 nodes, and a million tokens, below each other: every operation, on a thread with little stack."""
    if "MINISGL_SANITIZE" in os.environ:
        num_pages //= (
            10  # its checks, and its copy of all that stays when an array shrinks, take a hundred times as long
        )
    results = []

    def work() -> None:
        cache = RadixPrefixCache("cpu", page_size)
        tokens = deep_chain(cache, num_pages)
        size = len(tokens)
        handle = cache.match_and_lock(tokens).handle
        assert cache.size_info == (0, size)
        assert torch.equal(handle.get_matched_indices(), tokens)
        cache.check_integrity()
        longer = torch.cat([tokens, tokens[:page_size]])
        assert put(cache, longer).cached_len == size
        assert cache.insert_and_unlock(longer, longer, handle).cached_len == size + page_size
        assert cache.size_info == (size + page_size, 0)
        assert len(cache.evict(page_size)) == page_size
        half = num_pages // 2 * page_size
        freed = cache.evict(size - half)
        assert freed.tolist() == tokens[half:].view(-1, page_size).flip(0).flatten().tolist()  # the deepest first
        assert cache.memory.token_bytes == half * (4 + 4)
        assert cache.match_prefix(tokens).handle.cached_len == half
        cache.check_integrity()
        del cache, handle
        gc.collect()
        results.append("done")

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results == ["done"]


def test_a_wide_node() -> None:
    cache = RadixPrefixCache("cpu")
    for token in range(5000):
        put(cache, ids(token, 7), first=2 * token)
    assert cache.memory.num_nodes == 5000
    for token in range(0, 5000, 7):
        assert found(cache, ids(token, 7)) == [2 * token, 2 * token + 1]
    cache.check_integrity()
    assert len(cache.evict(9998)) == 9998
    cache.check_integrity()


class Mallinfo(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _names.split()]


@pytest.fixture
def allocated() -> Callable[[], int]:
    """Return a function that asks the C library how many bytes are allocated now."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if not mallinfo or "address" in os.environ.get("MINISGL_SANITIZE", ""):
        pytest.skip("only glibc (2.33 and newer) tells, and under AddressSanitizer it is not asked for memory")
    mallinfo.restype = Mallinfo

    def ask() -> int:
        gc.collect()
        info = mallinfo()
        return info.uordblks + info.hblkhd

    return ask


def test_memory_of_long_runs(allocated: Callable[[], int]) -> None:
    """4 bytes an id and 8 an index, and nothing more, until they are evicted."""
    size = 4_000_000
    tokens = torch.arange(size, dtype=torch.int32)
    indices = torch.arange(size)
    cache = RadixPrefixCache("cpu")
    before = allocated()
    assert cache.memory[:3] == (0, 0, 0)
    assert 0 < cache.memory.node_bytes < 20_000
    cache.insert_prefix(tokens, indices)
    assert cache.memory[:3] == (size, 1, 12 * size)
    assert allocated() - before == pytest.approx(12 * size, abs=20_000)
    short = cache.match_prefix(tokens[: size // 4]).handle
    assert cache.memory[:3] == (size, 2, 12 * size)  # the halves share the arrays
    assert len(cache.evict(1)) == size * 3 // 4
    assert cache.memory[:3] == (size // 4, 1, 12 * size // 4)
    assert allocated() - before == pytest.approx(12 * size // 4, abs=20_000)
    cache.reset()
    assert cache.memory[:3] == (0, 0, 0)
    assert allocated() - before == pytest.approx(0, abs=20_000)
    assert short.cached_len == size // 4


def test_memory_of_many_nodes(allocated: Callable[[], int]) -> None:
    """What `memory` says is what was allocated, less the C library's own share of each piece."""
    cache = RadixPrefixCache("cpu", page_size=16)
    tokens = torch.arange(100_000 * 16, dtype=torch.int32).view(-1, 16)
    before, empty = allocated(), cache.memory
    for row in tokens[:20_000]:
        cache.insert_prefix(row, row)
    one = cache.memory
    assert one[:3] == (20_000 * 16, 20_000, 20_000 * 16 * 8)
    taken = allocated() - before
    said = one.token_bytes + one.node_bytes - empty.node_bytes
    assert said < taken < said + 20_000 * 60
    cache.evict(20_000 * 16)
    assert allocated() - before == pytest.approx(cache.memory.node_bytes - empty.node_bytes, abs=50_000)
    cache.reset()
    assert cache.memory.node_bytes == empty.node_bytes
    assert allocated() - before < 50_000


def test_memory_goes_with_the_last_handle(allocated: Callable[[], int]) -> None:
    size = 1_000_000
    tokens = torch.arange(size)
    before = allocated()
    cache = RadixPrefixCache("cpu")
    handle = cache.insert_prefix(tokens, tokens).handle
    del cache
    assert allocated() - before == pytest.approx(12 * size, abs=20_000)
    del handle
    assert allocated() - before == pytest.approx(0, abs=1000)


def test_nodes_are_used_again() -> None:
    cache = RadixPrefixCache("cpu", page_size=2)
    seen = set()
    for cycle in range(300):
        for token in range(50):
            put(cache, ids(cycle, 1, cycle, token), first=4 * token)
        assert cache.memory.num_nodes == 51
        assert len(cache.evict(cache.size_info.evictable_size)) == 102
        seen.add(cache.memory)
    assert len(seen) == 1
    assert cache.memory[:3] == (0, 0, 0)


def test_counters() -> None:
    cache = RadixPrefixCache("cpu", page_size=2)
    put(cache, ids(1, 2, 3, 4, 5))
    cache.match_prefix(ids(1, 2, 3, 9, 9))
    cache.match_and_lock(ids(7, 7))
    cache.evict(1)
    expected = CacheStats(
        lookups=2,
        hits=1,
        tokens_looked_up=6,
        tokens_saved=2,
        tokens_inserted=4,
        nodes_evicted=1,
        tokens_evicted=2,
    )
    assert cache.stats == expected
    put(cache, ids(1, 2, 3, 4))  # an insertion is no lookup
    assert cache.stats == expected._replace(tokens_inserted=6)


# The protocol


@pytest.mark.parametrize("kind", [RadixPrefixCache, NaivePrefixCache])
def test_an_engine_runs_on_either(kind: type[RadixPrefixCache] | type[NaivePrefixCache]) -> None:
    """Requests with a shared prompt on a KV cache of 40 slots: no slot is ever lost, or given out twice."""
    cache: PrefixCache = kind("cpu", 2)
    free = set(range(40))

    def take(count: int) -> list[int]:
        freed = cache.evict(max(count - len(free), 0)).tolist()
        assert free.isdisjoint(freed)
        free.update(freed)
        return [free.pop() for _ in range(count)]

    for request in range(50):
        tokens = ids(1, 2, 3, 4, 5, request % 7, 6, request % 3)
        matched = cache.match_prefix(tokens)
        assert isinstance(matched, MatchResult)
        handle = matched.handle
        cache.lock_handle(handle)
        slots = handle.get_matched_indices().tolist()
        assert len(slots) == handle.cached_len
        slots += take(len(tokens) - len(slots))
        result = cache.insert_prefix(tokens, torch.tensor(slots, dtype=torch.int32))
        cache.lock_handle(handle, unlock=True)
        assert isinstance(result, InsertResult)
        kept = result.handle.get_matched_indices().tolist()
        free.update(slot for slot in slots[handle.cached_len :] if slot not in kept)
        assert len(free) + cache.size_info.total_size == 40
        cache.check_integrity()
    cache.reset()
    assert cache.size_info == (0, 0)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_naive_cache_keeps_nothing(device: str) -> None:
    cache = NaivePrefixCache(device, page_size=2)
    result = cache.insert_prefix(ids(1, 2, 3), ids(4, 5, 6))
    assert result.cached_len == 2  # whole pages, as with any other cache, and all of them the caller's to free
    handle = cache.match_prefix(ids(1, 2, 3)).handle
    for empty in result.handle, handle:
        assert empty.cached_len == 0
        indices = empty.get_matched_indices()
        assert (indices.shape, indices.dtype, indices.device.type) == ((0,), torch.int32, device)
    cache.lock_handle(handle)
    assert cache.size_info == (0, 0)
    assert cache.evict(0).device.type == device
    with pytest.raises(RuntimeError, match=r"^evict: size: expected at most the evictable 0 tokens, got 1$"):
        cache.evict(1)
    with pytest.raises(ValueError, match=r"^evict: size: expected at least 0, got -1$"):
        cache.evict(-1)
    with pytest.raises(ValueError, match=r"^insert_prefix: indices: expected \[L=3\], got \[2\]$"):
        cache.insert_prefix(ids(1, 2, 3), ids(4, 5))
    cache.lock_handle(handle, unlock=True)
    cache.reset()
    cache.check_integrity()


# How it is built


def test_an_edited_library_and_caches_of_the_one_before() -> None:
    """A reader may edit the chapter's C++ while caches are alive."""
    old = RadixPrefixCache("cpu")
    handle = put(old, ids(1, 2, 3)).handle
    header = "include/minisgl/radix_tree.h"
    edited = sources.find_source(header).read_text().replace("counters_.lookups += 1", "counters_.lookups += 2")
    try:
        sources.set_overlay(f"csrc/{header}", edited)
        new = RadixPrefixCache("cpu")
        put(new, ids(1, 2, 3), first=10)
        for cache in old, new:
            cache.match_prefix(ids(1))
        assert (old.stats.lookups, new.stats.lookups) == (1, 2)
        old.lock_handle(handle)
        assert old.size_info == (0, 3)
        for use in handle.get_matched_indices, lambda: new.lock_handle(handle):
            with pytest.raises(RuntimeError, match=r"RadixHandle: was made before its library was edited$"):
                use()
    finally:
        sources.clear_overlays()
    old.check_integrity()
    new.check_integrity()


@pytest.mark.skipif("MINISGL_SANITIZE" not in os.environ, reason="this is about `make sanitize`")
def test_the_library_has_the_checks_of_the_sanitizers() -> None:
    radix_library()
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "radix" in line}
    libraries = [file for file in files if file.endswith(".so")]
    assert libraries
    for name in os.environ["MINISGL_SANITIZE"].split(","):
        symbol = {"address": b"__asan_report_load", "undefined": b"__ubsan_handle"}[name]
        assert all(symbol in Path(library).read_bytes() for library in libraries)
