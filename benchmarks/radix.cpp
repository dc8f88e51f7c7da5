// The ladder of radix.py: ways to compare two arrays, and reading both without comparing. Each is called so many times
// per call from Python that Python does not matter.
#include <minisgl/common_prefix.h>
#include <minisgl/ffi.h>
#include <minisgl/tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace minisgl::bench {

template <class T>
using Compare = int64_t (*)(const T*, const T*, int64_t);

template <class T>
[[gnu::noinline]] int64_t mismatch(const T* x, const T* y, int64_t size) {
  return std::mismatch(x, x + size, y).first - x;
}

template <class T>
[[gnu::noinline]] int64_t memcmp_blocks(const T* x, const T* y, int64_t size) {
  constexpr int64_t kBlock = 512 / sizeof(T);
  int64_t i = 0;
  while (i + kBlock <= size && std::memcmp(x + i, y + i, kBlock * sizeof(T)) == 0) i += kBlock;
  while (i < size && x[i] == y[i]) ++i;
  return i;
}

using Vector16 [[gnu::vector_size(16)]] = uint64_t;
using Vector32 [[gnu::vector_size(32)]] = uint64_t;
using Vector64 [[gnu::vector_size(64)]] = uint64_t;

/// Read both arrays into `kSums` sums each.
template <class Vector, int kSums, class T>
[[gnu::always_inline]] inline int64_t read_both(const T* x, const T* y, int64_t size) {
  constexpr int64_t kStep = kSums * sizeof(Vector) / sizeof(T);
  constexpr int64_t kVector = sizeof(Vector) / sizeof(T);
  Vector x_sums[kSums]{}, y_sums[kSums]{};
  const auto add = [](Vector& sum, const T* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(Vector));
    sum ^= vector;
  };
  int64_t i = 0;
  for (; i + kStep <= size; i += kStep) {
    for (int sum = 0; sum < kSums; ++sum) add(x_sums[sum], x + i + sum * kVector);
    for (int sum = 0; sum < kSums; ++sum) add(y_sums[sum], y + i + sum * kVector);
  }
  for (; i + kVector <= size; i += kVector) {
    add(x_sums[0], x + i);
    add(y_sums[0], y + i);
  }
  Vector total = x_sums[0] ^ y_sums[0];
  for (int sum = 1; sum < kSums; ++sum) total ^= x_sums[sum] ^ y_sums[sum];
  return total[0];
}

template <class T, int kSums>
int64_t read16(const T* x, const T* y, int64_t size) {
  return read_both<Vector16, kSums>(x, y, size);
}

#if defined(__x86_64__)
template <class T, int kSums>
[[gnu::target("avx2")]] int64_t read32(const T* x, const T* y, int64_t size) {
  return read_both<Vector32, kSums>(x, y, size);
}

template <class T, int kSums>
[[gnu::target("avx512f")]] int64_t read64(const T* x, const T* y, int64_t size) {
  return read_both<Vector64, kSums>(x, y, size);
}
#endif

template <class T, int kSums>
Compare<T> read_with([[maybe_unused]] VectorUnit unit) {
#if defined(__x86_64__)
  if (unit == VectorUnit::kAvx512) return read64<T, kSums>;
  if (unit == VectorUnit::kAvx2) return read32<T, kSums>;
#endif
  return read16<T, kSums>;
}

template <class T>
int64_t call(int64_t (*compare)(const T*, const T*, int64_t), TensorView x, TensorView y, int64_t num_calls) {
  int64_t result = 0;
  for (int64_t i = 0; i < num_calls; ++i) {
    const auto* x_data = static_cast<const T*>(x.data());
    const auto* y_data = static_cast<const T*>(y.data());
    asm volatile("" : "+r"(x_data), "+r"(y_data)::"memory");  // no call can be left out for being like the last one
    result = compare(x_data, y_data, x.size(0));
  }
  return result;
}

/// `choose.template operator()<T>()` returns the function for int32 or int64.
template <class Choose>
int64_t call_any(Choose choose, TensorView x, TensorView y, int64_t num_calls) {
  if (x.dtype().bits == 32) return call(choose.template operator()<int32_t>(), x, y, num_calls);
  return call(choose.template operator()<int64_t>(), x, y, num_calls);
}

int64_t call_mismatch(TensorView x, TensorView y, int64_t num_calls) {
  return call_any([]<class T>() -> Compare<T> { return mismatch<T>; }, x, y, num_calls);
}

int64_t call_memcmp(TensorView x, TensorView y, int64_t num_calls) {
  return call_any([]<class T>() -> Compare<T> { return memcmp_blocks<T>; }, x, y, num_calls);
}

int64_t call_unit(TensorView x, TensorView y, int64_t unit, int64_t num_calls) {
  const auto which = static_cast<VectorUnit>(unit);
  return call_any([&]<class T> { return common_prefix_on<T, T>(which); }, x, y, num_calls);
}

int64_t call_shipped(TensorView x, TensorView y, int64_t num_calls) {
  return call_any([]<class T>() -> CommonPrefix<T, T> { return common_prefix<T, T>; }, x, y, num_calls);
}

int64_t call_read(TensorView x, TensorView y, int64_t unit, int64_t num_sums, int64_t num_calls) {
  const auto which = static_cast<VectorUnit>(unit);
  const auto choose = [&]<class T>() -> Compare<T> {
    if (num_sums == 2) return read_with<T, 2>(which);
    return num_sums == 4 ? read_with<T, 4>(which) : read_with<T, 8>(which);
  };
  return call_any(choose, x, y, num_calls);
}

}  // namespace minisgl::bench

MINISGL_EXPORT(mismatch, minisgl::bench::call_mismatch)
MINISGL_EXPORT(memcmp_blocks, minisgl::bench::call_memcmp)
MINISGL_EXPORT(unit, minisgl::bench::call_unit)
MINISGL_EXPORT(shipped, minisgl::bench::call_shipped)
MINISGL_EXPORT(read, minisgl::bench::call_read)
