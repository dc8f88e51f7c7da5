// Planted bugs: barriers that are missing, too weak or not reached by all, and collectives of the wrong lanes.
// `// BUG: name` marks the line that a finding must name. The same kernel with kRepaired is right.
#include "bugs.cuh"

namespace minisgl::test {

// ---- missing_barrier: a thread reads what another one of the block writes, with nothing between

template <bool kRepaired>
__global__ void missing_barrier_kernel(Items<const int> input, Items<int> output) {
  __shared__ int tile[128];
  const int i = threadIdx.x, first = blockIdx.x * 128;
  tile[i] = input.data[first + i];
  if constexpr (kRepaired) __syncthreads();
  output.data[first + i] = tile[127 - i];  // BUG: missing_barrier
}

template <bool kRepaired>
void missing_barrier(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 128, input.device())
      .run<missing_barrier_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- missing_second_barrier: the next round writes the tile while others still read it

template <bool kRepaired>
__global__ void missing_second_barrier_kernel(Items<const int> input, Items<int> output) {
  __shared__ int tile[64];
  const int i = threadIdx.x;
  int sum = 0;
  for (int first = 0; first < input.size; first += 64) {
    tile[i] = input.data[first + i];  // BUG: missing_second_barrier
    __syncthreads();
    for (int j = 0; j <= i; ++j) sum += tile[j];
    if constexpr (kRepaired) __syncthreads();
  }
  output.data[i] = sum;
}

template <bool kRepaired>
void missing_second_barrier(TensorView input, TensorView output) {
  LaunchKernel(1, 64, input.device())
      .run<missing_second_barrier_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- missing_syncwarp: lanes of a warp no longer run in lockstep since Volta

template <bool kRepaired>
__global__ void missing_syncwarp_kernel(Items<const int> input, Items<int> output) {
  __shared__ int values[64];
  const int i = threadIdx.x;
  values[i] = input.data[i];
  if constexpr (kRepaired) __syncwarp();
  output.data[i] = values[i ^ 1];  // BUG: missing_syncwarp
}

template <bool kRepaired>
void missing_syncwarp(TensorView input, TensorView output) {
  LaunchKernel(1, 64, input.device())
      .run<missing_syncwarp_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- warp_barrier_for_block: __syncwarp where a thread reads what another warp writes

template <bool kRepaired>
__global__ void warp_barrier_for_block_kernel(Items<const float> input, Items<float> output) {
  __shared__ float warp_sums[4];
  const int i = threadIdx.x;
  float sum = input.data[blockIdx.x * 128 + i];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
  if (i % kWarpSize == 0) warp_sums[i / kWarpSize] = sum;
  if constexpr (kRepaired) {
    __syncthreads();
  } else {
    __syncwarp();
  }
  float total = 0;
  for (int warp = 0; warp < 4; ++warp) total += warp_sums[warp];  // BUG: warp_barrier_for_block
  if (i == 0) output.data[blockIdx.x] = total;
}

template <bool kRepaired>
void warp_barrier_for_block(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 128, input.device())
      .run<warp_barrier_for_block_kernel<kRepaired>>(items<const float>("input", input),
                                                     items<float>("output", output));
}

// ---- shuffle_for_barrier: a shuffle exchanges values, but does not order what lanes write to shared memory

template <bool kRepaired>
__global__ void shuffle_for_barrier_kernel(Items<const int> input, Items<int> output) {
  __shared__ int values[32];
  const int lane = threadIdx.x;
  values[lane] = input.data[lane];
  const int first = __shfl_sync(0xffffffff, input.data[lane], 0);
  if constexpr (kRepaired) __syncwarp();
  output.data[lane] = values[31 - lane] - first;  // BUG: shuffle_for_barrier
}

template <bool kRepaired>
void shuffle_for_barrier(TensorView input, TensorView output) {
  LaunchKernel(1, 32, input.device())
      .run<shuffle_for_barrier_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- divergent_barrier: threads behind the end of the input return before the barrier

template <bool kRepaired>
__global__ void divergent_barrier_kernel(Items<const int> input, Items<int> output) {
  __shared__ int tile[64];
  const int i = blockIdx.x * 64 + threadIdx.x;
  if constexpr (!kRepaired) {
    if (i >= input.size) return;
  }
  tile[threadIdx.x] = i < input.size ? input.data[i] : 0;
  __syncthreads();  // BUG: divergent_barrier
  if (i < input.size) output.data[i] = tile[threadIdx.x ^ 1];
}

template <bool kRepaired>
void divergent_barrier(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 64, input.device())
      .run<divergent_barrier_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- barrier_in_uneven_loop: some threads run through one round less

template <bool kRepaired>
__global__ void barrier_in_uneven_loop_kernel(Items<const int> input, Items<int> output) {
  __shared__ int tile[64];
  const int end = kRepaired ? div_ceil(input.size, 64) * 64 : input.size;
  for (int i = threadIdx.x; i < end; i += 64) {
    tile[threadIdx.x] = i < input.size ? input.data[i] : 0;
    __syncthreads();  // BUG: barrier_in_uneven_loop
    if (i < input.size) output.data[i] = tile[threadIdx.x ^ 1];
    __syncthreads();
  }
}

template <bool kRepaired>
void barrier_in_uneven_loop(TensorView input, TensorView output) {
  LaunchKernel(1, 64, input.device())
      .run<barrier_in_uneven_loop_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- wrong_mask: each half of a warp sums its row, but both under the mask of the lower half

template <bool kRepaired>
__global__ void wrong_mask_kernel(Rows<const int> input, Items<int> output) {
  const int lane = threadIdx.x;
  unsigned mask = 0x0000ffff;
  if (kRepaired && lane >= 16) mask = 0xffff0000;
  int sum = input.data[lane / 16 * input.stride + lane % 16];
  for (int distance = 8; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(mask, sum, distance, 16);  // BUG: wrong_mask
  }
  if (lane % 16 == 0) output.data[lane / 16] = sum;
}

template <bool kRepaired>
void wrong_mask(TensorView input, TensorView output) {
  LaunchKernel(1, 32, input.device())
      .run<wrong_mask_kernel<kRepaired>>(rows<const int>("input", input), items<int>("output", output));
}

// ---- shuffle_from_returned_lane: the lanes behind the end return, and the others still read them

template <bool kRepaired>
__global__ void shuffle_from_returned_lane_kernel(Items<const int> input, Items<int> output) {
  const int lane = threadIdx.x;
  if (!kRepaired && lane >= input.size) return;
  int sum = lane < input.size ? input.data[lane] : 0;
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(0xffffffff, sum, distance);  // BUG: shuffle_from_returned_lane
  }
  if (lane == 0) output.data[0] = sum;
}

template <bool kRepaired>
void shuffle_from_returned_lane(TensorView input, TensorView output) {
  LaunchKernel(1, 32, input.device())
      .run<shuffle_from_returned_lane_kernel<kRepaired>>(items<const int>("input", input),
                                                         items<int>("output", output));
}

}  // namespace minisgl::test
