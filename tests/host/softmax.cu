// Softmax over the rows of a matrix, for test_kernels.py: one block per row, maximum and sum in one pass (Milakov and
// Gimelshein, "Online normalizer calculation for softmax", 2018).
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cmath>
#include <cstdint>

namespace minisgl::test {

struct SoftmaxKernelParams {
  void* output;
  const void* input;
  int64_t num_columns;
  int64_t output_stride;
  int64_t input_stride;
};

/// The largest of some values, and the sum of exp(value - largest).
struct Normalizer {
  float largest = -INFINITY;
  float sum = 0;

  /// exp(value - reference). If the two are equal it is 1 even where their difference is not a number.
  static __device__ __forceinline__ float weight(float value, float reference) {
    return value == reference ? 1.0f : expf(value - reference);
  }

  __device__ __forceinline__ void merge(Normalizer other) {
    const float larger = fmaxf(largest, other.largest);
    sum = sum * weight(largest, larger) + other.sum * weight(other.largest, larger);
    largest = larger;
  }

  /// Merge the normalizers of all lanes of a warp. Every lane gets the same.
  __device__ __forceinline__ void merge_warp() {
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
      merge({__shfl_xor_sync(0xffffffff, largest, distance), __shfl_xor_sync(0xffffffff, sum, distance)});
    }
  }
};

template <class T, int kNumThreads>
__global__ __launch_bounds__(kNumThreads) void softmax_kernel(const __grid_constant__ SoftmaxKernelParams params) {
  constexpr int kNumWarps = kNumThreads / kWarpSize;
  __shared__ float largest_of_warp[kNumWarps], sum_of_warp[kNumWarps];
  const auto& [output, input, num_columns, output_stride, input_stride] = params;
  const auto in = static_cast<const T*>(input) + int64_t{blockIdx.x} * input_stride;
  const auto out = static_cast<T*>(output) + int64_t{blockIdx.x} * output_stride;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;

  Normalizer row;
  for (int64_t i = threadIdx.x; i < num_columns; i += kNumThreads) row.merge({static_cast<float>(in[i]), 1.0f});
  row.merge_warp();
  if (lane == 0) {
    largest_of_warp[warp] = row.largest;
    sum_of_warp[warp] = row.sum;
  }
  __syncthreads();
  row = lane < kNumWarps ? Normalizer{largest_of_warp[lane], sum_of_warp[lane]} : Normalizer{};
  row.merge_warp();

  for (int64_t i = threadIdx.x; i < num_columns; i += kNumThreads) {
    out[i] = static_cast<T>(expf(static_cast<float>(in[i]) - row.largest) / row.sum);
  }
}

/// input and output [M, N], rows apart as they like; float16, bfloat16 or float32.
template <int kNumThreads>
void softmax(TensorView input, TensorView output) {
  static_assert(kNumThreads % kWarpSize == 0 && kNumThreads <= 1024, "whole warps, and no more than one has lanes");
  auto M = SymbolicSize("M"), N = SymbolicSize("N");
  auto dtype = SymbolicDType({{kDLFloat, 16, 1}, {kDLBfloat, 16, 1}, {kDLFloat, 32, 1}});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("input", input);
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("output", output);
  if (M.value() == 0 || N.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = SoftmaxKernelParams{
      .output = output.data(),
      .input = input.data(),
      .num_columns = N.value(),
      .output_stride = output.stride(0),
      .input_stride = input.stride(0),
  };
  auto launch = LaunchKernel(static_cast<unsigned>(M.value()), kNumThreads, device.value());
  if (dtype.value().bits == 32) {
    launch.run<softmax_kernel<float, kNumThreads>>(params);
  } else if (dtype.value().code == kDLBfloat) {
    launch.run<softmax_kernel<__nv_bfloat16, kNumThreads>>(params);
  } else {
    launch.run<softmax_kernel<__half, kNumThreads>>(params);
  }
}

}  // namespace minisgl::test
