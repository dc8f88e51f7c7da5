"""SGLang's tree core, written in Rust, called through its own binding as SGLang's adapter calls it.

It is found as the package `sglang` (tried: 0.5.23) on Python's import path, without being imported: its extension loads
alone. It must be built for this version of Python.
"""

import importlib.util
from array import array
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from types import ModuleType

import torch  # the extension links against torch's libraries: they have to be loaded first
from gpu_peers import package_folder

FULL_ATTENTION = 0  # the binding's number of the component that holds the KV cache of full attention


def load_binding() -> ModuleType:
    """Raises ImportError."""
    file = f"srt/mem_cache/rust_tree_core/mem_cache{EXTENSION_SUFFIXES[0]}"
    path = package_folder("sglang", file) / file
    loader = ExtensionFileLoader("mem_cache", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mem_cache", loader))
    loader.exec_module(module)
    return module


class SGLangCore:
    def __init__(self, binding: ModuleType, page_size: int) -> None:
        self.match_params = binding.MatchParamsBinding
        self.insert_params = binding.InsertParamsBinding
        self.unlock_params = binding.DecLockRefParamsBinding
        start = binding.TreeCoreInitParamsBinding(eviction_policy="lru", page_size=page_size, device="cpu")
        self.tree = binding.RustUnifiedTreeCoreBinding(start, [FULL_ATTENTION])
        self.root = self.tree.root_node_handle()

    def match(self, ids: array) -> tuple[int, int]:
        """Return the number of tokens found and the node where they end."""
        result = self.tree.match_prefix(self.match_params(ids))
        return result.device_prefix_len, result.last_device_node_id

    def insert(self, ids: array, indices: torch.Tensor, matched: int) -> int:
        """Return the number of tokens that were there before; the indices of `matched` of them are not handed back."""
        return self.tree.insert(self.insert_params(ids, indices, prev_prefix_len=matched)).prefix_len

    def lock(self, node: int) -> None:
        self.tree.inc_lock_ref(node)

    def unlock(self, node: int) -> None:
        self.tree.dec_lock_ref(node, self.unlock_params(node))

    def evict(self, size: int) -> list[torch.Tensor]:
        """Free whole leaves, least recently used first, until at least `size` tokens are free."""
        tree, freed, count = self.tree, [], 0
        tree.evict_device_start(FULL_ATTENTION, size)
        while (leaf := tree.evict_device_next_node(FULL_ATTENTION, {FULL_ATTENTION: count}).node_id) is not None:
            result = tree.evict_device_leaf(leaf)
            count += result.tracker[FULL_ATTENTION]
            freed += result.new_device_frees[FULL_ATTENTION]
        tree.evict_device_end(FULL_ATTENTION)
        return freed

    def matched_indices(self, node: int) -> torch.Tensor:
        return self.tree.collect_full_device_indices(node, self.root)
