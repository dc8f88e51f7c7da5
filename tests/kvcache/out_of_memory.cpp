// Random calls on a radix tree of which some run out of memory, at any of their allocations. The linker sends these
// here: see test_out_of_memory.py.

#include <minisgl/radix_tree.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace {

int allocations_left = -1;  // until one fails; negative: none does

bool fails() { return allocations_left >= 0 && allocations_left-- == 0; }

}  // namespace

extern "C" {
void* __real_malloc(size_t bytes);
void* __real_realloc(void* data, size_t bytes);
void* __real__Znwm(size_t bytes);
void* __real__Znam(size_t bytes);
void* __wrap_malloc(size_t bytes) { return fails() ? nullptr : __real_malloc(bytes); }
void* __wrap_realloc(void* data, size_t bytes) { return fails() ? nullptr : __real_realloc(data, bytes); }
void* __wrap__Znwm(size_t bytes) { return fails() ? throw std::bad_alloc() : __real__Znwm(bytes); }  // operator new
void* __wrap__Znam(size_t bytes) { return fails() ? throw std::bad_alloc() : __real__Znam(bytes); }  // and new[]
}

namespace {

using minisgl::RadixPath;
using minisgl::RadixTree;
using minisgl::TokenView;

struct Trial {
  std::minstd_rand random;
  RadixTree tree;
  std::vector<RadixPath> locked;
  std::vector<int32_t> output = std::vector<int32_t>(10000);

  explicit Trial(int seed) : random(seed), tree(1 + seed % 2) {}

  int64_t below(int64_t end) { return static_cast<int64_t>(random() % end); }

  std::vector<int32_t> some_ids() {
    std::vector<int32_t> ids(below(24));
    for (auto& id : ids) id = static_cast<int32_t>(below(2));
    return ids;
  }

  /// One call, which may throw std::bad_alloc; returns how many tokens it added.
  int64_t call(const std::vector<int32_t>& ids) {
    const TokenView tokens{ids.data(), static_cast<int64_t>(ids.size()), false};
    const auto kind = below(30);
    if (kind < 12) {
      const auto result = tree.insert(tokens, ids.data(), 4);
      return result.path.length - result.length_before;
    }
    if (kind < 17) {
      tree.match(tokens, /*lock=*/false);
    } else if (kind < 20) {
      locked.push_back(tree.match(tokens, /*lock=*/true));
    } else if (kind < 25 && !locked.empty()) {
      tree.unlock(locked.back());
      locked.pop_back();
    } else if (kind < 29) {
      int64_t freed = 0;
      tree.evict(below(tree.sizes().evictable_tokens + 1), [&](int64_t size, int) -> void* {
        if (fails()) throw std::bad_alloc();
        freed = size;
        return output.data();
      });
      return -freed;
    } else {
      tree.reset();
      locked.clear();
      return -num_tokens;
    }
    return 0;
  }

  /// Returns how many calls ran out of memory.
  int run(int calls) {
    int failures = 0;
    locked.reserve(calls);
    for (int i = 0; i < calls; ++i) {
      const auto ids = some_ids();
      allocations_left = below(4) ? -1 : static_cast<int>(below(4));
      try {
        num_tokens += call(ids);
      } catch (const std::bad_alloc&) {
        failures += 1;
      }
      allocations_left = -1;
      tree.check_integrity();
      const auto sizes = tree.sizes();
      minisgl::require(sizes.evictable_tokens + sizes.protected_tokens == num_tokens, "RuntimeError",
                       "tokens came or went in a call that failed");
    }
    return failures;
  }

  int64_t num_tokens = 0;
};

}  // namespace

int main() {
  int failures = 0;
  for (int seed = 1; seed <= 200; ++seed) {
    try {
      failures += Trial(seed).run(300);
    } catch (const minisgl::Error& error) {
      std::fprintf(stderr, "seed %d: %s\n", seed, error.what());
      return 1;
    }
  }
  std::printf("%d calls ran out of memory\n", failures);
}
