// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:15f60aec22c7

#pragma once

// NVIDIA's <cuda_fp8.h> for the CPU target: numbers of 8 bits, to store and to convert, not to calculate with. e4m3 has
// 4 bits of exponent, 3 of mantissa and no infinities; e5m2 is the upper half of a __half.

#include <cuda_bf16.h>

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;
using __nv_fp8x4_storage_t = unsigned;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

// The conversion functions. In a pair, x is the low byte.

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturation,
                                                __nv_fp8_interpretation_t format) {
  const bool saturate = saturation == __NV_SATFINITE;
  return static_cast<__nv_fp8_storage_t>(format == __NV_E4M3 ? minisgl::host::narrow<minisgl::host::E4M3>(x, saturate)
                                                             : minisgl::host::narrow<minisgl::host::E5M2>(x, saturate));
}
inline __nv_fp8_storage_t __nv_cvt_double_to_fp8(double x, __nv_saturation_t saturation,
                                                 __nv_fp8_interpretation_t format) {
  return __nv_cvt_float_to_fp8(minisgl::host::round_to_odd(x), saturation, format);
}
inline __nv_fp8_storage_t __nv_cvt_halfraw_to_fp8(__half_raw x, __nv_saturation_t saturation,
                                                  __nv_fp8_interpretation_t format) {
  return __nv_cvt_float_to_fp8(__half(x), saturation, format);
}
inline __nv_fp8_storage_t __nv_cvt_bfloat16raw_to_fp8(__nv_bfloat16_raw x, __nv_saturation_t saturation,
                                                      __nv_fp8_interpretation_t format) {
  return __nv_cvt_float_to_fp8(__nv_bfloat16(x), saturation, format);
}
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t format) {
  return __half(format == __NV_E4M3 ? minisgl::host::widen<minisgl::host::E4M3>(x)
                                    : minisgl::host::widen<minisgl::host::E5M2>(x));
}

#define MINISGL_PAIR_TO_FP8(name, Pair, One, convert)                                                        \
  inline __nv_fp8x2_storage_t name(Pair a, __nv_saturation_t saturation, __nv_fp8_interpretation_t format) { \
    return static_cast<__nv_fp8x2_storage_t>(convert(One{a.x}, saturation, format) |                         \
                                             convert(One{a.y}, saturation, format) << 8);                    \
  }
MINISGL_PAIR_TO_FP8(__nv_cvt_float2_to_fp8x2, float2, float, __nv_cvt_float_to_fp8)
MINISGL_PAIR_TO_FP8(__nv_cvt_double2_to_fp8x2, double2, double, __nv_cvt_double_to_fp8)
MINISGL_PAIR_TO_FP8(__nv_cvt_halfraw2_to_fp8x2, __half2_raw, __half_raw, __nv_cvt_halfraw_to_fp8)
MINISGL_PAIR_TO_FP8(__nv_cvt_bfloat16raw2_to_fp8x2, __nv_bfloat162_raw, __nv_bfloat16_raw, __nv_cvt_bfloat16raw_to_fp8)
#undef MINISGL_PAIR_TO_FP8

inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x, __nv_fp8_interpretation_t format) {
  return {__nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(x), format).x,
          __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(x >> 8), format).x};
}

// The types. All conversions are explicit, and those to 8 bits saturate.

namespace minisgl::host::small_floats {

template <__nv_fp8_interpretation_t kFormat>
struct Fp8 {
  __nv_fp8_storage_t __x;

  Fp8() = default;
  explicit Fp8(float value) : __x(__nv_cvt_float_to_fp8(value, __NV_SATFINITE, kFormat)) {}
  explicit Fp8(double value) : __x(__nv_cvt_double_to_fp8(value, __NV_SATFINITE, kFormat)) {}
  explicit Fp8(__half value) : Fp8(static_cast<float>(value)) {}
  explicit Fp8(__nv_bfloat16 value) : Fp8(static_cast<float>(value)) {}
  template <class Int>
    requires std::is_integral_v<Int>
  explicit Fp8(Int value) : Fp8(static_cast<float>(value)) {}

  explicit operator __half() const { return __nv_cvt_fp8_to_halfraw(__x, kFormat); }
  explicit operator float() const { return static_cast<__half>(*this); }
  explicit operator double() const { return static_cast<float>(*this); }
  explicit operator __nv_bfloat16() const { return static_cast<float>(*this); }
  template <class Int>
    requires std::is_integral_v<Int>
  explicit operator Int() const {
    return static_cast<__half>(*this);
  }
};

template <__nv_fp8_interpretation_t kFormat>
struct alignas(2) Fp8x2 {
  __nv_fp8x2_storage_t __x;

  Fp8x2() = default;
  explicit Fp8x2(float2 value) : __x(__nv_cvt_float2_to_fp8x2(value, __NV_SATFINITE, kFormat)) {}
  explicit Fp8x2(double2 value) : __x(__nv_cvt_double2_to_fp8x2(value, __NV_SATFINITE, kFormat)) {}
  explicit Fp8x2(__half2 value) : __x(__nv_cvt_halfraw2_to_fp8x2(value, __NV_SATFINITE, kFormat)) {}
  explicit Fp8x2(__nv_bfloat162 value) : __x(__nv_cvt_bfloat16raw2_to_fp8x2(value, __NV_SATFINITE, kFormat)) {}

  explicit operator __half2() const { return __nv_cvt_fp8x2_to_halfraw2(__x, kFormat); }
  explicit operator float2() const { return __half22float2(static_cast<__half2>(*this)); }
};

template <__nv_fp8_interpretation_t kFormat>
struct alignas(4) Fp8x4 {
  using Two = Fp8x2<kFormat>;
  __nv_fp8x4_storage_t __x;

  Fp8x4() = default;
  explicit Fp8x4(float4 value) : Fp8x4(Two(float2{value.x, value.y}), Two(float2{value.z, value.w})) {}
  explicit Fp8x4(double4 value) : Fp8x4(Two(double2{value.x, value.y}), Two(double2{value.z, value.w})) {}
  Fp8x4(__half2 low, __half2 high) : Fp8x4(Two(low), Two(high)) {}
  Fp8x4(__nv_bfloat162 low, __nv_bfloat162 high) : Fp8x4(Two(low), Two(high)) {}

  explicit operator float4() const {
    const auto part = [](unsigned bits) {
      return __half22float2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(bits), kFormat));
    };
    const float2 low = part(__x), high = part(__x >> 16);
    return {low.x, low.y, high.x, high.y};
  }

 private:
  Fp8x4(Two low, Two high) : __x(low.__x | static_cast<unsigned>(high.__x) << 16) {}
};

}  // namespace minisgl::host::small_floats

using __nv_fp8_e4m3 = minisgl::host::small_floats::Fp8<__NV_E4M3>;
using __nv_fp8_e5m2 = minisgl::host::small_floats::Fp8<__NV_E5M2>;
using __nv_fp8x2_e4m3 = minisgl::host::small_floats::Fp8x2<__NV_E4M3>;
using __nv_fp8x2_e5m2 = minisgl::host::small_floats::Fp8x2<__NV_E5M2>;
using __nv_fp8x4_e4m3 = minisgl::host::small_floats::Fp8x4<__NV_E4M3>;
using __nv_fp8x4_e5m2 = minisgl::host::small_floats::Fp8x4<__NV_E5M2>;
