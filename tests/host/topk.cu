// The largest k of each row of router logits, largest first, for test_kernels.py: one warp per row.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

struct TopkKernelParams {
  float* values;
  int* indices;
  const float* scores;
  int64_t num_rows;
  int num_experts;
  int k;
};

/// A number that orders as the floats do. NaN is above all, as in PyTorch, and 0 is below all.
__device__ __forceinline__ unsigned order(float value) {
  if (value != value) return 0xffffffff;
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 + 0 is +0: the two zeros are equal
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

/// Lane i holds experts i * kPerLane, i * kPerLane + 1, ...: of several lanes with equal bests the lowest has the
/// lowest expert, and `__ffs` of a ballot finds it.
template <int kPerLane, int kNumThreads>
__global__ __launch_bounds__(kNumThreads) void topk_kernel(const __grid_constant__ TopkKernelParams params) {
  const auto& [values, indices, scores, num_rows, num_experts, k] = params;
  const int64_t row = int64_t{blockIdx.x} * (kNumThreads / kWarpSize) + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  if (row >= num_rows) return;

  float mine[kPerLane];
  unsigned keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane * kPerLane + i;
    mine[i] = expert < num_experts ? scores[row * num_experts + expert] : 0.0f;
    keys[i] = expert < num_experts ? order(mine[i]) : 0;
  }

  float value_of_round = 0;
  int expert_of_round = 0;
  for (int round = 0; round < k; ++round) {
    unsigned key = keys[0];
    float value = mine[0];
    int expert = lane * kPerLane;
#pragma unroll
    for (int i = 1; i < kPerLane; ++i) {
      if (keys[i] > key) {
        key = keys[i];
        value = mine[i];
        expert = lane * kPerLane + i;
      }
    }
    const bool is_best = key == __reduce_max_sync(0xffffffff, key);
    const int winner = __ffs(static_cast<int>(__ballot_sync(0xffffffff, is_best))) - 1;
    value = __shfl_sync(0xffffffff, value, winner);
    expert = __shfl_sync(0xffffffff, expert, winner);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (expert == lane * kPerLane + i) keys[i] = 0;  // an index known to the compiler keeps the keys in registers
    }
    if (lane == round) {
      value_of_round = value;
      expert_of_round = expert;
    }
  }
  if (lane < k) {
    values[row * k + lane] = value_of_round;
    indices[row * k + lane] = expert_of_round;
  }
}

/// scores float32 [M, N] with N up to 256; values float32 and indices int32 [M, K] with K up to 32.
template <int kNumThreads>
void topk(TensorView scores, TensorView values, TensorView indices) {
  auto M = SymbolicSize("M"), N = SymbolicSize("N"), K = SymbolicSize("K");
  auto dtype = SymbolicDType({{kDLFloat, 32, 1}}), index_dtype = SymbolicDType({{kDLInt, 32, 1}});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({M, N}).with_dtype(dtype).with_device(device).verify("scores", scores);
  TensorMatcher({M, K}).with_dtype(dtype).with_device(device).verify("values", values);
  TensorMatcher({M, K}).with_dtype(index_dtype).with_device(device).verify("indices", indices);
  require(N.value() <= 256, "ValueError", "scores: expected at most 256 columns, got ", N.value());
  require(K.value() <= 32 && K.value() <= N.value(), "ValueError", "values: expected at most 32 of N=", N.value(),
          " columns, got ", K.value());
  if (M.value() == 0 || K.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = TopkKernelParams{
      .values = static_cast<float*>(values.data()),
      .indices = static_cast<int*>(indices.data()),
      .scores = static_cast<const float*>(scores.data()),
      .num_rows = M.value(),
      .num_experts = static_cast<int>(N.value()),
      .k = static_cast<int>(K.value()),
  };
  const auto num_blocks = div_ceil<int64_t>(M.value(), kNumThreads / kWarpSize);
  auto launch = LaunchKernel(static_cast<unsigned>(num_blocks), kNumThreads, device.value());
  if (N.value() <= 64) {
    launch.run<topk_kernel<2, kNumThreads>>(params);
  } else if (N.value() <= 128) {
    launch.run<topk_kernel<4, kNumThreads>>(params);
  } else {
    launch.run<topk_kernel<8, kNumThreads>>(params);
  }
}

}  // namespace minisgl::test
