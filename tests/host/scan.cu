// Exclusive prefix sum of int32, for test_kernels.py: every block scans a tile, then adds what lies before it.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

struct ScanKernelParams {
  int* output;
  const int* input;
  int* tile_sums;
  int64_t length;
};

inline constexpr int kItemsPerThread = 4;

/// Sums of a block's `value`s: those of the threads before this one, and of all.
struct BlockScan {
  int before;
  int total;
};

template <int kNumThreads>
__device__ __forceinline__ BlockScan block_scan(int value) {
  constexpr int kNumWarps = kNumThreads / kWarpSize;
  __shared__ int warp_sums[kNumWarps];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  int inclusive = value;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int lower = __shfl_up_sync(0xffffffff, inclusive, distance);
    if (lane >= distance) inclusive += lower;
  }
  if (lane == kWarpSize - 1) warp_sums[warp] = inclusive;
  __syncthreads();
  BlockScan sums{inclusive - value, 0};
  for (int w = 0; w < kNumWarps; ++w) {
    const int sum = warp_sums[w];
    if (w < warp) sums.before += sum;
    sums.total += sum;
  }
  return sums;
}

/// Scan each tile on its own, and note its sum.
template <int kNumThreads>
__global__ __launch_bounds__(kNumThreads) void scan_tile_kernel(const __grid_constant__ ScanKernelParams params) {
  const auto& [output, input, tile_sums, length] = params;
  const int64_t first = (int64_t{blockIdx.x} * kNumThreads + threadIdx.x) * kItemsPerThread;
  int before[kItemsPerThread], sum = 0;
#pragma unroll
  for (int i = 0; i < kItemsPerThread; ++i) {
    before[i] = sum;
    if (first + i < length) sum += input[first + i];
  }
  const auto [before_thread, total] = block_scan<kNumThreads>(sum);
#pragma unroll
  for (int i = 0; i < kItemsPerThread; ++i) {
    if (first + i < length) output[first + i] = before_thread + before[i];
  }
  if (threadIdx.x == 0) tile_sums[blockIdx.x] = total;
}

/// Add to each tile the sums of the tiles before it. Every block adds them up anew: there are few tiles.
template <int kNumThreads>
__global__ __launch_bounds__(kNumThreads) void add_tiles_kernel(const __grid_constant__ ScanKernelParams params) {
  const auto& [output, input, tile_sums, length] = params;
  int sum = 0;
  for (unsigned tile = threadIdx.x; tile < blockIdx.x; tile += kNumThreads) sum += tile_sums[tile];
  const int before_tile = block_scan<kNumThreads>(sum).total;
  const int64_t first = (int64_t{blockIdx.x} * kNumThreads + threadIdx.x) * kItemsPerThread;
#pragma unroll
  for (int i = 0; i < kItemsPerThread; ++i) {
    if (first + i < length) output[first + i] += before_tile;
  }
}

/// output[i] = input[0] + ... + input[i - 1], int32 [L]; tile_sums has room for one int32 per tile.
template <int kNumThreads>
void scan(TensorView input, TensorView output, TensorView tile_sums) {
  constexpr int64_t kTile = int64_t{kNumThreads} * kItemsPerThread;
  auto L = SymbolicSize("L"), T = SymbolicSize("T");
  auto dtype = SymbolicDType({{kDLInt, 32, 1}});
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({L}).with_dtype(dtype).with_device(device).verify("input", input);
  TensorMatcher({L}).with_dtype(dtype).with_device(device).verify("output", output);
  TensorMatcher({T}).with_dtype(dtype).with_device(device).verify("tile_sums", tile_sums);
  const int64_t num_tiles = div_ceil(L.value(), kTile);
  require(T.value() >= num_tiles, "ValueError", "tile_sums: expected room for ", num_tiles, " tiles, got ", T.value());
  if (L.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = ScanKernelParams{
      .output = static_cast<int*>(output.data()),
      .input = static_cast<const int*>(input.data()),
      .tile_sums = static_cast<int*>(tile_sums.data()),
      .length = L.value(),
  };
  auto launch = LaunchKernel(static_cast<unsigned>(num_tiles), kNumThreads, device.value());
  launch.run<scan_tile_kernel<kNumThreads>>(params);
  if (num_tiles > 1) launch.run<add_tiles_kernel<kNumThreads>>(params);
}

}  // namespace minisgl::test
