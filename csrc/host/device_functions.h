// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:b667d2efd121

#pragma once

// The functions that CUDA puts into every kernel's global scope, apart from those in which threads meet: bits, cached
// loads and stores, conversions, and mathematics. What a GPU computes fast and roughly is exact here, or nearly so.

#include <math.h>
#include <rounding.h>
#include <time.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// Bits. -------------------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

inline unsigned __brev(unsigned x) {
  x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
  x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
  x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
  return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}

/// Four bytes picked from the eight of y:x; each hexadecimal digit of `selector` is the number of one.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}

// A 64-bit number shifted, of which one half is kept. The _c forms let the shift go up to 32.
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? low : __funnelshift_l(low, high, shift);
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift) {
  return shift >= 32 ? high : __funnelshift_r(low, high, shift);
}

inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline int __double2hiint(double x) { return static_cast<int>(__double_as_longlong(x) >> 32); }
inline int __double2loint(double x) { return static_cast<int>(__double_as_longlong(x)); }
inline double __hiloint2double(int high, int low) {
  return __longlong_as_double(static_cast<long long>(high) << 32 | static_cast<unsigned>(low));
}

// Integers. ---------------------------------------------------------------------------------------------------------

inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>(static_cast<__int128>(a) * b >> 64);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __mul24(int a, int b) {  // of the low 24 bits, with their sign
  const auto low = [](int x) { return static_cast<int64_t>(static_cast<int>(static_cast<unsigned>(x) << 8) >> 8); };
  return static_cast<int>(low(a) * low(b));
}
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }

inline int __hadd(int a, int b) { return static_cast<int>((static_cast<int64_t>(a) + b) >> 1); }
inline int __rhadd(int a, int b) { return static_cast<int>((static_cast<int64_t>(a) + b + 1) >> 1); }
inline unsigned __uhadd(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) + b) >> 1); }
inline unsigned __urhadd(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) + b + 1) >> 1);
}
inline unsigned __sad(int a, int b, unsigned c) {
  return c + (a > b ? static_cast<unsigned>(a) - b : static_cast<unsigned>(b) - a);
}
inline unsigned __usad(unsigned a, unsigned b, unsigned c) { return c + (a > b ? a - b : b - a); }

// Dot products of four bytes, added to c.
inline int __dp4a(char4 a, char4 b, int c) {
  return static_cast<int>(static_cast<unsigned>(c) + a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w);
}
inline unsigned __dp4a(uchar4 a, uchar4 b, unsigned c) {
  return c + unsigned{a.x} * b.x + unsigned{a.y} * b.y + unsigned{a.z} * b.z + unsigned{a.w} * b.w;
}
inline int __dp4a(int a, int b, int c) { return __dp4a(__builtin_bit_cast(char4, a), __builtin_bit_cast(char4, b), c); }
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return __dp4a(__builtin_bit_cast(uchar4, a), __builtin_bit_cast(uchar4, b), c);
}

// Memory: a CPU has no use for hints to a GPU's caches. ---------------------------------------------------------------

#define MINISGL_LOAD(name)          \
  template <class T>                \
  inline T name(const T* address) { \
    return *address;                \
  }
#define MINISGL_STORE(name)                                     \
  template <class T>                                            \
  inline void name(T* address, std::type_identity_t<T> value) { \
    *address = value;                                           \
  }
MINISGL_LOAD(__ldg)
MINISGL_LOAD(__ldca)
MINISGL_LOAD(__ldcg)
MINISGL_LOAD(__ldcs)
MINISGL_LOAD(__ldcv)
MINISGL_LOAD(__ldlu)
MINISGL_STORE(__stcg)
MINISGL_STORE(__stcs)
MINISGL_STORE(__stwb)
MINISGL_STORE(__stwt)
#undef MINISGL_LOAD
#undef MINISGL_STORE

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_ACQ_REL); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline std::size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<std::size_t>(address); }
inline std::size_t __cvta_generic_to_global(const void* address) { return reinterpret_cast<std::size_t>(address); }

/// Nanoseconds, where a GPU counts cycles of its multiprocessor. clock() is the C library's.
inline long long clock64() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000ll + now.tv_nsec;
}
inline void __nanosleep(unsigned) {}

#ifndef __clang__  // which has it built in, as nvcc does
inline void __builtin_assume(bool) {}
#endif

// Minimum and maximum. ------------------------------------------------------------------------------------------------

// CUDA's overloads: two integers of one size, unsigned if either is; floats, of which a NaN loses and -0 < +0.
#define MINISGL_MIN_MAX(result, a_type, b_type)                                                               \
  constexpr result min(a_type a, b_type b) {                                                                  \
    return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a) : static_cast<result>(b); \
  }                                                                                                           \
  constexpr result max(a_type a, b_type b) {                                                                  \
    return static_cast<result>(a) > static_cast<result>(b) ? static_cast<result>(a) : static_cast<result>(b); \
  }
#define MINISGL_MIN_MAX_OF_SIZE(type)                          \
  MINISGL_MIN_MAX(type, type, type)                            \
  MINISGL_MIN_MAX(unsigned type, unsigned type, unsigned type) \
  MINISGL_MIN_MAX(unsigned type, type, unsigned type)          \
  MINISGL_MIN_MAX(unsigned type, unsigned type, type)
MINISGL_MIN_MAX_OF_SIZE(int)
MINISGL_MIN_MAX_OF_SIZE(long)
MINISGL_MIN_MAX_OF_SIZE(long long)
#undef MINISGL_MIN_MAX_OF_SIZE
#undef MINISGL_MIN_MAX

namespace minisgl::host {

template <class Float>
constexpr Float minimum(Float a, Float b) {
  return b != b || a < b || (a == b && __builtin_signbit(a)) ? a : b;
}

template <class Float>
constexpr Float maximum(Float a, Float b) {
  return b != b || a > b || (a == b && !__builtin_signbit(a)) ? a : b;
}

}  // namespace minisgl::host

constexpr float min(float a, float b) { return minisgl::host::minimum(a, b); }
constexpr float max(float a, float b) { return minisgl::host::maximum(a, b); }
constexpr double min(double a, double b) { return minisgl::host::minimum(a, b); }
constexpr double max(double a, double b) { return minisgl::host::maximum(a, b); }
constexpr double min(float a, double b) { return minisgl::host::minimum<double>(a, b); }
constexpr double max(float a, double b) { return minisgl::host::maximum<double>(a, b); }
constexpr double min(double a, float b) { return minisgl::host::minimum<double>(a, b); }
constexpr double max(double a, float b) { return minisgl::host::maximum<double>(a, b); }

// Mathematics. <math.h> brings expf, exp2f, tanhf, erff, fmaf, ... and their overloads for float. -----------------------

inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrtf(float x) { return static_cast<float>(1 / sqrt(static_cast<double>(x))); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }  // checked for every mantissa: rounded correctly
inline double rcbrt(double x) { return 1 / cbrt(x); }
inline float rcbrtf(float x) { return static_cast<float>(1 / cbrt(static_cast<double>(x))); }
inline float rhypotf(float x, float y) { return static_cast<float>(1 / hypot(static_cast<double>(x), y)); }
inline float normcdff(float x) { return static_cast<float>(erfc(x * -0.70710678118654752) / 2); }
inline float fdividef(float x, float y) { return x / y; }

inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline void __sincosf(float x, float* sine, float* cosine) { sincosf(x, sine, cosine); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }

inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __drcp_rn(double x) { return 1 / x; }
inline double __dsqrt_rn(double x) { return sqrt(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }

// A product of floats is exact as a double. A quotient or root that is no float lies so far from the next one that
// rounding it to a double first does not matter.
#define MINISGL_ROUNDED(suffix, mode)                                                               \
  inline float __fadd_##suffix(float a, float b) {                                                  \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(minisgl::host::add_to_odd(a, b)); \
  }                                                                                                 \
  inline float __fsub_##suffix(float a, float b) { return __fadd_##suffix(a, -b); }                 \
  inline float __fmul_##suffix(float a, float b) {                                                  \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(static_cast<double>(a) * b);      \
  }                                                                                                 \
  inline float __fmaf_##suffix(float a, float b, float c) {                                         \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(                                  \
        minisgl::host::add_to_odd(static_cast<double>(a) * b, c));                                  \
  }                                                                                                 \
  inline float __fdiv_##suffix(float a, float b) {                                                  \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(static_cast<double>(a) / b);      \
  }                                                                                                 \
  inline float __frcp_##suffix(float x) { return __fdiv_##suffix(1, x); }                           \
  inline float __fsqrt_##suffix(float x) {                                                          \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(sqrt(static_cast<double>(x)));    \
  }
MINISGL_ROUNDED(rz, kZero)
MINISGL_ROUNDED(ru, kUp)
MINISGL_ROUNDED(rd, kDown)
#undef MINISGL_ROUNDED

// Conversions between numbers, in each rounding. ------------------------------------------------------------------------

#define MINISGL_CONVERSIONS(suffix, mode)                 \
  MINISGL_FROM_FLOAT(float, suffix, mode)                 \
  MINISGL_FROM_FLOAT(double, suffix, mode)                \
  MINISGL_TO_FLOAT(int, int, suffix, mode)                \
  MINISGL_TO_FLOAT(uint, unsigned, suffix, mode)          \
  MINISGL_TO_FLOAT(ll, long long, suffix, mode)           \
  MINISGL_TO_FLOAT(ull, unsigned long long, suffix, mode) \
  inline float __double2float_##suffix(double x) { return minisgl::host::to_float<minisgl::host::Rounding::mode>(x); }
#define MINISGL_FROM_FLOAT(from, suffix, mode)           \
  MINISGL_TO_INTEGER(from, int, int, suffix, mode)       \
  MINISGL_TO_INTEGER(from, uint, unsigned, suffix, mode) \
  MINISGL_TO_INTEGER(from, ll, long long, suffix, mode)  \
  MINISGL_TO_INTEGER(from, ull, unsigned long long, suffix, mode)
#define MINISGL_TO_INTEGER(from, name, type, suffix, mode)                    \
  inline type __##from##2##name##_##suffix(from x) {                          \
    return minisgl::host::to_integer<type, minisgl::host::Rounding::mode>(x); \
  }
#define MINISGL_TO_FLOAT(name, type, suffix, mode)                                                   \
  inline float __##name##2float_##suffix(type x) {                                                   \
    return minisgl::host::to_float<minisgl::host::Rounding::mode>(minisgl::host::integer_to_odd(x)); \
  }
MINISGL_CONVERSIONS(rn, kNearest)
MINISGL_CONVERSIONS(rz, kZero)
MINISGL_CONVERSIONS(ru, kUp)
MINISGL_CONVERSIONS(rd, kDown)
#undef MINISGL_TO_FLOAT
#undef MINISGL_TO_INTEGER
#undef MINISGL_FROM_FLOAT
#undef MINISGL_CONVERSIONS

inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }
