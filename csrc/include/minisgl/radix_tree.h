// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:8cedc79098f5

#pragma once

#include <minisgl/child_table.h>
#include <minisgl/lru_list.h>
#include <minisgl/radix_node.h>
#include <minisgl/token_run.h>
#include <minisgl/utils.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>

namespace minisgl {

/// What an engine wants to know of a cache's past. Tokens are counted in whole pages.
struct RadixCounters {
  int64_t lookups = 0;
  int64_t hits = 0;  ///< lookups that found at least one page
  int64_t tokens_looked_up = 0;
  int64_t tokens_saved = 0;  ///< found, so their KV need not be computed
  int64_t tokens_inserted = 0;
  int64_t nodes_evicted = 0;
  int64_t tokens_evicted = 0;
};

/// A path from the root, as its holder remembers it. The node may be gone meanwhile; its serial tells.
struct RadixPath {
  uint32_t slot = 0;
  uint64_t serial = 0;
  int64_t length = 0;     ///< tokens
  int64_t num_locks = 0;  ///< how often this holder has locked it
};

/// The radix tree over token ids: which prefixes have their KV in the cache, and where.
///
/// Every function may be called from several threads at once. None is recursive, and no match, insertion, lock or eviction
/// scans the tree. If memory runs out, what was there before stays.
class RadixTree {
 public:
  explicit RadixTree(int64_t page_size) : page_size_(page_size) {
    require(page_size >= 1, "ValueError", "page_size: expected at least 1, got ", page_size);
    root_ = pool_.allocate();
  }
  ~RadixTree() { delete_runs(); }
  RadixTree(const RadixTree&) = delete;
  RadixTree& operator=(const RadixTree&) = delete;

  /// The longest prefix of `tokens` that is here, in whole pages.
  RadixPath match(TokenView tokens, bool lock) {
    const std::lock_guard guard(mutex_);
    auto path = walk({root_, 0}, whole_pages(tokens));
    use(path.node);
    counters_.lookups += 1;
    counters_.hits += path.length > 0;
    counters_.tokens_looked_up += whole_pages(tokens).size;
    counters_.tokens_saved += path.length;
    auto result = remember(path);
    if (lock) lock_path(result);
    return result;
  }

  struct Insertion {
    int64_t length_before;  ///< tokens that were here already
    RadixPath path;
  };

  /// Add `tokens` in whole pages, with one index of `index_bytes` (4 or 8) for each.
  Insertion insert(TokenView tokens, const void* indices, int index_bytes) {
    const std::lock_guard guard(mutex_);
    return insert_behind({root_, 0}, whole_pages(tokens), indices, index_bytes);
  }

  /// The same for tokens that begin with those of `finished`, which are not read again; and unlock `finished`.
  Insertion insert_and_unlock(TokenView tokens, const void* indices, int index_bytes, RadixPath& finished) {
    const std::lock_guard guard(mutex_);
    require_locked(finished);
    require_continued(finished, tokens);
    auto result = insert_behind({resolve(finished), finished.length}, whole_pages(tokens), indices, index_bytes);
    unlock_path(finished);
    return result;
  }

  void lock(RadixPath& path) {
    const std::lock_guard guard(mutex_);
    lock_path(path);
  }

  void unlock(RadixPath& path) {
    const std::lock_guard guard(mutex_);
    require_locked(path);
    unlock_path(path);
  }

  /// Evict least recently used leaves until `size` tokens are free. `allocate(num_tokens, index_bytes)` returns where
  /// their indices go; if it throws, or if `size` is more than what is evictable, everything stays.
  template <class Allocate>
  void evict(int64_t size, Allocate allocate) {
    const std::lock_guard guard(mutex_);
    require(size >= 0, "ValueError", "size: expected at least 0, got ", size);
    require(size <= evictable_size_, "RuntimeError", "size: expected at most the evictable ", evictable_size_,
            " tokens, got ", size);
    // The oldest node is a leaf, and without it the next one is: what goes is a beginning of the list.
    int64_t num_tokens = 0;
    auto* node = lru_.oldest();
    for (; num_tokens < size; node = node->newer) num_tokens += node->length;
    auto* output = static_cast<char*>(allocate(num_tokens, index_bytes()));
    while (lru_.oldest() != node) {
      auto* leaf = lru_.oldest();
      leaf->run->copy_indices(leaf->start, leaf->length, output);
      output += leaf->length * index_bytes();
      counters_.nodes_evicted += 1;
      remove_leaf(leaf);
    }
    counters_.tokens_evicted += num_tokens;
  }

  /// Write the indices of a path; `allocate` as for `evict`.
  template <class Allocate>
  void copy_indices(const RadixPath& path, Allocate allocate) const {
    const std::lock_guard guard(mutex_);
    const auto* node = resolve(path);
    auto* end = static_cast<char*>(allocate(path.length, index_bytes())) + path.length * index_bytes();
    for (; node != root_; node = node->parent) {
      end -= node->length * index_bytes();
      node->run->copy_indices(node->start, node->length, end);
    }
  }

  /// Forget everything but the counters. Every path that somebody holds is stale afterwards.
  void reset() {
    const std::lock_guard guard(mutex_);
    delete_runs();
    children_.clear();
    lru_.clear();
    pool_.clear();
    root_ = pool_.allocate();
    evictable_size_ = protected_size_ = array_bytes_ = num_runs_ = 0;
    index_bytes_ = 0;
  }

  struct Sizes {
    int64_t evictable_tokens, protected_tokens;
    int64_t num_nodes;
    int64_t array_bytes;  ///< tokens and indices
    int64_t node_bytes;   ///< all else
    RadixCounters counters;
  };

  Sizes sizes() const {
    const std::lock_guard guard(mutex_);
    return {evictable_size_, protected_size_, pool_.num_nodes() - 1, array_bytes_, node_bytes(), counters_};
  }

  /// Visit every node but the root, in no particular order: `visit(node, lru_rank)`; -1 for a locked node.
  template <class Visit>
  void for_each(Visit visit) const {
    const std::lock_guard guard(mutex_);
    visit_all(visit);
  }

  /// Throw RuntimeError if anything disagrees with anything else.
  void check_integrity() const;

 private:
  struct Path {
    RadixNode* node;
    int64_t length;
  };

  TokenView whole_pages(TokenView tokens) const { return tokens.slice(0, tokens.size / page_size_ * page_size_); }

  uint64_t hash_of(const RadixNode* parent, TokenView tokens) const {
    const auto mix = [this](uint64_t hash, uint64_t number) {
      using Product = unsigned __int128;
      const auto product = Product{hash ^ number ^ hash_key_} * 0x9E3779B97F4A7C15;  // 2^64 / golden ratio
      return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    };
    auto hash = mix(0, parent->serial);
    for (int64_t i = 0; i < page_size_; ++i) hash = mix(hash, static_cast<uint64_t>(tokens[i]));
    return hash;
  }

  /// Follow `tokens` from where `path` ends as far as they are here. If they part inside a node, it is split there.
  Path walk(Path path, TokenView tokens) {
    while (path.length < tokens.size) {
      const auto rest = tokens.from(path.length);
      int64_t length = 0;
      auto* child = children_.find(hash_of(path.node, rest), [&](const RadixNode* node) {
        if (node->parent != path.node) return false;
        length = common_prefix(node->tokens(), rest) / page_size_ * page_size_;
        return length > 0;
      });
      if (!child) break;
      const bool parts_inside = length < child->length;
      path = {parts_inside ? split(child, length) : child, path.length + length};
      if (parts_inside) break;
    }
    return path;
  }

  /// Cut `node` behind its first `length` tokens and return the new node of these; `node` keeps the rest, its children
  /// and whoever holds it. A walk that ends inside a node counts as a use of both halves.
  RadixNode* split(RadixNode* node, int64_t length) {
    children_.reserve();
    auto* front = pool_.allocate();
    children_.erase(node);
    front->run = node->run;
    front->run->add_part();
    front->start = node->start;
    front->length = length;
    front->parent = node->parent;
    front->hash = node->hash;
    front->num_locks = node->num_locks;
    children_.insert(front);

    node->start += length;
    node->length -= length;
    node->parent = front;
    node->hash = hash_of(front, node->tokens());
    children_.insert(node);
    if (node->num_locks == 0) {
      lru_.move_to_newest(node);
      lru_.push_newest(front);
      use(front->parent);
    }
    return front;
  }

  Insertion insert_behind(Path path, TokenView tokens, const void* indices, int index_bytes) {
    if (index_bytes_ && index_bytes_ != index_bytes) {
      const auto name = [](int bytes) { return bytes == 4 ? "int32" : "int64"; };
      fail("TypeError", "indices: expected ", name(index_bytes_), " as in earlier insertions, got ", name(index_bytes));
    }
    path = walk(path, tokens);
    const auto length_before = path.length;
    if (length_before < tokens.size) {
      index_bytes_ = index_bytes;
      const auto rest = tokens.from(length_before);
      path = {add_leaf(path.node, rest, static_cast<const char*>(indices) + length_before * index_bytes), tokens.size};
    }
    use(path.node);
    return {length_before, remember(path)};
  }

  RadixNode* add_leaf(RadixNode* parent, TokenView tokens, const void* indices) {
    children_.reserve();
    auto run = std::make_unique<TokenRun>(tokens, indices, index_bytes());
    auto* leaf = pool_.allocate();
    leaf->run = run.release();
    leaf->length = tokens.size;
    leaf->parent = parent;
    leaf->hash = hash_of(parent, tokens);
    children_.insert(leaf);
    lru_.push_newest(leaf);
    evictable_size_ += leaf->length;
    array_bytes_ += leaf->run->array_bytes();
    num_runs_ += 1;
    counters_.tokens_inserted += leaf->length;
    return leaf;
  }

  void remove_leaf(RadixNode* leaf) {
    children_.erase(leaf);
    lru_.remove(leaf);
    evictable_size_ -= leaf->length;
    drop_run(leaf);
    pool_.release(leaf);
  }

  void drop_run(const RadixNode* leaf) {
    auto* run = leaf->run;
    array_bytes_ -= run->array_bytes();
    if (run->remove_part()) {
      num_runs_ -= 1;
      delete run;
    } else {
      run->truncate(leaf->start);
      array_bytes_ += run->array_bytes();
    }
  }

  /// Make the nodes from `node` up the newest. The path above a locked node is locked and in no list.
  void use(RadixNode* node) {
    for (; node != root_ && node->num_locks == 0; node = node->parent) lru_.move_to_newest(node);
  }

  void lock_path(RadixPath& path) {
    auto* node = resolve(path);
    path.num_locks += 1;
    for (; node != root_; node = node->parent) {
      if (node->num_locks++ > 0) continue;
      lru_.remove(node);
      evictable_size_ -= node->length;
      protected_size_ += node->length;
    }
  }

  void unlock_path(RadixPath& path) {
    auto* node = resolve(path);
    path.num_locks -= 1;
    for (; node != root_; node = node->parent) {
      if (--node->num_locks > 0) continue;
      lru_.push_newest(node);
      evictable_size_ += node->length;
      protected_size_ -= node->length;
    }
  }

  template <class Visit>
  void visit_all(Visit visit) const;

  RadixPath remember(Path path) const { return {path.node->slot, path.node->serial, path.length}; }

  RadixNode* resolve(const RadixPath& path) const {
    auto* node = pool_.find(path.slot, path.serial);
    require(node != nullptr, "RuntimeError", "handle: is stale: its tokens were evicted, or the cache was reset");
    return node;
  }

  void require_locked(const RadixPath& path) const {
    resolve(path);
    require(path.num_locks > 0, "RuntimeError", "handle: expected one that is locked, got one that is not");
  }

  /// The last tokens of the path's last node tell a request that it does not belong to.
  void require_continued(const RadixPath& path, TokenView tokens) const {
    constexpr int64_t kTokensCompared = 16;
    require(path.length <= tokens.size, "ValueError", "input_ids: expected at least the ", path.length,
            " tokens of handle, got ", tokens.size);
    const auto* node = resolve(path);
    if (node == root_) return;
    const auto size = std::min(node->length, kTokensCompared);
    require(common_prefix(node->tokens().from(node->length - size), tokens.slice(path.length - size, size)) == size,
            "ValueError", "input_ids: expected the tokens of handle first, got others");
  }

  int index_bytes() const { return index_bytes_ ? index_bytes_ : 4; }
  int64_t node_bytes() const {
    return pool_.bytes() + children_.bytes() + num_runs_ * static_cast<int64_t>(sizeof(TokenRun));
  }

  void delete_runs() {
    pool_.for_each([](RadixNode* node) {
      if (node->run && node->run->remove_part()) delete node->run;
    });
  }

  const int64_t page_size_;
  /// Other in every tree: nobody can know token ids that all fall into one bucket.
  const uint64_t hash_key_ = std::random_device{}() * uint64_t{0x100000001} + reinterpret_cast<uintptr_t>(this);
  mutable std::mutex mutex_;
  RadixNodePool pool_;
  ChildTable children_;
  LruList lru_;
  RadixNode* root_;      ///< the first node of the pool: slot 0
  int index_bytes_ = 0;  ///< 0 before the first insertion
  int64_t evictable_size_ = 0;
  int64_t protected_size_ = 0;
  int64_t array_bytes_ = 0;  ///< tokens and indices
  int64_t num_runs_ = 0;
  RadixCounters counters_;
};

}  // namespace minisgl

#include <minisgl/radix_tree_inspection.h>  // IWYU pragma: keep
