// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:01188e2eb30a

#pragma once

#include <minisgl/radix_node.h>

namespace minisgl {

/// The unlocked nodes in the order of their last use.
///
/// Whoever uses a path moves its nodes to the newest end, the deepest first. So a node always stands behind all nodes
/// below it, and the oldest node is a leaf: nobody ever has to look for one.
class LruList {
 public:
  LruList() { clear(); }
  LruList(const LruList&) = delete;
  LruList& operator=(const LruList&) = delete;

  void clear() { end_.older = end_.newer = &end_; }

  void push_newest(RadixNode* node) {
    node->older = end_.older;
    node->newer = &end_;
    node->older->newer = node->newer->older = node;
  }

  void remove(RadixNode* node) {
    node->older->newer = node->newer;
    node->newer->older = node->older;
    node->older = node->newer = nullptr;
  }

  void move_to_newest(RadixNode* node) {
    remove(node);
    push_newest(node);
  }

  /// From the oldest to the newest: `for (node = oldest(); node != end(); node = node->newer)`.
  RadixNode* oldest() const { return end_.newer; }
  const RadixNode* end() const { return &end_; }

 private:
  RadixNode end_;  // closes the ring
};

}  // namespace minisgl
