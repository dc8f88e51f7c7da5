// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:601bc3487e35

#pragma once

#include <minisgl/token_run.h>

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
  uint64_t serial = 0;  ///< never given twice; 0 while the node is free
  uint64_t hash = 0;    ///< of the parent and the first page
  RadixNode* next_in_bucket = nullptr;
  RadixNode* older = nullptr;
  RadixNode* newer = nullptr;
  uint32_t slot = 0;
  int64_t num_locks = 0;

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

  /// Free every node and the memory; no serial comes back.
  void clear() {
    slabs_.clear();
    free_ = nullptr;
    num_nodes_ = 0;
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
  int64_t bytes() const { return slabs_.size() * kSlabNodes * sizeof(RadixNode); }

 private:
  static constexpr uint32_t kSlabNodes = 64;

  void add_slab() {
    const auto first = static_cast<uint32_t>(slabs_.size() * kSlabNodes);
    auto* slab = slabs_.emplace_back(std::make_unique<RadixNode[]>(kSlabNodes)).get();
    for (auto i = kSlabNodes; i-- > 0;) {
      slab[i].slot = first + i;
      slab[i].next_in_bucket = free_;
      free_ = &slab[i];
    }
  }

  std::vector<std::unique_ptr<RadixNode[]>> slabs_;
  RadixNode* free_ = nullptr;
  uint64_t last_serial_ = 0;
  int64_t num_nodes_ = 0;
};

}  // namespace minisgl
