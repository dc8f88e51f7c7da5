// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:45f92d5c771d

#pragma once

#include <minisgl/radix_node.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace minisgl {

/// The children of all nodes in one hash table. It grows by one bucket per node (linear hashing), never by a rehash of
/// everything: no insertion is much slower than the others.
class ChildTable {
 public:
  ChildTable() {
    segments_.push_back(std::make_unique<RadixNode*[]>(kSegmentBuckets));
    clear();
  }

  /// Allocates nothing, so it cannot fail.
  void clear() {
    segments_.resize(1);
    std::fill_n(segments_.front().get(), kSegmentBuckets, nullptr);
    num_buckets_ = half_ = kSegmentBuckets;
    num_nodes_ = 0;
  }

  /// The first node under `hash` that `accept` takes, or null.
  template <class Accept>
  RadixNode* find(uint64_t hash, Accept accept) const {
    for (auto* node = bucket(hash); node; node = node->next_in_bucket) {
      if (node->hash == hash && accept(node)) return node;
    }
    return nullptr;
  }

  /// Make room for one more node, so that the next `insert` cannot fail.
  void reserve() {
    if (num_nodes_ < num_buckets_) return;
    if (num_buckets_ % kSegmentBuckets == 0) {
      segments_.push_back(std::make_unique<RadixNode*[]>(kSegmentBuckets));
    }
    auto* moved = std::exchange(at(num_buckets_ - half_), nullptr);
    ++num_buckets_;
    if (num_buckets_ == 2 * half_) half_ = num_buckets_;
    while (moved) {
      auto* node = std::exchange(moved, moved->next_in_bucket);
      link(node);
    }
  }

  void insert(RadixNode* node) {
    link(node);
    ++num_nodes_;
  }

  void erase(RadixNode* node) {
    auto** link = &bucket(node->hash);
    while (*link != node) link = &(*link)->next_in_bucket;
    *link = node->next_in_bucket;
    --num_nodes_;
  }

  uint64_t num_nodes() const { return num_nodes_; }
  int64_t bytes() const { return static_cast<int64_t>(segments_.size() * kSegmentBuckets * sizeof(RadixNode*)); }

 private:
  static constexpr uint64_t kSegmentBuckets = 256;

  void link(RadixNode* node) {
    auto*& head = bucket(node->hash);
    node->next_in_bucket = head;
    head = node;
  }

  /// Buckets from `num_buckets_ - half_` to `half_` have not been split yet and hold the nodes of two.
  RadixNode*& bucket(uint64_t hash) const {
    const auto index = hash & (2 * half_ - 1);
    return at(index < num_buckets_ ? index : index - half_);
  }

  RadixNode*& at(uint64_t index) const { return segments_[index / kSegmentBuckets][index % kSegmentBuckets]; }

  std::vector<std::unique_ptr<RadixNode*[]>> segments_;
  uint64_t num_buckets_ = 0;
  uint64_t half_ = 0;  ///< the power of two that num_buckets_ is growing away from
  uint64_t num_nodes_ = 0;
};

}  // namespace minisgl
