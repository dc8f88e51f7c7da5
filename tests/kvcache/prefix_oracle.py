"""What a prefix cache must do, in the plainest way: a dictionary of everything cached. No tree is in it.

Its keys are all cached prefixes, in whole pages; its values know the last page of their prefix. `evict` frees in units:
the pages up to a place where a walk or an insertion ended. Such places are marked, and never lose their mark.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

Prefix = tuple[int, ...]


@dataclass
class Page:
    indices: tuple[int, ...]
    id_bytes: int
    birth: int  # which insertion brought it
    locks: int = 0
    last_use: int = 0
    ends_unit: bool = False


@dataclass
class Held:
    """A handle, as its holder would describe it."""

    prefix: Prefix
    birth: int
    locks: int = 0


@dataclass
class Oracle:
    page_size: int
    index_bytes: int = 0  # unknown before the first insertion
    pages: dict[Prefix, Page] = field(default_factory=dict)
    time: int = 0
    resets: int = 0
    lookups: int = 0
    hits: int = 0
    tokens_looked_up: int = 0
    tokens_saved: int = 0
    tokens_inserted: int = 0
    nodes_evicted: int = 0
    tokens_evicted: int = 0

    # What the calls of a cache do.

    def match(self, ids: Prefix) -> Held:
        found = self.longest(ids)
        self.end_walk(found, ids)
        self.use(found)
        self.lookups += 1
        self.hits += len(found) > 0
        self.tokens_looked_up += len(self.whole(ids))
        self.tokens_saved += len(found)
        return self.hold(found)

    def insert(self, ids: Prefix, indices: list[int], index_bytes: int) -> tuple[int, Held]:
        ids = self.whole(ids)
        found = self.longest(ids)
        self.end_walk(found, ids)
        if new := ids[len(found) :]:
            self.index_bytes = index_bytes
            id_bytes = 4 if all(-(2**31) <= token < 2**31 for token in new) else 8
            birth = self.tick()
            for prefix in self.prefixes(ids):
                if len(prefix) > len(found):
                    last = slice(len(prefix) - self.page_size, len(prefix))
                    self.pages[prefix] = Page(tuple(indices[last]), id_bytes, birth)
            self.pages[ids].ends_unit = True
            self.tokens_inserted += len(new)
        self.use(ids)
        return len(found), self.hold(ids)

    def lock(self, held: Held) -> None:
        held.locks += 1
        for prefix in self.prefixes(held.prefix):
            self.pages[prefix].locks += 1

    def unlock(self, held: Held) -> None:
        held.locks -= 1
        for prefix in reversed(list(self.prefixes(held.prefix))):
            page = self.pages[prefix]
            page.locks -= 1
            if page.locks == 0:
                page.last_use = self.tick()

    def evict(self, size: int) -> list[int]:
        freed: list[int] = []
        while len(freed) < size:
            inner = {prefix[: len(prefix) - self.page_size] for prefix in self.pages}
            leaves = [prefix for prefix, page in self.pages.items() if prefix not in inner and page.locks == 0]
            oldest = min(leaves, key=lambda prefix: self.pages[prefix].last_use)
            unit = self.unit(oldest)
            for prefix in unit:
                freed += self.pages.pop(prefix).indices
            self.nodes_evicted += 1
            self.tokens_evicted += len(unit) * self.page_size
        return freed

    def reset(self) -> None:
        self.pages.clear()
        self.index_bytes = 0
        self.resets += 1

    # What may be asked about it.

    def is_stale(self, held: Held) -> bool:
        return self.birth(held.prefix) != held.birth

    def indices(self, held: Held) -> list[int]:
        return [index for prefix in self.prefixes(held.prefix) for index in self.pages[prefix].indices]

    def evictable(self) -> int:
        return sum(self.page_size for page in self.pages.values() if page.locks == 0)

    def protected(self) -> int:
        return sum(self.page_size for page in self.pages.values() if page.locks > 0)

    def token_bytes(self) -> int:
        return sum(self.page_size * (page.id_bytes + self.index_bytes) for page in self.pages.values())

    def units(self) -> dict[Prefix, tuple[Prefix, int, int]]:
        """Return the last prefix of each unit: the tokens of the unit, its locks, its rank among those to evict."""
        ends = [prefix for prefix, page in self.pages.items() if page.ends_unit]
        free = sorted((end for end in ends if self.pages[end].locks == 0), key=lambda end: self.pages[end].last_use)
        ranks = {end: rank for rank, end in enumerate(free)}
        return {
            end: (end[len(self.unit(end)[0]) - self.page_size :], self.pages[end].locks, ranks.get(end, -1))
            for end in ends
        }

    # The rules.

    def whole(self, ids: Prefix) -> Prefix:
        return ids[: len(ids) // self.page_size * self.page_size]

    def prefixes(self, ids: Prefix) -> Iterator[Prefix]:
        return (ids[:end] for end in range(self.page_size, len(ids) + 1, self.page_size))

    def longest(self, ids: Prefix) -> Prefix:
        return max((prefix for prefix in self.prefixes(ids) if prefix in self.pages), key=len, default=())

    def unit(self, end: Prefix) -> list[Prefix]:
        """Return the prefixes of the unit that ends with `end`, the shortest first."""
        before = [prefix for prefix in self.prefixes(end) if self.pages[prefix].ends_unit and prefix != end]
        start = len(before[-1]) if before else 0
        return [prefix for prefix in self.prefixes(end) if len(prefix) > start]

    def end_walk(self, found: Prefix, ids: Prefix) -> None:
        """A walk along `ids` got as far as `found`. If that is inside a unit, both halves are used, the rear first."""
        if not found or self.pages[found].ends_unit:
            return
        rear = min((p for p, page in self.pages.items() if page.ends_unit and p[: len(found)] == found), key=len)
        self.pages[found].ends_unit = True
        self.pages[rear].last_use = self.tick()

    def use(self, ids: Prefix) -> None:
        for prefix in reversed(list(self.prefixes(ids))):
            self.pages[prefix].last_use = self.tick()

    def tick(self) -> int:
        self.time += 1
        return self.time

    def birth(self, prefix: Prefix) -> int:
        if not prefix:
            return -self.resets
        return self.pages[prefix].birth if prefix in self.pages else 0

    def hold(self, prefix: Prefix) -> Held:
        return Held(prefix, self.birth(prefix))
