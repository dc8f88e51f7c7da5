// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:4905f0b03937

#pragma once

// NVIDIA's <cuda_bf16.h> for the CPU target: numbers with 8 bits of exponent, as a float has, and 7 of mantissa.

#include <cuda_fp16.h>

using __nv_bfloat16 = minisgl::host::small_floats::Number<minisgl::host::BFloat16>;
using __nv_bfloat162 = minisgl::host::small_floats::Pair<minisgl::host::BFloat16>;
using __nv_bfloat16_raw = minisgl::host::small_floats::RawNumber<minisgl::host::BFloat16>;
using __nv_bfloat162_raw = minisgl::host::small_floats::RawPair<minisgl::host::BFloat16>;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

MINISGL_FLOAT16(bfloat16, __nv_bfloat16, minisgl::host::BFloat16)

#define CUDART_INF_BF16 __ushort_as_bfloat16(0x7f80)
#define CUDART_NAN_BF16 __ushort_as_bfloat16(0x7fff)
#define CUDART_MIN_DENORM_BF16 __ushort_as_bfloat16(0x0001)
#define CUDART_MAX_NORMAL_BF16 __ushort_as_bfloat16(0x7f7f)
#define CUDART_NEG_ZERO_BF16 __ushort_as_bfloat16(0x8000)
#define CUDART_ZERO_BF16 __ushort_as_bfloat16(0x0000)
#define CUDART_ONE_BF16 __ushort_as_bfloat16(0x3f80)
