// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:01f7e2f0d330

#pragma once

#include <minisgl/radix_tree.h>

#include <unordered_map>

namespace minisgl {

template <class Visit>
void RadixTree::visit_all(Visit visit) const {
  int64_t rank = 0;
  for (auto* node = lru_.oldest(); node != lru_.end(); node = node->newer) visit(*node, rank++);
  pool_.for_each([&](const RadixNode* node) {
    if (node != root_ && node->num_locks > 0) visit(*node, -1);
  });
}

inline void RadixTree::check_integrity() const {
  const std::lock_guard guard(mutex_);
  const auto check = [](bool holds, const char* what) {
    require(holds, "RuntimeError", "the tree is corrupt: ", what);
  };
  std::unordered_map<const RadixNode*, int64_t> locks_below, ranks;
  std::unordered_map<const TokenRun*, int64_t> parts;
  int64_t evictable = 0, locked = 0, num_nodes = 0;

  visit_all([&](const RadixNode& node, int64_t rank) {
    num_nodes += 1;
    locks_below[node.parent] += node.num_locks;
    parts[node.run] += 1;
    ranks[&node] = rank;
    (node.num_locks ? locked : evictable) += node.length;
    check(node.length > 0 && node.length % page_size_ == 0, "a node without whole pages");
    check(0 <= node.start && node.start + node.length <= node.run->size(), "a node outside its run");
    check(pool_.find(node.slot, node.serial) == &node, "a node that its slot does not lead to");
    check(pool_.find(node.parent->slot, node.parent->serial) == node.parent, "a parent that is gone");
    check(node.hash == hash_of(node.parent, node.tokens()), "a hash of other tokens");
    check(children_.find(node.hash, [&](const RadixNode* found) { return found == &node; }),
          "a child not in the table");
    check((node.num_locks == 0) == (rank >= 0), "a locked node that can be evicted");
    check(num_nodes < pool_.num_nodes(), "more nodes than there are");
  });
  visit_all([&](const RadixNode& node, int64_t rank) {
    check(node.num_locks >= locks_below[&node], "a node with fewer locks than its children");
    check(node.parent->num_locks || node.parent == root_ || ranks[node.parent] > rank, "a parent older than its child");
    check(
        node.parent == root_ || node.parent->run != node.run || node.parent->start + node.parent->length == node.start,
        "a run whose parts do not follow each other");
  });
  int64_t array_bytes = 0;
  for (const auto& [run, count] : parts) {
    check(run->num_parts() == count, "a run with a wrong number of parts");
    array_bytes += run->array_bytes();
  }
  check(evictable == evictable_size_ && locked == protected_size_, "sizes that do not add up");
  check(array_bytes == array_bytes_ && static_cast<int64_t>(parts.size()) == num_runs_, "memory that does not add up");
  check(num_nodes == pool_.num_nodes() - 1, "an unlocked node that cannot be evicted");
  check(children_.num_nodes() == static_cast<uint64_t>(num_nodes), "a table with a wrong number of children");
}

}  // namespace minisgl
