// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:52491072af68

#pragma once

#include <minisgl/token_run.h>
#include <minisgl/utils.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace minisgl {

/// A node of the radix tree: some tokens that follow those of its parent.
struct RadixNode {
  TokenRun* run = nullptr;
  int64_t start = 0;   ///< where its tokens begin in the run
  int64_t length = 0;  ///< tokens
  RadixNode* parent = nullptr;
  uint64_t serial = 0;                  ///< never given twice; 0 while the node is free
  uint64_t hash = 0;                    ///< of the parent and the first page
  RadixNode* next_in_bucket = nullptr;  ///< of the child table; of a free node, the next free one
  RadixNode* older = nullptr;           ///< in the list of unlocked nodes; null in a locked one
  RadixNode* newer = nullptr;
  uint32_t slot = 0;      ///< its place in the pool
  int64_t num_locks = 0;  ///< of itself and of all nodes below it

  TokenView tokens() const { return run->tokens(start, length); }
};

/// Nodes in slabs, so that they never move and the pool never grows by copying.
class RadixNodePool {
 public:
  RadixNode* allocate() {
    if (!free_) add_slab();
    auto* node = free_;
    free_ = node->next_in_bucket;
    *node = {.serial = ++last_serial_, .slot = node->slot};
    ++num_nodes_;
    return node;
  }

  void release(RadixNode* node) {
    *node = {.next_in_bucket = free_, .slot = node->slot};
    free_ = node;
    --num_nodes_;
  }

  /// The node that was given `slot` and `serial`, or null if it is gone.
  RadixNode* find(uint32_t slot, uint64_t serial) const {
    if (slot >= slabs_.size() * kSlabNodes) return nullptr;
    auto* node = &slabs_[slot / kSlabNodes][slot % kSlabNodes];
    return node->serial == serial ? node : nullptr;
  }

  /// Free every node, and the memory of all but the first. Allocates nothing, so it cannot fail; no serial comes back.
  void clear() {
    slabs_.resize(1);
    free_ = nullptr;
    num_nodes_ = 0;
    free_slab(0);
  }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const auto& slab : slabs_) {
      for (uint32_t i = 0; i < kSlabNodes; ++i) {
        if (slab[i].serial) visit(&slab[i]);
      }
    }
  }

  int64_t num_nodes() const { return num_nodes_; }
  int64_t bytes() const { return static_cast<int64_t>(slabs_.size() * kSlabNodes * sizeof(RadixNode)); }

 private:
  static constexpr uint32_t kSlabNodes = 64;
  static constexpr uint64_t kMaxSlabs = (uint64_t{1} << 32) / kSlabNodes;

  void add_slab() {
    require(slabs_.size() < kMaxSlabs, "MemoryError", "a tree of more than 2^32 nodes");
    slabs_.push_back(std::make_unique<RadixNode[]>(kSlabNodes));
    free_slab(static_cast<uint32_t>(slabs_.size() - 1));
  }

  void free_slab(uint32_t index) {
    for (auto i = kSlabNodes; i-- > 0;) {
      auto* node = &slabs_[index][i];
      *node = {.next_in_bucket = free_, .slot = index * kSlabNodes + i};
      free_ = node;
    }
  }

  std::vector<std::unique_ptr<RadixNode[]>> slabs_;
  RadixNode* free_ = nullptr;
  uint64_t last_serial_ = 0;
  int64_t num_nodes_ = 0;
};

}  // namespace minisgl
