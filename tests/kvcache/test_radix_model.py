"""Any interleaving of calls on a radix cache against a dictionary of prefixes: see prefix_oracle.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import ClassVar

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prefix_oracle import (  # type: ignore[import-not-found]  # pytest puts this folder on the path
    Held,
    Oracle,
    Prefix,
)

from minisgl.compile import sources
from minisgl.kvcache import RadixCacheHandle, RadixPrefixCache

# A run of equal pages: its letter, how often. Long ones reach the vectors of the comparison.
RUNS = st.lists(st.tuples(st.sampled_from("aabbcdefg"), st.sampled_from([1, 1, 1, 2, 3, 9, 40])), max_size=4)
ANY = st.integers(0, 10**6)  # picks one of however many there are


def page(letter: str, size: int) -> list[int]:
    """Return a page. All begin or end alike, or differ by what only 64 bits, or only a sign, can tell."""
    first, last = {"a": (7, 7), "b": (7, 8), "c": (9, 7), "d": (-7, 7)}.get(letter, (7, 7))
    tokens = [first] + [5] * (size - 2) + [last] if size > 1 else [first * 100 + last]
    wide = {"e": (0, 2**32), "f": (-1, -(2**32)), "g": (-1, 2**62)}
    if letter in wide:
        position, difference = wide[letter]
        tokens[position] += difference
    return tokens


def tensor(ids: Prefix, wide: bool, offset: int) -> torch.Tensor:
    """Return a view somewhere inside another tensor, of 32 bits if they are enough and not `wide`."""
    fits = all(-(2**31) <= token < 2**31 for token in ids)
    dtype = torch.int32 if fits and not wide else torch.int64
    return torch.tensor([7] * offset + list(ids) + [7] * 3, dtype=dtype)[offset : offset + len(ids)]


class RadixModel(RuleBasedStateMachine):
    page_size: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.cache = RadixPrefixCache("cpu", self.page_size)
        self.oracle = Oracle(self.page_size)
        self.handles: list[tuple[RadixCacheHandle, Held]] = []
        self.index_dtype = torch.int32
        self.unused = count(1)
        self.known: list[Prefix] = [()]  # whatever was inserted, to be asked for again
        self.max_nodes = 0

    @initialize(wide=st.booleans())
    def choose_indices(self, wide: bool) -> None:
        self.index_dtype = torch.int64 if wide else torch.int32

    def ids(self, start: int, keep: int, runs: list[tuple[str, int]], rest: int) -> Prefix:
        """Make ids: a part of known ones, runs of pages, and a part of a page."""
        known = self.known[start % len(self.known)]
        kept = known[: keep % (len(known) // self.page_size + 1) * self.page_size]
        pages = [token for letter, times in runs for token in page(letter, self.page_size) * times]
        return (*kept, *pages, *page("a", self.page_size)[: rest % self.page_size])

    def hold(self, handle: object, held: Held) -> None:
        assert isinstance(handle, RadixCacheHandle)
        assert handle.cached_len == len(held.prefix)
        self.handles.append((handle, held))

    @contextmanager
    def inserting(self, ids: Prefix, wide: bool, offset: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
        """Yield the arguments of an insertion, and the indices as a list; both tensors change after the call."""
        new = [next(self.unused) for _ in ids]
        argument = tensor(ids, wide, offset)
        indices = torch.tensor([0, *new], dtype=self.index_dtype)[1:]
        yield argument, indices, new
        argument.zero_()
        indices.zero_()
        self.known.append(self.oracle.whole(ids))

    def pick(self, which: int, wanted: Callable[[Held], bool]) -> tuple[RadixCacheHandle, Held]:
        found = [pair for pair in self.handles if wanted(pair[1])]
        assume(found)
        return found[which % len(found)]

    @rule(start=ANY, keep=ANY, runs=RUNS, rest=ANY, wide=st.booleans(), offset=st.integers(0, 17), lock=st.booleans())
    def match(
        self, start: int, keep: int, runs: list[tuple[str, int]], rest: int, wide: bool, offset: int, lock: bool
    ) -> None:
        ids = self.ids(start, keep, runs, rest)
        argument = tensor(ids, wide, offset)
        handle = (self.cache.match_and_lock if lock else self.cache.match_prefix)(argument).handle
        held = self.oracle.match(ids)
        if lock:
            self.oracle.lock(held)
        self.hold(handle, held)

    @rule(start=ANY, keep=ANY, runs=RUNS, rest=ANY, wide=st.booleans(), offset=st.integers(0, 17))
    def insert(self, start: int, keep: int, runs: list[tuple[str, int]], rest: int, wide: bool, offset: int) -> None:
        ids = self.ids(start, keep, runs, rest)
        with self.inserting(ids, wide, offset) as (argument, indices, new):
            result = self.cache.insert_prefix(argument, indices)
        cached_len, inserted = self.oracle.insert(ids, new, self.index_dtype.itemsize)
        assert result.cached_len == cached_len
        self.hold(result.handle, inserted)

    @precondition(lambda self: any(held.locks for _, held in self.handles))
    @rule(which=ANY, runs=RUNS, rest=ANY, wide=st.booleans(), offset=st.integers(0, 17))
    def insert_and_unlock(self, which: int, runs: list[tuple[str, int]], rest: int, wide: bool, offset: int) -> None:
        handle, held = self.pick(which, lambda held: held.locks > 0 and not self.oracle.is_stale(held))
        ids = (*held.prefix, *self.ids(0, 0, runs, rest))
        with self.inserting(ids, wide, offset) as (argument, indices, new):
            result = self.cache.insert_and_unlock(argument, indices, handle)
        cached_len, inserted = self.oracle.insert(ids, new, self.index_dtype.itemsize)
        self.oracle.unlock(held)
        assert result.cached_len == cached_len
        self.hold(result.handle, inserted)

    @precondition(lambda self: any(held.locks for _, held in self.handles))
    @rule(which=ANY)
    def insert_other_tokens_and_unlock(self, which: int) -> None:
        handle, held = self.pick(
            which, lambda held: held.locks > 0 and not self.oracle.is_stale(held) and len(held.prefix) > 0
        )
        for ids in held.prefix[:-1], (*held.prefix[:-1], held.prefix[-1] + 2**32, 3):
            with pytest.raises(ValueError, match="input_ids: expected "):
                self.cache.insert_and_unlock(
                    torch.tensor(ids, dtype=torch.int64), torch.zeros(len(ids), dtype=self.index_dtype), handle
                )

    @precondition(lambda self: self.handles)
    @rule(which=ANY)
    def lock(self, which: int) -> None:
        handle, held = self.pick(which, lambda held: not self.oracle.is_stale(held))
        self.cache.lock_handle(handle)
        self.oracle.lock(held)

    @precondition(lambda self: any(held.locks for _, held in self.handles))
    @rule(which=ANY)
    def unlock(self, which: int) -> None:
        handle, held = self.pick(which, lambda held: held.locks > 0 and not self.oracle.is_stale(held))
        self.cache.lock_handle(handle, unlock=True)
        self.oracle.unlock(held)

    @precondition(lambda self: self.handles)
    @rule(which=ANY)
    def unlock_too_often(self, which: int) -> None:
        handle, _ = self.pick(which, lambda held: held.locks == 0 and not self.oracle.is_stale(held))
        with pytest.raises(RuntimeError, match="handle: expected one that is locked, got one that is not"):
            self.cache.lock_handle(handle, unlock=True)
        with pytest.raises(RuntimeError, match="handle: expected one that is locked, got one that is not"):
            self.cache.insert_and_unlock(torch.tensor(page("b", self.page_size)), self.new_indices(), handle)

    @precondition(lambda self: any(self.oracle.is_stale(held) for _, held in self.handles))
    @rule(which=ANY)
    def use_a_stale_handle(self, which: int) -> None:
        handle, held = self.pick(which, self.oracle.is_stale)
        assert handle.cached_len == len(held.prefix)
        stale: list[Callable[[], object]] = [
            handle.get_matched_indices,
            lambda: self.cache.lock_handle(handle),
            lambda: self.cache.lock_handle(handle, unlock=True),
            lambda: self.cache.insert_and_unlock(torch.tensor(page("b", self.page_size)), self.new_indices(), handle),
        ]
        for call in stale:
            with pytest.raises(RuntimeError, match="handle: is stale: its tokens were evicted, or the cache was reset"):
                call()

    @rule(share=st.integers(0, 4), odd=st.integers(-2, 2))
    def evict(self, share: int, odd: int) -> None:
        evictable = self.oracle.evictable()
        size = min(max(evictable * share // 4 + odd, 0), evictable)
        freed = self.cache.evict(size)
        assert freed.dtype == (self.index_dtype if self.oracle.index_bytes else torch.int32)
        assert freed.tolist() == self.oracle.evict(size)

    @rule(excess=st.integers(1, 40))
    def evict_too_much(self, excess: int) -> None:
        evictable = self.oracle.evictable()
        size = evictable + excess
        message = f"evict: size: expected at most the evictable {evictable} tokens, got {size}$"
        with pytest.raises(RuntimeError, match=message):
            self.cache.evict(size)
        with pytest.raises(ValueError, match=f"evict: size: expected at least 0, got -{excess}$"):
            self.cache.evict(-excess)

    @precondition(lambda self: self.oracle.index_bytes)
    @rule(runs=RUNS)
    def insert_indices_of_another_dtype(self, runs: list[tuple[str, int]]) -> None:
        ids = tensor(self.ids(0, 0, runs, 0), wide=False, offset=0)
        other = torch.int32 if self.index_dtype == torch.int64 else torch.int64
        with pytest.raises(TypeError, match=r"indices: expected int.* as in earlier insertions"):
            self.cache.insert_prefix(ids, torch.zeros(len(ids), dtype=other))

    @precondition(lambda self: len(self.handles) > 12)
    @rule(wide=st.booleans())
    def reset(self, wide: bool) -> None:
        self.cache.reset()
        self.oracle.reset()
        self.index_dtype = torch.int64 if wide else torch.int32

    @precondition(lambda self: self.handles)
    @rule(which=ANY)
    def forget_a_handle(self, which: int) -> None:
        self.handles.pop(which % len(self.handles))  # a lock of it stays

    def new_indices(self) -> torch.Tensor:
        return torch.zeros(self.page_size, dtype=self.index_dtype)

    @invariant()
    def the_tree_agrees_with_itself(self) -> None:
        self.cache.check_integrity()

    @invariant()
    def sizes_add_up(self) -> None:
        sizes = self.cache.size_info
        assert tuple(sizes) == (self.oracle.evictable(), self.oracle.protected())
        assert sizes.total_size == len(self.oracle.pages) * self.page_size
        memory = self.cache.memory
        num_nodes = sum(page.ends_unit for page in self.oracle.pages.values())
        self.max_nodes = max(self.max_nodes, num_nodes)
        assert memory[:3] == (sizes.total_size, num_nodes, self.oracle.token_bytes())
        # Nodes come in slabs of 64 and table entries in segments of 256; what was taken for more of them is kept.
        assert 64 * num_nodes < memory.node_bytes < 256 * (self.max_nodes + 64)

    @invariant()
    def counters_agree(self) -> None:
        oracle = self.oracle
        assert self.cache.stats._asdict() == {name: getattr(oracle, name) for name in self.cache.stats._fields}

    @invariant()
    def handles_lead_to_their_indices(self) -> None:
        for handle, held in self.handles:
            if not self.oracle.is_stale(held):
                indices = handle.get_matched_indices()
                assert indices.tolist() == self.oracle.indices(held)
                assert indices.dtype == (self.index_dtype if self.oracle.index_bytes else torch.int32)

    @invariant()
    def nodes_are_the_units(self) -> None:
        root, *nodes = self.cache.nodes()
        assert root[1:] == (-1, [], 0, -1)
        prefixes: dict[int, Prefix] = {root.node_id: ()}
        units = {}
        for node in nodes:
            assert node.node_id not in prefixes
            prefix = prefixes[node.node_id] = (*prefixes[node.parent_id], *node.tokens)
            units[prefix] = (tuple(node.tokens), node.lock_count, node.lru_rank)
        assert units == self.oracle.units()


def check(page_size: int, examples: int) -> None:
    machine = type(f"RadixModel{page_size}", (RadixModel,), {"page_size": page_size})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=max(examples, settings().max_examples), deadline=None)
    )


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_any_interleaving_of_calls(page_size: int) -> None:
    check(page_size, examples=150)


def test_hashes_that_collide() -> None:
    """The same with three hashes for all nodes: a hash only says where to look."""
    header = "include/minisgl/radix_tree.h"
    text, result = sources.find_source(header).read_text(), "    return hash;\n"
    assert text.count(result) == 1
    try:
        sources.set_overlay(f"csrc/{header}", text.replace(result, "    return hash % 3;\n"))
        check(page_size=1, examples=60)
    finally:
        sources.clear_overlays()
