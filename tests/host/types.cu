// One kernel for every function of the CUDA types that test_types.py checks.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

/// out[i] = Op(in[i], ...) for all i.
template <class Op, class Out, class... In>
__global__ void map_kernel(int64_t size, Out* out, const In*... in) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < size) out[i] = static_cast<Out>(Op{}(in[i]...));
}

template <class In>
using View = TensorView;

template <class Op, class Out, class... In>
void map(int64_t size, TensorView out, View<In>... in) {
  LaunchKernel(static_cast<unsigned>(div_ceil<int64_t>(size, 256)), 256, out.device())
      .template run<map_kernel<Op, Out, In...>>(size, static_cast<Out*>(out.data()),
                                                static_cast<const In*>(in.data())...);
}

#define OP(Name, ...)                                                                             \
  struct Name {                                                                                   \
    template <class A, class B = int, class C = int>                                              \
    __device__ auto operator()(A a, [[maybe_unused]] B b = {}, [[maybe_unused]] C c = {}) const { \
      return __VA_ARGS__;                                                                         \
    }                                                                                             \
  };

// Vector types. -----------------------------------------------------------------------------------------------------

template <class Scalar, class V1, class V2, class V3, class V4>
constexpr bool laid_out() {
  constexpr auto kSize = sizeof(Scalar);
  constexpr auto kWidest = kSize > 4 ? 16 : 4 * kSize;
  return sizeof(V1) == kSize && alignof(V1) == kSize && sizeof(V2) == 2 * kSize && alignof(V2) == 2 * kSize &&
         sizeof(V3) == 3 * kSize && alignof(V3) == kSize && sizeof(V4) == 4 * kSize && alignof(V4) == kWidest;
}
// CUDA 13 deprecates the vectors of 32 bytes in favour of two alignments of each.
static_assert(laid_out<signed char, char1, char2, char3, char4>());
static_assert(laid_out<unsigned char, uchar1, uchar2, uchar3, uchar4>());
static_assert(laid_out<short, short1, short2, short3, short4>());
static_assert(laid_out<unsigned short, ushort1, ushort2, ushort3, ushort4>());
static_assert(laid_out<int, int1, int2, int3, int4>());
static_assert(laid_out<unsigned, uint1, uint2, uint3, uint4>());
static_assert(laid_out<float, float1, float2, float3, float4>());
static_assert(sizeof(long2) == 16 && alignof(ulong2) == 16 && alignof(long3) == 8 && sizeof(ulong1) == 8);
static_assert(sizeof(longlong2) == 16 && alignof(ulonglong2) == 16 && alignof(longlong3) == 8);
static_assert(sizeof(double2) == 16 && alignof(double2) == 16 && alignof(double1) == 8 && sizeof(double3) == 24);
static_assert(sizeof(__half) == 2 && alignof(__half2) == 4 && alignof(__nv_bfloat162) == 4);
static_assert(sizeof(__nv_fp8_e4m3) == 1 && alignof(__nv_fp8x2_e4m3) == 2 && alignof(__nv_fp8x4_e5m2) == 4);
static_assert(dim3().x == 1 && dim3(2, 3).z == 1 && dim3(uint3{4, 5, 6}).y == 5 && uint3(dim3(7)).x == 7);

OP(MakeFloat4, make_float4(a, b, c, a + b))
OP(MakeShort2, make_short2(a, b))
OP(MakeUChar4, make_uchar4(a, b, c, 255))
OP(MakeLongLong2, make_longlong2(a, b))

// Scalars of 16 bits. -------------------------------------------------------------------------------------------------

OP(Convert, a)
OP(Add, a + b)
OP(Subtract, a - b)
OP(Multiply, a* b)
OP(Divide, a / b)
OP(Negate, -a)
OP(HAdd, __hadd(a, b))
OP(HMul, __hmul_rn(a, b))
OP(HAddSat, __hadd_sat(a, b))
OP(HFma, __hfma(a, b, c))
OP(HFmaSat, __hfma_sat(a, b, c))
OP(HFmaRelu, __hfma_relu(a, b, c))
OP(HAbs, __habs(a))
OP(HMax, __hmax(a, b))
OP(HMin, __hmin(a, b))
OP(HMaxNan, __hmax_nan(a, b))
OP(HMinNan, __hmin_nan(a, b))
OP(HIsInf, __hisinf(a))

/// One bit for each comparison.
OP(Compare, __heq(a, b) | __hne(a, b) << 1 | __hlt(a, b) << 2 | __hle(a, b) << 3 | __hgt(a, b) << 4 | __hge(a, b) << 5 |
                __hequ(a, b) << 6 | __hneu(a, b) << 7 | __hltu(a, b) << 8 | __hleu(a, b) << 9 | __hgtu(a, b) << 10 |
                __hgeu(a, b) << 11 | (a == b) << 12 | (a != b) << 13 | (a < b) << 14 | (a <= b) << 15 | (a > b) << 16 |
                (a >= b) << 17 | __hisnan(a) << 18 | static_cast<bool>(a) << 19)

OP(HExp, hexp(a))
OP(HExp2, hexp2(a))
OP(HExp10, hexp10(a))
OP(HLog, hlog(a))
OP(HLog2, hlog2(a))
OP(HLog10, hlog10(a))
OP(HSin, hsin(a))
OP(HCos, hcos(a))
OP(HTanh, htanh(a))
OP(HSqrt, hsqrt(a))
OP(HRsqrt, hrsqrt(a))
OP(HRcp, hrcp(a))
OP(HCeil, hceil(a))
OP(HFloor, hfloor(a))
OP(HTrunc, htrunc(a))
OP(HRint, hrint(a))

OP(HalfRz, __float2half_rz(a))
OP(HalfRu, __float2half_ru(a))
OP(HalfRd, __float2half_rd(a))
OP(BFloat16Rz, __float2bfloat16_rz(a))
OP(BFloat16Ru, __float2bfloat16_ru(a))
OP(BFloat16Rd, __float2bfloat16_rd(a))
OP(HalfFromDouble, __double2half(a))
OP(BFloat16FromDouble, __double2bfloat16(a))

OP(HalfFromIntRn, __int2half_rn(a))
OP(HalfFromIntRz, __int2half_rz(a))
OP(HalfFromIntRu, __int2half_ru(a))
OP(HalfFromIntRd, __int2half_rd(a))
OP(BFloat16FromLongRn, __ll2bfloat16_rn(a))
OP(BFloat16FromLongRz, __ll2bfloat16_rz(a))
OP(BFloat16FromLongRu, __ll2bfloat16_ru(a))
OP(BFloat16FromLongRd, __ll2bfloat16_rd(a))

OP(IntRn, __half2int_rn(a))
OP(IntRz, __half2int_rz(a))
OP(IntRu, __half2int_ru(a))
OP(IntRd, __half2int_rd(a))
OP(ShortRn, __half2short_rn(a))
OP(UShortRz, __half2ushort_rz(a))
OP(UIntRd, __half2uint_rd(a))
OP(UCharRz, __half2uchar_rz(a))
OP(LongRn, __bfloat162ll_rn(a))
OP(LongRd, __bfloat162ll_rd(a))
OP(ULongRz, __bfloat162ull_rz(a))

// A kernel may have functions of its own under names that the CPU target uses inside.
template <class T>
__device__ T minimum(T a, T b) {
  return a < b ? a : b;
}
template <class T>
__device__ T saturate(T a) {
  return minimum(a, T(1.0f));
}
template <class T>
__device__ unsigned short to_bits(T a) {
  return __half_as_ushort(saturate(a));
}
OP(OwnNames, to_bits(a))

// Pairs. --------------------------------------------------------------------------------------------------------------

OP(HAdd2, __hadd2(a, b))
OP(HSub2, a - b)
OP(HMul2, __hmul2(a, b))
OP(HDiv2, __h2div(a, b))
OP(HFma2, __hfma2(a, b, c))
OP(HMax2, __hmax2(a, b))
OP(HMin2, __hmin2(a, b))
OP(HNeg2, __hneg2(a))
OP(HSwap2, __lowhigh2highlow(a))
OP(HGt2, __hgt2(a, b))
OP(HLeuMask, __hleu2_mask(a, b))
OP(HAllLess, __hblt2(a, b) | (a < b) << 1 | __hbneu2(a, b) << 2 | (a != b) << 3)
OP(SumHalves, __low2float(a) + __high2float(a))

OP(PackHalf, __floats2half2_rn(a, b))
OP(PackHalf2, __float22half2_rn(make_float2(a, b)))
OP(PackBFloat16, __floats2bfloat162_rn(a, b))
OP(UnpackHalf, __half22float2(a))
OP(UnpackBFloat16, __bfloat1622float2(a))
OP(ShuffleHalf, __halves2half2(__high2half(a), __low2half(b)))
OP(ShuffleBFloat16, __halves2bfloat162(__high2bfloat16(a), __low2bfloat16(b)))
OP(LowHigh, __lows2half2(__high2half2(a), __half2half2(__ushort_as_half(__half_as_ushort(__low2half(b))))))

// 8 bits. ---------------------------------------------------------------------------------------------------------------

OP(ToE4M3, __nv_cvt_float_to_fp8(a, __NV_SATFINITE, __NV_E4M3))
OP(ToE5M2, __nv_cvt_float_to_fp8(a, __NV_SATFINITE, __NV_E5M2))
OP(ToE4M3NoSat, __nv_cvt_float_to_fp8(a, __NV_NOSAT, __NV_E4M3))
OP(ToE5M2NoSat, __nv_cvt_float_to_fp8(a, __NV_NOSAT, __NV_E5M2))
OP(DoubleToE4M3, __nv_cvt_double_to_fp8(a, __NV_SATFINITE, __NV_E4M3))
OP(HalfToE5M2, __nv_cvt_halfraw_to_fp8(a, __NV_SATFINITE, __NV_E5M2))
OP(BFloat16ToE4M3, __nv_cvt_bfloat16raw_to_fp8(a, __NV_SATFINITE, __NV_E4M3))
OP(E4M3ToHalf, __half(__nv_cvt_fp8_to_halfraw(a, __NV_E4M3)))
OP(E5M2ToHalf, __half(__nv_cvt_fp8_to_halfraw(a, __NV_E5M2)))
OP(PackE4M3, __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3))
OP(UnpackE5M2, __half2(__nv_cvt_fp8x2_to_halfraw2(a, __NV_E5M2)))

}  // namespace minisgl::test
