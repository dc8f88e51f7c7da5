"""The radix tree as one writes it in Python, twice: over tensors, and tuned.

`PythonTree` has torch tensors as keys and a dictionary of children; an eviction collects the leaves and makes a heap of
them. The trees of engines written in Python are like it. `TunedPythonTree` is as fast as we could make the same tree:
NumPy arrays, and a heap that is kept between evictions. Both check nothing and keep no statistics.
"""

import heapq
import itertools
from typing import Any

import numpy as np
import torch


class Node:
    __slots__ = ("children", "indices", "key", "last_used", "locks", "parent", "queued")

    def __init__(self, key: Any, indices: Any, parent: "Node | None", last_used: int) -> None:
        self.key = key
        self.indices = indices
        self.parent = parent
        self.children: dict[int | bytes, Node] = {}
        self.locks = 0
        self.last_used = last_used
        self.queued = False  # only for TunedPythonTree: whether the heap holds it


class PythonTree:
    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.clock = itertools.count()
        self.root = Node(None, torch.empty(0, dtype=torch.int32), None, 0)
        self.root.locks = 1  # never a leaf to evict

    def match(self, ids: Any) -> tuple[int, Node]:
        """Return the number of tokens found and the node where they end."""
        return self._walk(ids, len(ids) - len(ids) % self.page_size)

    def insert(self, ids: Any, indices: Any) -> int:
        """Return the number of tokens that were there before."""
        length = len(ids) - len(ids) % self.page_size
        found, node = self._walk(ids, length)
        if found < length:
            key, values = self._copy(ids[found:length]), self._copy(indices[found:length])
            leaf = Node(key, values, node, next(self.clock))
            node.children[self._first_page(ids, found)] = leaf
            self._may_be_leaf(leaf)
        return found

    def lock(self, node: Node) -> None:
        while node.parent:
            node.locks += 1
            node = node.parent

    def unlock(self, node: Node) -> None:
        while node.parent:
            node.locks -= 1
            if not node.locks:
                node.last_used = next(self.clock)
                self._may_be_leaf(node)
            node = node.parent

    def evict(self, size: int) -> Any:
        """Free whole leaves, least recently used first, until at least `size` tokens are free."""
        leaves, freed, count = self._leaves(), [], 0
        while count < size:
            leaf = heapq.heappop(leaves)[-1]
            freed.append(leaf.indices)
            count += len(leaf.indices)
            parent = self._remove(leaf)
            if not (parent.locks or parent.children):
                heapq.heappush(leaves, (parent.last_used, parent))
        return torch.cat(freed)

    def matched_indices(self, node: Node) -> Any:
        return torch.cat(self._path(node))

    def _walk(self, ids: Any, length: int) -> tuple[int, Node]:
        page_size = self.page_size
        node, found = self.root, 0
        while found < length:
            child = node.children.get(self._first_page(ids, found))
            if child is None:
                break
            same = self._common_prefix(child.key, ids[found:length])
            same -= same % page_size
            child.last_used = next(self.clock)
            node = child if same == len(child.key) else self._split(child, same)
            found += same
            if node is not child:
                break
        return found, node

    def _split(self, node: Node, length: int) -> Node:
        """Put a new node with the first `length` tokens of `node` above it."""
        prefix = Node(node.key[:length], node.indices[:length], node.parent, next(self.clock))
        prefix.locks = node.locks
        node.parent.children[self._first_page(node.key, 0)] = prefix
        node.key, node.indices, node.parent = node.key[length:], node.indices[length:], prefix
        prefix.children[self._first_page(node.key, 0)] = node
        return prefix

    def _remove(self, leaf: Node) -> Node:
        """Return its parent."""
        del leaf.parent.children[self._first_page(leaf.key, 0)]
        return leaf.parent

    def _path(self, node: Node) -> list[Any]:
        path = [node.indices]
        while (node := node.parent) and node.parent:
            path.append(node.indices)
        return path[::-1]

    def _leaves(self) -> list[tuple[int, Node]]:
        leaves, nodes = [], [self.root]
        while nodes:
            node = nodes.pop()
            nodes += node.children.values()
            if not (node.locks or node.children):
                leaves.append((node.last_used, node))
        heapq.heapify(leaves)
        return leaves

    def _may_be_leaf(self, node: Node) -> None:
        pass

    def _copy(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.clone()

    def _first_page(self, ids: torch.Tensor, start: int) -> int | tuple[int, ...]:
        return int(ids[start]) if self.page_size == 1 else tuple(ids[start : start + self.page_size].tolist())

    def _common_prefix(self, x: torch.Tensor, y: torch.Tensor) -> int:
        length = min(len(x), len(y))
        differs = x[:length] != y[:length]
        first = int(differs.to(torch.uint8).argmax())
        return first if differs[first] else length


class TunedPythonTree(PythonTree):
    def __init__(self, page_size: int) -> None:
        super().__init__(page_size)
        self.root.indices = np.empty(0, np.int32)
        self.queue: list[
            tuple[int, int, Node]
        ] = []  # (last used, unique, node): a node used since moves when it is met

    def evict(self, size: int) -> np.ndarray:
        freed, count = [], 0
        while count < size:
            queued_at, _, node = heapq.heappop(self.queue)
            node.queued = False
            if queued_at != node.last_used or node.locks or node.children:
                self._may_be_leaf(node)
                continue
            freed.append(node.indices)
            count += len(node.indices)
            self._may_be_leaf(self._remove(node))
        return np.concatenate(freed)

    def matched_indices(self, node: Node) -> np.ndarray:
        return np.concatenate(self._path(node))

    def _may_be_leaf(self, node: Node) -> None:
        if not (node.queued or node.locks or node.children):
            node.queued = True
            heapq.heappush(self.queue, (node.last_used, next(self.clock), node))

    def _copy(self, ids: np.ndarray) -> np.ndarray:
        return ids.copy()

    def _first_page(self, ids: np.ndarray, start: int) -> int | bytes:
        return ids.item(start) if self.page_size == 1 else ids[start : start + self.page_size].tobytes()

    def _common_prefix(self, x: np.ndarray, y: np.ndarray) -> int:
        length = min(len(x), len(y))
        differs = x[:length] != y[:length]
        first = int(differs.argmax())
        return first if differs[first] else length
