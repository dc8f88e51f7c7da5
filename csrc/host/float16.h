// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:b287880712c8

#pragma once

// What __half and __nv_bfloat16 have in common, which is all but their format. Every operation is rounded once.
//
// Functions such as __hadd are friends defined inside the class: a call finds them by the type of an argument, and the
// other arguments may be converted, as with NVIDIA's overloads.

#include <atomics.h>
#include <math.h>
#include <rounding.h>

#include <cstdint>
#include <type_traits>

namespace minisgl::host::small_floats {

template <class F>
struct RawNumber {
  unsigned short x;
};

template <class F>
struct alignas(4) RawPair {
  unsigned short x, y;
};

/// A floating-point number of 16 bits.
template <class F>
struct Number {
  unsigned short __x;

  Number() = default;
  constexpr Number(RawNumber<F> raw) : __x(raw.x) {}
  constexpr Number(float value) : __x(narrow<F>(value)) {}
  Number(double value) : Number(round_to_odd(value)) {}
  template <class Int>
    requires std::is_integral_v<Int>
  Number(Int value) : Number(integer_to_odd(value)) {}
  template <class Other>
    requires(!std::is_same_v<F, Other>)
  explicit Number(Number<Other> value) : Number(widen<Other>(value.__x)) {}

  constexpr operator RawNumber<F>() const { return {__x}; }
  constexpr operator float() const { return widen<F>(__x); }
  template <class Int>
    requires std::is_integral_v<Int>
  operator Int() const {
    if constexpr (std::is_same_v<Int, bool>) {
      return (__x & F::kMagnitude) != 0;
    } else {
      return to_integer<Int, Rounding::kZero>(widen<F>(__x));
    }
  }

  static constexpr Number of_code(uint32_t code) { return RawNumber<F>{static_cast<unsigned short>(code)}; }

  // Arithmetic. A float has twice the bits of these formats and two more, so that rounding a sum, product or quotient to
  // float first does no harm. (Chapter 11 checks bfloat16 where its floats are subnormal and have fewer bits.)

  friend Number __hadd(Number a, Number b) { return static_cast<float>(a) + static_cast<float>(b); }
  friend Number __hsub(Number a, Number b) { return static_cast<float>(a) - static_cast<float>(b); }
  friend Number __hmul(Number a, Number b) { return static_cast<float>(a) * static_cast<float>(b); }
  friend Number __hdiv(Number a, Number b) { return static_cast<float>(a) / static_cast<float>(b); }
  friend Number __hfma(Number a, Number b, Number c) {  // the product is exact as a double
    return add_to_odd(static_cast<double>(static_cast<float>(a)) * static_cast<float>(b), static_cast<float>(c));
  }

  friend Number __hneg(Number a) { return of_code(__hisnan(a) ? F::kNaN : a.__x ^ 0x8000u); }
  friend Number __habs(Number a) { return of_code(__hisnan(a) ? F::kNaN : a.__x & F::kMagnitude); }

  // The _rn forms keep nvcc from fusing a product and a sum, which nobody does here.
  friend Number __hadd_rn(Number a, Number b) { return __hadd(a, b); }
  friend Number __hsub_rn(Number a, Number b) { return __hsub(a, b); }
  friend Number __hmul_rn(Number a, Number b) { return __hmul(a, b); }

  static Number saturate(Number a) {  // to [0, 1]; NaN becomes 0
    const float value = a;
    return value > 0 ? value < 1 ? a : Number(1.0f) : Number(0.0f);
  }
  friend Number __hadd_sat(Number a, Number b) { return saturate(__hadd(a, b)); }
  friend Number __hsub_sat(Number a, Number b) { return saturate(__hsub(a, b)); }
  friend Number __hmul_sat(Number a, Number b) { return saturate(__hmul(a, b)); }
  friend Number __hfma_sat(Number a, Number b, Number c) { return saturate(__hfma(a, b, c)); }
  friend Number __hfma_relu(Number a, Number b, Number c) { return __hmax_nan(__hfma(a, b, c), Number(0.0f)); }

  friend Number operator+(Number a, Number b) { return __hadd(a, b); }
  friend Number operator-(Number a, Number b) { return __hsub(a, b); }
  friend Number operator*(Number a, Number b) { return __hmul(a, b); }
  friend Number operator/(Number a, Number b) { return __hdiv(a, b); }
  friend Number& operator+=(Number& a, Number b) { return a = __hadd(a, b); }
  friend Number& operator-=(Number& a, Number b) { return a = __hsub(a, b); }
  friend Number& operator*=(Number& a, Number b) { return a = __hmul(a, b); }
  friend Number& operator/=(Number& a, Number b) { return a = __hdiv(a, b); }
  friend Number operator+(Number a) { return a; }
  friend Number operator-(Number a) { return __hneg(a); }
  friend Number& operator++(Number& a) { return a += Number(1.0f); }
  friend Number& operator--(Number& a) { return a -= Number(1.0f); }
  friend Number operator++(Number& a, int) {
    const Number old = a;
    ++a;
    return old;
  }
  friend Number operator--(Number& a, int) {
    const Number old = a;
    --a;
    return old;
  }

  // Comparisons. With a NaN the plain ones are false, and those that end in u (unordered) true.

  friend bool __hisnan(Number a) { return (a.__x & F::kMagnitude) > F::kOverflow; }
  friend int __hisinf(Number a) { return (a.__x & F::kMagnitude) != F::kOverflow ? 0 : a.__x >> F::kSignBit ? -1 : 1; }
  static bool unordered(Number a, Number b) { return __hisnan(a) || __hisnan(b); }

#define MINISGL_COMPARE(name, symbol)                                              \
  friend bool __h##name(Number a, Number b) {                                      \
    return !unordered(a, b) && static_cast<float>(a) symbol static_cast<float>(b); \
  }                                                                                \
  friend bool __h##name##u(Number a, Number b) { return unordered(a, b) || __h##name(a, b); }
  MINISGL_COMPARE(eq, ==)
  MINISGL_COMPARE(ne, !=)
  MINISGL_COMPARE(lt, <)
  MINISGL_COMPARE(le, <=)
  MINISGL_COMPARE(gt, >)
  MINISGL_COMPARE(ge, >=)
#undef MINISGL_COMPARE

  friend bool operator==(Number a, Number b) { return __heq(a, b); }
  friend bool operator!=(Number a, Number b) { return __hneu(a, b); }
  friend bool operator<(Number a, Number b) { return __hlt(a, b); }
  friend bool operator<=(Number a, Number b) { return __hle(a, b); }
  friend bool operator>(Number a, Number b) { return __hgt(a, b); }
  friend bool operator>=(Number a, Number b) { return __hge(a, b); }

  /// An integer that orders numbers, -0 below +0.
  static int order(Number a) { return a.__x >> F::kSignBit ? ~static_cast<int>(a.__x & F::kMagnitude) : a.__x; }

  friend Number __hmax_nan(Number a, Number b) {
    return unordered(a, b) ? of_code(F::kNaN) : order(a) < order(b) ? b : a;
  }
  friend Number __hmin_nan(Number a, Number b) {
    return unordered(a, b) ? of_code(F::kNaN) : order(b) < order(a) ? b : a;
  }
  friend Number __hmax(Number a, Number b) {  // of a number and a NaN, the number
    return !unordered(a, b) ? __hmax_nan(a, b) : !__hisnan(a) ? a : !__hisnan(b) ? b : of_code(F::kNaN);
  }
  friend Number __hmin(Number a, Number b) {
    return !unordered(a, b) ? __hmin_nan(a, b) : !__hisnan(a) ? a : !__hisnan(b) ? b : of_code(F::kNaN);
  }

  // Functions, in double: the result is that of rounding the true value once, but for a rare near-tie.

#define MINISGL_FUNCTION(name, expression)  \
  friend Number name(Number a) {            \
    const double x = static_cast<float>(a); \
    return static_cast<double>(expression); \
  }
  MINISGL_FUNCTION(hexp, exp(x))
  MINISGL_FUNCTION(hexp2, exp2(x))
  MINISGL_FUNCTION(hexp10, pow(10.0, x))
  MINISGL_FUNCTION(hlog, log(x))
  MINISGL_FUNCTION(hlog2, log2(x))
  MINISGL_FUNCTION(hlog10, log10(x))
  MINISGL_FUNCTION(hsin, sin(x))
  MINISGL_FUNCTION(hcos, cos(x))
  MINISGL_FUNCTION(htanh, tanh(x))
  MINISGL_FUNCTION(htanh_approx, tanh(x))
  MINISGL_FUNCTION(hsqrt, sqrt(x))
  MINISGL_FUNCTION(hrsqrt, 1 / sqrt(x))
  MINISGL_FUNCTION(hrcp, 1 / x)
  MINISGL_FUNCTION(hceil, ceil(x))
  MINISGL_FUNCTION(hfloor, floor(x))
  MINISGL_FUNCTION(htrunc, trunc(x))
  MINISGL_FUNCTION(hrint, rint(x))
#undef MINISGL_FUNCTION

  friend Number atomicAdd(Number* address, Number value) {
    return atomic_update(address, [value](Number old) { return __hadd(old, value); });
  }
};

/// Two floating-point numbers of 16 bits, on which everything is done side by side.
template <class F>
struct alignas(4) Pair {
  using N = Number<F>;
  N x, y;

  Pair() = default;
  constexpr Pair(N x, N y) : x(x), y(y) {}
  constexpr Pair(RawPair<F> raw) : x(RawNumber<F>{raw.x}), y(RawNumber<F>{raw.y}) {}
  constexpr operator RawPair<F>() const { return {x.__x, y.__x}; }

#define MINISGL_1(pair_name, name) \
  friend Pair pair_name(Pair a) { return {name(a.x), name(a.y)}; }
#define MINISGL_2(pair_name, name) \
  friend Pair pair_name(Pair a, Pair b) { return {name(a.x, b.x), name(a.y, b.y)}; }
#define MINISGL_3(pair_name, name) \
  friend Pair pair_name(Pair a, Pair b, Pair c) { return {name(a.x, b.x, c.x), name(a.y, b.y, c.y)}; }
  MINISGL_2(__hadd2, __hadd)
  MINISGL_2(__hsub2, __hsub)
  MINISGL_2(__hmul2, __hmul)
  MINISGL_2(__h2div, __hdiv)
  MINISGL_3(__hfma2, __hfma)
  MINISGL_1(__hneg2, __hneg)
  MINISGL_1(__habs2, __habs)
  MINISGL_2(__hadd2_rn, __hadd)
  MINISGL_2(__hsub2_rn, __hsub)
  MINISGL_2(__hmul2_rn, __hmul)
  MINISGL_2(__hadd2_sat, __hadd_sat)
  MINISGL_2(__hsub2_sat, __hsub_sat)
  MINISGL_2(__hmul2_sat, __hmul_sat)
  MINISGL_3(__hfma2_sat, __hfma_sat)
  MINISGL_3(__hfma2_relu, __hfma_relu)
  MINISGL_2(__hmax2, __hmax)
  MINISGL_2(__hmin2, __hmin)
  MINISGL_2(__hmax2_nan, __hmax_nan)
  MINISGL_2(__hmin2_nan, __hmin_nan)
  MINISGL_2(operator+, __hadd)
  MINISGL_2(operator-, __hsub)
  MINISGL_2(operator*, __hmul)
  MINISGL_2(operator/, __hdiv)
  MINISGL_1(operator-, __hneg)
  MINISGL_1(h2exp, hexp)
  MINISGL_1(h2exp2, hexp2)
  MINISGL_1(h2exp10, hexp10)
  MINISGL_1(h2log, hlog)
  MINISGL_1(h2log2, hlog2)
  MINISGL_1(h2log10, hlog10)
  MINISGL_1(h2sin, hsin)
  MINISGL_1(h2cos, hcos)
  MINISGL_1(h2tanh, htanh)
  MINISGL_1(h2tanh_approx, htanh)
  MINISGL_1(h2sqrt, hsqrt)
  MINISGL_1(h2rsqrt, hrsqrt)
  MINISGL_1(h2rcp, hrcp)
  MINISGL_1(h2ceil, hceil)
  MINISGL_1(h2floor, hfloor)
  MINISGL_1(h2trunc, htrunc)
  MINISGL_1(h2rint, hrint)
#undef MINISGL_1
#undef MINISGL_2
#undef MINISGL_3
  friend Pair operator+(Pair a) { return a; }
  friend Pair& operator+=(Pair& a, Pair b) { return a = a + b; }
  friend Pair& operator-=(Pair& a, Pair b) { return a = a - b; }
  friend Pair& operator*=(Pair& a, Pair b) { return a = a * b; }
  friend Pair& operator/=(Pair& a, Pair b) { return a = a / b; }
  friend Pair __hcmadd(Pair a, Pair b, Pair c) {  // complex a * b + c
    return {__hfma(-a.y, b.y, __hfma(a.x, b.x, c.x)), __hfma(a.y, b.x, __hfma(a.x, b.y, c.y))};
  }

  // A comparison comes as two numbers 0 or 1, as one bool, or as a mask.
#define MINISGL_COMPARE(name)                                                                        \
  friend Pair __h##name##2(Pair a, Pair b) {                                                         \
    return {N(static_cast<float>(__h##name(a.x, b.x))), N(static_cast<float>(__h##name(a.y, b.y)))}; \
  }                                                                                                  \
  friend bool __hb##name##2(Pair a, Pair b) { return __h##name(a.x, b.x) && __h##name(a.y, b.y); }   \
  friend unsigned __h##name##2_mask(Pair a, Pair b) {                                                \
    return (__h##name(a.x, b.x) ? 0xffffu : 0) | (__h##name(a.y, b.y) ? 0xffff0000u : 0);            \
  }
  MINISGL_COMPARE(eq)
  MINISGL_COMPARE(ne)
  MINISGL_COMPARE(lt)
  MINISGL_COMPARE(le)
  MINISGL_COMPARE(gt)
  MINISGL_COMPARE(ge)
  MINISGL_COMPARE(equ)
  MINISGL_COMPARE(neu)
  MINISGL_COMPARE(ltu)
  MINISGL_COMPARE(leu)
  MINISGL_COMPARE(gtu)
  MINISGL_COMPARE(geu)
#undef MINISGL_COMPARE
  friend Pair __hisnan2(Pair a) { return {N(static_cast<float>(__hisnan(a.x))), N(static_cast<float>(__hisnan(a.y)))}; }
  friend bool operator==(Pair a, Pair b) { return __hbeq2(a, b); }
  friend bool operator!=(Pair a, Pair b) { return __hbneu2(a, b); }
  friend bool operator<(Pair a, Pair b) { return __hblt2(a, b); }
  friend bool operator<=(Pair a, Pair b) { return __hble2(a, b); }
  friend bool operator>(Pair a, Pair b) { return __hbgt2(a, b); }
  friend bool operator>=(Pair a, Pair b) { return __hbge2(a, b); }

  friend float __low2float(Pair a) { return a.x; }
  friend float __high2float(Pair a) { return a.y; }
  friend Pair __lowhigh2highlow(Pair a) { return {a.y, a.x}; }

  friend Pair atomicAdd(Pair* address, Pair value) {
    return atomic_update(address, [value](Pair old) { return __hadd2(old, value); });
  }
};

}  // namespace minisgl::host::small_floats

// The functions that have the format in their name: `name` is half or bfloat16, F its format. Include it in
// cuda_fp16.h and cuda_bf16.h, and undefine it there.
#define MINISGL_FLOAT16(name, type, F)                                                             \
  inline type __float2##name(float x) { return x; }                                                \
  inline type __double2##name(double x) { return x; }                                              \
  inline float __##name##2float(type x) { return x; }                                              \
  inline short __##name##_as_short(type x) { return static_cast<short>(x.__x); }                   \
  inline unsigned short __##name##_as_ushort(type x) { return x.__x; }                             \
  inline type __short_as_##name(short x) { return type::of_code(static_cast<unsigned short>(x)); } \
  inline type __ushort_as_##name(unsigned short x) { return type::of_code(x); }                    \
  inline signed char __##name##2char_rz(type x) { return x; }                                      \
  inline unsigned char __##name##2uchar_rz(type x) { return x; }                                   \
  MINISGL_FLOAT16_ROUNDED(name, type, F, rn, kNearest)                                             \
  MINISGL_FLOAT16_ROUNDED(name, type, F, rz, kZero)                                                \
  MINISGL_FLOAT16_ROUNDED(name, type, F, ru, kUp)                                                  \
  MINISGL_FLOAT16_ROUNDED(name, type, F, rd, kDown)                                                \
  inline type##2 make_##name##2(type x, type y) { return {x, y}; }                                 \
  inline type##2 __halves2##name##2(type x, type y) { return {x, y}; }                             \
  inline type##2 __##name##2##name##2(type x) { return {x, x}; }                                   \
  inline type##2 __float2##name##2_rn(float x) { return {x, x}; }                                  \
  inline type##2 __floats2##name##2_rn(float x, float y) { return {x, y}; }                        \
  inline type##2 __float22##name##2_rn(float2 a) { return {a.x, a.y}; }                            \
  inline float2 __##name##22float2(type##2 a) { return {a.x, a.y}; }                               \
  inline type __low2##name(type##2 a) { return a.x; }                                              \
  inline type __high2##name(type##2 a) { return a.y; }                                             \
  inline type##2 __low2##name##2(type##2 a) { return {a.x, a.x}; }                                 \
  inline type##2 __high2##name##2(type##2 a) { return {a.y, a.y}; }                                \
  inline type##2 __lows2##name##2(type##2 a, type##2 b) { return {a.x, b.x}; }                     \
  inline type##2 __highs2##name##2(type##2 a, type##2 b) { return {a.y, b.y}; }

#define MINISGL_FLOAT16_ROUNDED(name, type, F, suffix, mode)                          \
  inline type __float2##name##_##suffix(float x) {                                    \
    return type::of_code(minisgl::host::narrow<F, minisgl::host::Rounding::mode>(x)); \
  }                                                                                   \
  MINISGL_FLOAT16_INTEGER(name, type, short, short, suffix, mode)                     \
  MINISGL_FLOAT16_INTEGER(name, type, ushort, unsigned short, suffix, mode)           \
  MINISGL_FLOAT16_INTEGER(name, type, int, int, suffix, mode)                         \
  MINISGL_FLOAT16_INTEGER(name, type, uint, unsigned, suffix, mode)                   \
  MINISGL_FLOAT16_INTEGER(name, type, ll, long long, suffix, mode)                    \
  MINISGL_FLOAT16_INTEGER(name, type, ull, unsigned long long, suffix, mode)

#define MINISGL_FLOAT16_INTEGER(name, type, integer, Int, suffix, mode)                              \
  inline type __##integer##2##name##_##suffix(Int x) {                                               \
    return __float2##name##_##suffix(minisgl::host::round_to_odd(minisgl::host::integer_to_odd(x))); \
  }                                                                                                  \
  inline Int __##name##2##integer##_##suffix(type x) {                                               \
    return minisgl::host::to_integer<Int, minisgl::host::Rounding::mode>(static_cast<float>(x));     \
  }
