// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:04d5035bf599

#pragma once

// NVIDIA's <cuda_fp16.h> for the CPU target: numbers with 5 bits of exponent and 10 of mantissa.

#include <cuda_runtime.h>
#include <float16.h>

using __half = minisgl::host::small_floats::Number<minisgl::host::Float16>;
using __half2 = minisgl::host::small_floats::Pair<minisgl::host::Float16>;
using __half_raw = minisgl::host::small_floats::RawNumber<minisgl::host::Float16>;
using __half2_raw = minisgl::host::small_floats::RawPair<minisgl::host::Float16>;
using half = __half;
using half2 = __half2;
using __nv_half = __half;
using __nv_half2 = __half2;
using nv_half = __half;
using nv_half2 = __half2;

MINISGL_FLOAT16(half, __half, minisgl::host::Float16)

#define CUDART_INF_FP16 __ushort_as_half(0x7c00)
#define CUDART_NAN_FP16 __ushort_as_half(0x7fff)
#define CUDART_MIN_DENORM_FP16 __ushort_as_half(0x0001)
#define CUDART_MAX_NORMAL_FP16 __ushort_as_half(0x7bff)
#define CUDART_NEG_ZERO_FP16 __ushort_as_half(0x8000)
#define CUDART_ZERO_FP16 __ushort_as_half(0x0000)
#define CUDART_ONE_FP16 __ushort_as_half(0x3c00)
