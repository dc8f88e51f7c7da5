// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:adfdc167e7f0

#pragma once

// How one kind of number becomes another, rounded exactly once: the arithmetic behind the float types and conversion
// intrinsics of the CPU target.

#include <math.h>

#include <cstdint>

namespace minisgl::host {

template <class To, class From>
constexpr To bits_as(From value) {
  return __builtin_bit_cast(To, value);
}

// A kernel's call of f(x) also looks for f in the namespace of x's type, which must hold nothing that CUDA has not.
namespace small_floats {

/// A floating-point format of at most 16 bits: one sign bit, and below it a code that grows with the magnitude.
template <int kExponentBits_, int kMantissaBits_, uint32_t kMaxFinite_, uint32_t kNaN_>
struct Format {
  static constexpr int kMantissaBits = kMantissaBits_;
  static constexpr int kSignBit = kExponentBits_ + kMantissaBits_;
  static constexpr int kBias = (1 << (kExponentBits_ - 1)) - 1;
  static constexpr uint32_t kMaxFinite = kMaxFinite_;
  static constexpr uint32_t kOverflow = kMaxFinite_ + 1;  ///< infinity; NaN in a format without infinities
  static constexpr uint32_t kNaN = kNaN_;
  static constexpr uint32_t kMagnitude = (1u << kSignBit) - 1;
};

using Float16 = Format<5, 10, 0x7bff, 0x7fff>;
using BFloat16 = Format<8, 7, 0x7f7f, 0x7fff>;
using E4M3 = Format<4, 3, 0x7e, 0x7f>;
using E5M2 = Format<5, 2, 0x7b, 0x7f>;

}  // namespace small_floats

using small_floats::BFloat16;
using small_floats::E4M3;
using small_floats::E5M2;
using small_floats::Float16;

/// A number of a small format as a float: always exact. A NaN becomes the GPU's one NaN; that of a bfloat16, which is
/// half a float, stays as it is.
template <class F>
constexpr float widen(uint32_t bits) {
  if constexpr (F::kBias == 127) return bits_as<float>(bits << 16);
  constexpr int kShift = 23 - F::kMantissaBits;
  constexpr uint32_t kOne = 1u << 23;  // in the exponent of a float
  constexpr uint32_t kSmallestNormal = (128u - F::kBias) * kOne;
  const uint32_t code = bits & F::kMagnitude, shifted = code << kShift;
  // A number below the smallest normal one: give it a leading one, and subtract that as a float.
  const float small = bits_as<float>(shifted + kSmallestNormal) - bits_as<float>(kSmallestNormal);
  uint32_t result = shifted < kOne ? bits_as<uint32_t>(small) : shifted + (127u - F::kBias) * kOne;
  result = code == F::kOverflow ? 0x7f800000 : result;
  result |= bits >> F::kSignBit << 31;
  constexpr uint32_t kFirstNaN = F::kOverflow == F::kNaN ? F::kNaN : F::kOverflow + 1;
  return bits_as<float>(code >= kFirstNaN ? 0x7fffffff : result);
}

/// The code of |value| in a small format, rounded to nearest, ties to even; kOverflow if it is too large. No branches.
template <class F>
constexpr uint32_t nearest_code(float value) {
  constexpr int kShift = 23 - F::kMantissaBits;
  const uint32_t magnitude = bits_as<uint32_t>(value) & 0x7fffffff;
  const uint32_t tie_to_even = (magnitude >> kShift) & 1;
  uint32_t code = (magnitude - ((127u - F::kBias) << 23) + (1u << (kShift - 1)) - 1 + tie_to_even) >> kShift;
  if constexpr (F::kBias < 127) {
    // Below the smallest normal number: a float whose last bit weighs as much as the format's does the rounding.
    constexpr uint32_t kSmallestNormal = (128u - F::kBias) << 23;
    constexpr uint32_t kRounder = kSmallestNormal + (static_cast<uint32_t>(kShift) << 23);
    const uint32_t small = bits_as<uint32_t>(bits_as<float>(magnitude) + bits_as<float>(kRounder)) - kRounder;
    code = magnitude < kSmallestNormal ? small : code;
  }
  return code < F::kOverflow ? code : F::kOverflow;
}

/// CUDA's suffixes _rn, _rz, _ru and _rd.
enum class Rounding { kNearest, kZero, kUp, kDown };

/// Whether a value that lies between two numbers of a format becomes the one farther from zero, under a directed
/// rounding.
template <Rounding kRounding, class Float>
constexpr bool rounds_away(Float value) {
  return (kRounding == Rounding::kUp && value > 0) || (kRounding == Rounding::kDown && value < 0);
}

/// A float in a small format. With `saturate`, the largest finite number stands for all beyond it.
template <class F, Rounding kRounding = Rounding::kNearest>
constexpr uint32_t narrow(float value, bool saturate = false) {
  uint32_t code = nearest_code<F>(value);
  if constexpr (kRounding != Rounding::kNearest) {
    const float magnitude = bits_as<float>(bits_as<uint32_t>(value) & 0x7fffffff), nearest = widen<F>(code);
    const bool away = rounds_away<kRounding>(value);
    code = code + (away && nearest < magnitude) - (!away && nearest > magnitude);
  }
  if (saturate && code == F::kOverflow) code = F::kMaxFinite;
  const uint32_t sign = bits_as<uint32_t>(value) >> 31 << F::kSignBit;
  return value != value ? F::kNaN : sign | code;
}

/// A double as a float. The bits of neighbouring floats of one sign are neighbouring integers.
template <Rounding kRounding>
inline float to_float(double value) {
  const auto nearest = static_cast<float>(value);
  if (kRounding == Rounding::kNearest || nearest == value || value != value) return nearest;
  const bool grew = fabs(static_cast<double>(nearest)) > fabs(value);
  const bool away = rounds_away<kRounding>(value);
  return bits_as<float>(bits_as<uint32_t>(nearest) + (away && !grew) - (!away && grew));
}

/// A double as a float that is cut off, its last bit set if anything was lost. Rounding that once more, to a format at
/// least two bits shorter, gives what rounding the double at once would: the last bit stands for all that was lost.
inline float round_to_odd(double value) {
  const float cut = to_float<Rounding::kZero>(value);
  return cut == value ? cut : bits_as<float>(bits_as<uint32_t>(cut) | 1);
}

/// The sum of two doubles, likewise cut off with the last bit set if anything was lost.
inline double add_to_odd(double a, double b) {
  const double sum = a + b, part = sum - a;
  const double lost = (a - (sum - part)) + (b - part);  // exact: Knuth's two-sum
  const auto bits = bits_as<uint64_t>(sum);
  if (bits & 1 || !(lost < 0 || lost > 0)) return sum;
  return bits_as<double>((lost > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

/// An integer as a double, likewise.
template <class Int>
inline double integer_to_odd(Int value) {
  const bool negative = value < 0;
  const auto magnitude = negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  const auto kept =
      magnitude >> 53 ? (magnitude & ~uint64_t{0xfff}) | uint64_t{(magnitude & 0xfff) != 0} << 11 : magnitude;
  return negative ? -static_cast<double>(kept) : static_cast<double>(kept);
}

/// A floating-point number as an integer, as PTX's cvt does it: out of range gives the nearest integer there is; NaN
/// gives zero, or the top bit alone if either type has 64 bits.
template <class Int, Rounding kRounding, class Float>
inline Int to_integer(Float value) {
  constexpr int kBits = 8 * sizeof(Int);
  constexpr bool kSigned = Int(-1) < Int(0);
  constexpr auto kTopBit = static_cast<Int>(uint64_t{1} << (kBits - 1));
  constexpr auto kMin = kSigned ? kTopBit : Int(0);
  constexpr auto kMax = static_cast<Int>(~kMin);
  constexpr auto kLimit = static_cast<Float>(uint64_t{1} << (kBits - 1)) * (kSigned ? 1 : 2);  // kMax + 1
  if (value != value) return sizeof(Int) == 8 || sizeof(Float) == 8 ? kTopBit : Int(0);
  const Float whole = kRounding == Rounding::kNearest ? rint(value)
                      : kRounding == Rounding::kZero  ? trunc(value)
                      : kRounding == Rounding::kUp    ? ceil(value)
                                                      : floor(value);
  if (whole >= kLimit) return kMax;
  if (whole < static_cast<Float>(kMin)) return kMin;
  return static_cast<Int>(whole);
}

}  // namespace minisgl::host
