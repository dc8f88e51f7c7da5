// Several threads on one radix tree. The index that a thread inserts for a token is a hash of all tokens up to it, so
// that every thread knows what it must read, whoever wrote it.

#include <minisgl/radix_tree.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using minisgl::RadixPath;
using minisgl::RadixTree;
using minisgl::TokenView;

constexpr int kThreads = 4;
constexpr int64_t kPage = 2;
constexpr int64_t kRoom = 3000;

std::atomic<int64_t> inserted, evicted;
std::atomic<bool> has_reset;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

struct Ids {
  std::vector<int32_t> tokens;
  std::vector<int64_t> indices;

  void append(int32_t token) {
    const auto last = indices.empty() ? 0 : indices.back();
    tokens.push_back(token);
    indices.push_back(static_cast<int64_t>((static_cast<uint64_t>(last) ^ token) * 0x9E3779B97F4A7C15 >> 1));
  }
  TokenView view() const { return {tokens.data(), static_cast<int64_t>(tokens.size()), false}; }
};

struct Worker {
  RadixTree& tree;
  std::minstd_rand random;
  int32_t name;
  bool may_reset;

  int64_t below(int64_t end) { return static_cast<int64_t>(random() % end); }

  /// Ids of all threads, or of this one; few different ones, so that paths part and meet.
  Ids some_ids() {
    Ids ids;
    ids.append(below(3) ? 0 : name);
    for (auto length = below(40); length > 0; --length) ids.append(static_cast<int32_t>(below(8) / 7));
    return ids;
  }

  void read(const RadixPath& path, const Ids& ids) {
    std::vector<int64_t> indices;
    tree.copy_indices(path, [&](int64_t size, int) -> void* {
      indices.resize(size);
      return indices.data();
    });
    check(std::equal(indices.begin(), indices.end(), ids.indices.begin()), "other indices than inserted");
  }

  void evict_some() {
    int64_t freed = 0;
    std::vector<int64_t> indices;
    try {
      tree.evict(below(300), [&](int64_t size, int) -> void* {
        freed = size;
        indices.resize(size);
        return indices.data();
      });
      evicted += freed;
    } catch (const minisgl::Error& error) {  // another thread has locked, or evicted, what was there
      check(std::string(error.what()).starts_with("size: expected at most"), error.what());
    }
  }

  void request() {
    auto ids = some_ids();
    auto path = tree.match(ids.view(), /*lock=*/true);
    read(path, ids);
    if (below(2)) tree.lock(path), tree.unlock(path);
    for (auto length = below(40); length > 0; --length) ids.append(static_cast<int32_t>(below(4) / 3));
    if (tree.sizes().evictable_tokens > kRoom) evict_some();
    if (below(4)) {
      const auto result = tree.insert_and_unlock(ids.view(), ids.indices.data(), 8, path);
      inserted += result.path.length - result.length_before;
    } else {
      const auto result = tree.insert(ids.view(), ids.indices.data(), 8);
      inserted += result.path.length - result.length_before;
      tree.unlock(path);
    }
  }

  void run(int requests) {
    for (int i = 0; i < requests; ++i) {
      try {
        request();
        if (below(20) == 0) evict_some();
        if (below(50) == 0) tree.check_integrity();
        if (may_reset && below(200) == 0) {
          has_reset = true;
          tree.reset();
        }
      } catch (const minisgl::Error& error) {
        check(has_reset && std::string(error.what()).starts_with("handle: is stale"), error.what());
      }
    }
  }
};

void run_threads(RadixTree& tree, int requests, bool may_reset) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back(
        [&tree, i, requests, may_reset] { Worker{tree, std::minstd_rand(i + 1), i + 1, may_reset}.run(requests); });
  }
  for (auto& thread : threads) thread.join();
  tree.check_integrity();
}

/// Memory for the result of `evict` may run out; then nothing is evicted, and nobody waits for the mutex for ever.
void evict_without_memory(RadixTree& tree) {
  const auto before = tree.sizes();
  try {
    tree.evict(before.evictable_tokens, [](int64_t, int) -> void* { throw std::bad_alloc(); });
    check(false, "no exception came through");
  } catch (const std::bad_alloc&) {
  }
  tree.check_integrity();
  check(tree.sizes().evictable_tokens == before.evictable_tokens, "tokens were evicted in vain");
}

}  // namespace

int main(int, char** arguments) {
  const auto requests = std::atoi(arguments[1]);
  RadixTree tree(kPage);
  run_threads(tree, requests, /*may_reset=*/false);
  const auto sizes = tree.sizes();
  check(sizes.protected_tokens == 0, "a lock was lost");
  check(sizes.evictable_tokens == inserted - evicted, "tokens were lost");
  check(sizes.counters.tokens_inserted == inserted && sizes.counters.tokens_evicted == evicted, "a wrong counter");
  check(sizes.counters.lookups == int64_t{kThreads} * requests, "a wrong number of lookups");
  check(evicted > 0 && sizes.counters.hits > 0, "nothing was evicted, or nothing found");

  evict_without_memory(tree);
  run_threads(tree, requests, /*may_reset=*/true);
  tree.reset();
  check(tree.sizes().num_nodes == 0 && tree.sizes().array_bytes == 0, "something is left");
  std::printf("%d threads, %d tokens inserted, %d evicted\n", kThreads, static_cast<int>(inserted),
              static_cast<int>(evicted));
}
