// A small matrix product through shared memory, for test_kernels.py: a thread computes 4 x 4 elements of a tile.
#include <cuda_bf16.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

struct GemmKernelParams {
  void* c;
  const void* a;
  const void* b;
  int64_t m, n, k;
  int64_t c_stride, a_stride, b_stride;
};

inline constexpr int kTileMN = 64;                     // rows and columns of a block's part of C
inline constexpr int kTileK = 16;                      // of the parts of A and B that are in shared memory at once
inline constexpr int kPerThread = 4;                   // rows and columns of C
inline constexpr int kSide = kTileMN / kPerThread;     // threads of a block, along each side
inline constexpr int kGemmNumThreads = kSide * kSide;  // 256

/// C[m, n] = A[m, k] B[k, n], summed in float.
template <class T>
__global__ __launch_bounds__(kGemmNumThreads) void gemm_kernel(const __grid_constant__ GemmKernelParams params) {
  __shared__ float a_tile[kTileK]
                         [kTileMN + 1];  // A's part lies transposed; one more column spreads its writes over the banks
  __shared__ float b_tile[kTileK][kTileMN];
  const auto& [c, a, b, m, n, k, c_stride, a_stride, b_stride] = params;
  const int64_t first_row = int64_t{blockIdx.y} * kTileMN, first_column = int64_t{blockIdx.x} * kTileMN;
  const int thread = threadIdx.x, ty = thread / kSide, tx = thread % kSide;

  float sums[kPerThread][kPerThread] = {};
  for (int64_t first_k = 0; first_k < k; first_k += kTileK) {
    for (int i = thread; i < kTileMN * kTileK; i += kGemmNumThreads) {
      const int64_t row = first_row + i / kTileK, inner = first_k + i % kTileK;
      const bool inside = row < m && inner < k;
      a_tile[i % kTileK][i / kTileK] =
          inside ? static_cast<float>(static_cast<const T*>(a)[row * a_stride + inner]) : 0.0f;
    }
    for (int i = thread; i < kTileMN * kTileK; i += kGemmNumThreads) {
      const int64_t inner = first_k + i / kTileMN, column = first_column + i % kTileMN;
      const bool inside = inner < k && column < n;
      b_tile[i / kTileMN][i % kTileMN] =
          inside ? static_cast<float>(static_cast<const T*>(b)[inner * b_stride + column]) : 0.0f;
    }
    __syncthreads();
    for (int inner = 0; inner < kTileK; ++inner) {
      float a_part[kPerThread], b_part[kPerThread];
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        a_part[i] = a_tile[inner][ty + i * kSide];
        b_part[i] = b_tile[inner][tx + i * kSide];
      }
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) sums[i][j] += a_part[i] * b_part[j];
      }
    }
    __syncthreads();  // before the tiles are filled again
  }

#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t row = first_row + ty + i * kSide, column = first_column + tx + j * kSide;
      if (row < m && column < n) static_cast<T*>(c)[row * c_stride + column] = static_cast<T>(sums[i][j]);
    }
  }
}

/// c [M, N] = a [M, K] b [K, N], rows apart as they like; bfloat16 or float32.
inline void gemm(TensorView a, TensorView b, TensorView c) {
  auto M = SymbolicSize("M"), N = SymbolicSize("N"), K = SymbolicSize("K");
  auto dtype = SymbolicDType({{kDLBfloat, 16, 1}, {kDLFloat, 32, 1}});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({M, K}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("a", a);
  TensorMatcher({K, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("b", b);
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("c", c);
  if (M.value() == 0 || N.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = GemmKernelParams{
      .c = c.data(),
      .a = a.data(),
      .b = b.data(),
      .m = M.value(),
      .n = N.value(),
      .k = K.value(),
      .c_stride = c.stride(0),
      .a_stride = a.stride(0),
      .b_stride = b.stride(0),
  };
  const auto grid = dim3(static_cast<unsigned>(div_ceil<int64_t>(N.value(), kTileMN)),
                         static_cast<unsigned>(div_ceil<int64_t>(M.value(), kTileMN)));
  auto launch = LaunchKernel(grid, kGemmNumThreads, device.value());
  if (dtype.value().bits == 32) {
    launch.run<gemm_kernel<float>>(params);
  } else {
    launch.run<gemm_kernel<__nv_bfloat16>>(params);
  }
}

}  // namespace minisgl::test
