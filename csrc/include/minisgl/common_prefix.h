// Exported from notebooks/07_radix.md by "minisgl book export"; edit it there. sha256:603ace7b9080

#pragma once

#include <cstdint>
#include <type_traits>

namespace minisgl {

/// An integer at any address: nobody promises that a view of somebody's bytes is aligned.
template <class T>
struct [[gnu::packed, gnu::may_alias]] Unaligned {
  T value;
  operator T() const { return value; }
};

namespace common_prefix_detail {

/// Whether `kCount` elements are equal. There is no branch inside, so the compiler makes it vectors of any width.
template <int kCount, class X, class Y>
[[gnu::always_inline]] inline bool all_equal(const Unaligned<X>* x, const Unaligned<Y>* y) {
  using Word = std::conditional_t<sizeof(X) == 4 && sizeof(Y) == 4, uint32_t, uint64_t>;
  Word difference = 0;
  for (int i = 0; i < kCount; ++i) difference |= static_cast<Word>(x[i].value) ^ static_cast<Word>(y[i].value);
  return difference == 0;
}

/// The loop that every vector unit runs: blocks with one branch each, the first at any address, the others where a
/// cache line of `x` begins, the last one overlapping its neighbour.
template <class X, class Y>
[[gnu::always_inline]] inline int64_t compare_blocks(const Unaligned<X>* x, const Unaligned<Y>* y, int64_t size) {
  constexpr int kLineBytes = 64;
  constexpr int kBlock = 8 * kLineBytes / sizeof(X);
  constexpr int kStep = 8;
  int64_t i = 0;
  if (size >= kBlock && all_equal<kBlock>(x, y)) {
    i = kBlock - reinterpret_cast<uintptr_t>(x) % kLineBytes / sizeof(X);
    while (i + kBlock <= size && all_equal<kBlock>(x + i, y + i)) i += kBlock;
    if (i == size) return size;
    if (i + kBlock > size && all_equal<kBlock>(x + size - kBlock, y + size - kBlock)) return size;
  }
  while (i + kStep <= size && all_equal<kStep>(x + i, y + i)) i += kStep;
  while (i < size && x[i].value == y[i].value) ++i;
  return i;
}

template <class X, class Y>
int64_t portable(const Unaligned<X>* x, const Unaligned<Y>* y, int64_t size) {
  return compare_blocks(x, y, size);
}

#if defined(__x86_64__)
template <class X, class Y>
[[gnu::target("avx2")]] int64_t avx2(const Unaligned<X>* x, const Unaligned<Y>* y, int64_t size) {
  return compare_blocks(x, y, size);
}

template <class X, class Y>
[[gnu::target("avx512f")]] int64_t avx512(const Unaligned<X>* x, const Unaligned<Y>* y, int64_t size) {
  return compare_blocks(x, y, size);
}
#endif

}  // namespace common_prefix_detail

/// The vector units that one build of `common_prefix` can use, the widest last.
enum class VectorUnit { kPortable, kAvx2, kAvx512 };

inline const char* to_string(VectorUnit unit) {
  switch (unit) {
    case VectorUnit::kAvx2: return "avx2";
    case VectorUnit::kAvx512: return "avx512";
#if defined(__aarch64__)
    default: return "neon";  // every 64-bit Arm has it, so the portable build uses it
#else
    default: return "portable";
#endif
  }
}

/// The widest unit of the processor that this runs on.
inline VectorUnit widest_vector_unit() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return VectorUnit::kAvx512;
  if (__builtin_cpu_supports("avx2")) return VectorUnit::kAvx2;
#endif
  return VectorUnit::kPortable;
}

template <class X, class Y>
using CommonPrefix = int64_t (*)(const Unaligned<X>*, const Unaligned<Y>*, int64_t);

template <class X, class Y>
CommonPrefix<X, Y> common_prefix_on([[maybe_unused]] VectorUnit unit) {
#if defined(__x86_64__)
  if (unit == VectorUnit::kAvx512) return common_prefix_detail::avx512<X, Y>;
  if (unit == VectorUnit::kAvx2) return common_prefix_detail::avx2<X, Y>;
#endif
  return common_prefix_detail::portable<X, Y>;
}

/// The unit for lists that are read from beyond the first-level cache. Half as wide vectors keep up with it, and on an
/// AMD Zen 5 they are a sixth faster there.
inline VectorUnit far_vector_unit() {
  const auto widest = widest_vector_unit();
  return widest == VectorUnit::kAvx512 ? VectorUnit::kAvx2 : widest;
}

// Chosen when the library is loaded: a static inside the function below would be checked on every call.
template <class X, class Y>
inline const CommonPrefix<X, Y> kCommonPrefixNear = common_prefix_on<X, Y>(widest_vector_unit());
template <class X, class Y>
inline const CommonPrefix<X, Y> kCommonPrefixFar = common_prefix_on<X, Y>(far_vector_unit());

/// How many of the first `size` integers of `x` and `y` agree before they differ.
template <class X, class Y>
int64_t common_prefix(const Unaligned<X>* x, const Unaligned<Y>* y, int64_t size) {
  constexpr int64_t kNearBytes = 32 * 1024;
  const bool is_near = size * int64_t{sizeof(X) + sizeof(Y)} <= kNearBytes;
  return (is_near ? kCommonPrefixNear<X, Y> : kCommonPrefixFar<X, Y>)(x, y, size);
}

}  // namespace minisgl
