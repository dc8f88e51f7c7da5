// Compares arrays that end where readable memory ends, with every vector unit, against a plain loop.

#include <minisgl/common_prefix.h>
#include <minisgl/token_run.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int64_t kMaxSize = 1100;

/// Where a page begins that cannot be read.
char* end_of_memory() {
  const auto page = sysconf(_SC_PAGESIZE);
  const auto bytes = (kMaxSize * 8 / page + 2) * page;
  void* memory = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + bytes, page, PROT_NONE) != 0) std::abort();
  return static_cast<char*>(memory) + bytes;
}

template <class T>
int64_t load(const char* array, int64_t i) {
  T value;
  std::memcpy(&value, array + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store(char* array, int64_t i, int64_t number) {
  const auto value = static_cast<T>(number);
  std::memcpy(array + i * sizeof(T), &value, sizeof(T));
}

template <class X, class Y>
int64_t expected(const char* x, const char* y, int64_t size) {
  int64_t i = 0;
  while (i < size && load<X>(x, i) == load<Y>(y, i)) ++i;
  return i;
}

/// `gap` bytes lie between the end of `x` and that of its memory: that moves it against the cache lines.
template <class X, class Y, class Compare>
int64_t check(Compare compare, int64_t gap) {
  static char* const ends[] = {end_of_memory(), end_of_memory()};
  int64_t comparisons = 0;
  for (int64_t size = 0; size <= kMaxSize; size += size < 300 ? 1 : 61) {
    auto* x = ends[0] - gap - size * sizeof(X);
    auto* y = ends[1] - size * sizeof(Y);
    for (int64_t i = 0; i < size; ++i) {
      const auto id = static_cast<int32_t>(i * 2654435761u);
      store<X>(x, i, id);
      store<Y>(y, i, id);
    }
    for (int64_t k = size; k >= 0; k -= 1 + k / 20) {
      if (k < size) store<Y>(y, k, load<Y>(y, k) ^ int64_t(uint64_t{1} << (k + size) % (8 * sizeof(Y))));
      const auto got = compare(x, y, size);
      if (got != k || got != expected<X, Y>(x, y, size)) {
        std::printf("%d and %d bytes each, size %d, gap %d, a difference at %d: got %d\n", int(sizeof(X)),
                    int(sizeof(Y)), int(size), int(gap), int(k), int(got));
        std::exit(1);
      }
      comparisons += 1;
    }
  }
  return comparisons;
}

template <class X, class Y>
int64_t check_unit(minisgl::VectorUnit unit) {
  const auto compare = [&](const char* x, const char* y, int64_t size) {
    return minisgl::common_prefix_on<X, Y>(unit)(reinterpret_cast<const minisgl::Unaligned<X>*>(x),
                                                 reinterpret_cast<const minisgl::Unaligned<Y>*>(y), size);
  };
  int64_t comparisons = 0;
  for (const int64_t gap : {0, 1, 4, 8, 28, 60}) comparisons += check<X, Y>(compare, gap);
  return comparisons;
}

template <class X, class Y>
void check_views() {
  const auto compare = [](const char* x, const char* y, int64_t size) {
    return minisgl::common_prefix({x, size, sizeof(X) == 8}, {y, size, sizeof(Y) == 8});
  };
  for (const int64_t gap : {0, 3}) check<X, Y>(compare, gap);
}

}  // namespace

int main() {
  for (int i = 0; i <= static_cast<int>(minisgl::widest_vector_unit()); ++i) {
    const auto unit = static_cast<minisgl::VectorUnit>(i);
    const auto comparisons =
        check_unit<int32_t, int32_t>(unit) + check_unit<int64_t, int64_t>(unit) + check_unit<int32_t, int64_t>(unit);
    std::printf("%s: %d comparisons\n", minisgl::to_string(unit), static_cast<int>(comparisons));
  }
  check_views<int32_t, int32_t>();
  check_views<int32_t, int64_t>();
  check_views<int64_t, int32_t>();
  check_views<int64_t, int64_t>();
}
