// RMSNorm (Zhang and Sennrich, 2019), for test_kernels.py: one block per row, two passes over the row.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <cstdint>

namespace minisgl::test {

struct RMSNormKernelParams {
  void* output;
  const void* input;
  const void* weight;
  int64_t num_columns;
  int64_t output_stride;
  int64_t input_stride;
  float epsilon;
};

/// `kSize` elements that are loaded and stored in one instruction.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Vector {
  T values[kSize];
};

/// Add up `value` over the threads of a block; every thread gets the sum.
template <int kNumThreads>
__device__ __forceinline__ float block_sum(float value) {
  constexpr int kNumWarps = kNumThreads / kWarpSize;
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, distance);
  }
  if constexpr (kNumWarps == 1) return value;
  __shared__ float warp_sums[kNumWarps];
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  // Every thread adds the few sums itself: that is cheaper than a second round of shuffles and a second barrier.
  float sum = 0;
  for (int warp = 0; warp < kNumWarps; ++warp) sum += warp_sums[warp];
  return sum;
}

/// output[i, :] = input[i, :] * rsqrt(mean(input[i, :]^2) + epsilon) * weight, computed in float.
template <class T, int kVectorSize, int kNumThreads>
__global__ __launch_bounds__(kNumThreads) void rmsnorm_kernel(const __grid_constant__ RMSNormKernelParams params) {
  using V = Vector<T, kVectorSize>;
  const auto& [output, input, weight, num_columns, output_stride, input_stride, epsilon] = params;
  const auto in = static_cast<const T*>(input) + int64_t{blockIdx.x} * input_stride;
  const auto out = static_cast<T*>(output) + int64_t{blockIdx.x} * output_stride;
  const auto scale = static_cast<const T*>(weight);
  const int64_t num_vectors = num_columns / kVectorSize;
  const int64_t tail = num_vectors * kVectorSize + threadIdx.x;  // fewer columns are left than a block has threads

  float sums[kVectorSize] = {};  // apart, so that one addition need not wait for the one before
  for (int64_t i = threadIdx.x; i < num_vectors; i += kNumThreads) {
    const V x = reinterpret_cast<const V*>(in)[i];
#pragma unroll
    for (int j = 0; j < kVectorSize; ++j) {
      const auto value = static_cast<float>(x.values[j]);
      sums[j] += value * value;
    }
  }
  float sum = tail < num_columns ? static_cast<float>(in[tail]) * static_cast<float>(in[tail]) : 0.0f;
#pragma unroll
  for (int j = 0; j < kVectorSize; ++j) sum += sums[j];
  const float factor = rsqrtf(block_sum<kNumThreads>(sum) / static_cast<float>(num_columns) + epsilon);

  for (int64_t i = threadIdx.x; i < num_vectors; i += kNumThreads) {
    const V x = reinterpret_cast<const V*>(in)[i], w = reinterpret_cast<const V*>(scale)[i];
    V y;
#pragma unroll
    for (int j = 0; j < kVectorSize; ++j) {
      y.values[j] = static_cast<T>(static_cast<float>(x.values[j]) * factor * static_cast<float>(w.values[j]));
    }
    reinterpret_cast<V*>(out)[i] = y;
  }
  if (tail < num_columns) {
    out[tail] = static_cast<T>(static_cast<float>(in[tail]) * factor * static_cast<float>(scale[tail]));
  }
}

template <class T, int kNumThreads>
void launch_rmsnorm(const RMSNormKernelParams& params, int64_t num_rows, DLDevice device) {
  constexpr int kVectorSize = 16 / sizeof(T);
  auto launch = LaunchKernel(static_cast<unsigned>(num_rows), kNumThreads, device);
  const int width =
      warp::max_vector_bytes({reinterpret_cast<intptr_t>(params.output), reinterpret_cast<intptr_t>(params.input),
                              reinterpret_cast<intptr_t>(params.weight), params.output_stride * int64_t{sizeof(T)},
                              params.input_stride * int64_t{sizeof(T)}});
  if (width == 16) {
    launch.run<rmsnorm_kernel<T, kVectorSize, kNumThreads>>(params);
  } else {
    launch.run<rmsnorm_kernel<T, 1, kNumThreads>>(params);
  }
}

/// input and output [M, N], rows apart as they like; weight [N]; float16, bfloat16 or float32.
template <int kNumThreads>
void rmsnorm(TensorView input, TensorView weight, double epsilon, TensorView output) {
  static_assert(kNumThreads % kWarpSize == 0 && kNumThreads >= 8, "whole warps, and a thread per column of the tail");
  auto M = SymbolicSize("M"), N = SymbolicSize("N");
  auto dtype = SymbolicDType({{kDLFloat, 16, 1}, {kDLBfloat, 16, 1}, {kDLFloat, 32, 1}});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("input", input);
  TensorMatcher({N}).with_dtype(dtype).with_device(device).verify("weight", weight);
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("output", output);
  if (M.value() == 0 || N.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = RMSNormKernelParams{
      .output = output.data(),
      .input = input.data(),
      .weight = weight.data(),
      .num_columns = N.value(),
      .output_stride = output.stride(0),
      .input_stride = input.stride(0),
      .epsilon = static_cast<float>(epsilon),
  };
  if (dtype.value().bits == 32) {
    launch_rmsnorm<float, kNumThreads>(params, M.value(), device.value());
  } else if (dtype.value().code == kDLBfloat) {
    launch_rmsnorm<__nv_bfloat16, kNumThreads>(params, M.value(), device.value());
  } else {
    launch_rmsnorm<__half, kNumThreads>(params, M.value(), device.value());
  }
}

}  // namespace minisgl::test
