// Arithmetic of the double of NCCL: all of its dtypes and operations, element by element, in the order of the ranks.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace fake {

enum RedOp { kSum, kProd, kMax, kMin, kAvg, kNumOps };

enum DataType {
  kInt8,
  kUint8,
  kInt32,
  kUint32,
  kInt64,
  kUint64,
  kFloat16,
  kFloat32,
  kFloat64,
  kBfloat16,
  kFloat8e4m3,
  kFloat8e5m2,
  kNumTypes
};

inline size_t size_of(int type) {
  constexpr size_t kSizes[kNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return kSizes[type];
}

/// bfloat16: the upper half of a float, rounded to the nearest, ties to even.
struct Bfloat16 {
  uint16_t bits;
  float load() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
  static Bfloat16 store(float value) {
    const auto wide = std::bit_cast<uint32_t>(value);
    if (std::isnan(value)) return {0x7fc0};
    return {static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
  }
};

/// A float of 8 bits. The codes of positive numbers are in the order of their values, which a search makes use of.
template <int kMantissaBits, int kBias, uint8_t kLargest, uint8_t kBeyond>
struct Float8 {
  uint8_t bits;

  static float value_of(int code) {
    const int exponent = code >> kMantissaBits, mantissa = code & ((1 << kMantissaBits) - 1);
    if (exponent == 0) return std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissaBits);
    return std::ldexp(static_cast<float>((1 << kMantissaBits) + mantissa), exponent - kBias - kMantissaBits);
  }

  float load() const {
    const int code = bits & 0x7f;
    const float infinity = std::numeric_limits<float>::infinity();
    const bool is_infinity = code == kBeyond && kBeyond == 0x7c;
    const float size = code <= kLargest ? value_of(code) : is_infinity ? infinity : std::nanf("");
    return bits & 0x80 ? -size : size;
  }

  static Float8 store(float value) {
    const auto sign = static_cast<uint8_t>(std::signbit(value) ? 0x80 : 0);
    const float size = std::fabs(value);
    if (std::isnan(value)) return {static_cast<uint8_t>(sign | 0x7f)};
    int code = 0;
    for (int bit = 64; bit; bit /= 2)
      if (value_of(code + bit) <= size) code += bit;
    const float below = value_of(code), above = value_of(code + 1);
    if (size - below > above - size || (size - below == above - size && code % 2)) ++code;
    return {static_cast<uint8_t>(sign | (code > kLargest ? kBeyond : code))};
  }
};

using Float8e4m3 = Float8<3, 7, 0x7e, 0x7f>;   // beyond the largest there is only NaN
using Float8e5m2 = Float8<2, 15, 0x7b, 0x7c>;  // or infinity

template <class T>
T combine(T a, T b, int op) {
  if constexpr (std::is_integral_v<T>) {  // of integers only the low bits count: no overflow
    using U = std::make_unsigned_t<T>;
    const auto x = static_cast<uint64_t>(static_cast<U>(a)), y = static_cast<uint64_t>(static_cast<U>(b));
    if (op == kSum || op == kAvg) return static_cast<T>(x + y);
    if (op == kProd) return static_cast<T>(x * y);
  } else {
    if (op == kSum || op == kAvg) return a + b;
    if (op == kProd) return a * b;
  }
  return op == kMax ? std::max(a, b) : std::min(a, b);
}

/// Types that C++ knows; the others have `load` and `store`.
template <class T>
constexpr bool kIsNative = std::is_arithmetic_v<T> || std::is_same_v<T, _Float16>;

template <class T, class Wide>
Wide load(const char* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  if constexpr (kIsNative<T>)
    return static_cast<Wide>(value);
  else
    return value.load();
}

template <class T, class Wide>
void store(char* address, Wide wide) {
  T value;
  if constexpr (kIsNative<T>)
    value = static_cast<T>(wide);
  else
    value = T::store(wide);
  std::memcpy(address, &value, sizeof(T));
}

template <class T, class Wide>
void reduce_as(char* output, const std::vector<const char*>& inputs, size_t count, int op) {
  for (size_t i = 0; i < count * sizeof(T); i += sizeof(T)) {
    auto total = load<T, Wide>(inputs[0] + i);
    for (size_t r = 1; r < inputs.size(); ++r) total = combine(total, load<T, Wide>(inputs[r] + i), op);
    if (op == kAvg) total = static_cast<Wide>(total / static_cast<Wide>(inputs.size()));
    store<T>(output + i, total);
  }
}

inline void reduce(char* output, const std::vector<const char*>& inputs, size_t count, int type, int op) {
  switch (type) {
    case kInt8: return reduce_as<int8_t, int8_t>(output, inputs, count, op);
    case kUint8: return reduce_as<uint8_t, uint8_t>(output, inputs, count, op);
    case kInt32: return reduce_as<int32_t, int32_t>(output, inputs, count, op);
    case kUint32: return reduce_as<uint32_t, uint32_t>(output, inputs, count, op);
    case kInt64: return reduce_as<int64_t, int64_t>(output, inputs, count, op);
    case kUint64: return reduce_as<uint64_t, uint64_t>(output, inputs, count, op);
    case kFloat16: return reduce_as<_Float16, float>(output, inputs, count, op);
    case kFloat32: return reduce_as<float, float>(output, inputs, count, op);
    case kFloat64: return reduce_as<double, double>(output, inputs, count, op);
    case kBfloat16: return reduce_as<Bfloat16, float>(output, inputs, count, op);
    case kFloat8e4m3: return reduce_as<Float8e4m3, float>(output, inputs, count, op);
    case kFloat8e5m2: return reduce_as<Float8e5m2, float>(output, inputs, count, op);
  }
}

}  // namespace fake
