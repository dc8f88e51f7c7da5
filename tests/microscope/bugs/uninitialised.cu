// Planted bugs: memory that is read before anything has been written to it.
// `// BUG: name` marks the line that a finding must name. The same kernel with kRepaired is right.
#include "bugs.cuh"

namespace minisgl::test {

// ---- shared_read_before_write: the second stage of a block's sum takes an entry per lane, but only four were written

template <bool kRepaired>
__global__ void shared_read_before_write_kernel(Items<const int> input, Items<int> output) {
  __shared__ int warp_sums[kWarpSize];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int sum = __reduce_add_sync(0xffffffff, input.data[threadIdx.x]);
  if (lane == 0) warp_sums[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  int value = 0;
  if (!kRepaired || lane < static_cast<int>(blockDim.x) / kWarpSize) {
    value = warp_sums[lane];  // BUG: shared_read_before_write
  }
  value = __reduce_add_sync(0xffffffff, value);
  if (lane == 0) output.data[0] = value;
}

template <bool kRepaired>
void shared_read_before_write(TensorView input, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(input.size(0)), input.device())
      .run<shared_read_before_write_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- output_read_before_write: a sum is added to an output that nobody has set to zero

template <bool kRepaired>
__global__ void output_read_before_write_kernel(Rows<const float> input, Items<float> output) {
  const int row = threadIdx.x;
  if constexpr (kRepaired) output.data[row] = 0.0f;
  for (int column = 0; column < input.num_columns; ++column) {
    output.data[row] += input.data[row * input.stride + column];  // BUG: output_read_before_write
  }
}

template <bool kRepaired>
void output_read_before_write(TensorView input, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(input.size(0)), input.device())
      .run<output_read_before_write_kernel<kRepaired>>(rows<const float>("input", input),
                                                       items<float>("output", output));
}

// ---- accumulator_not_zeroed: a histogram in shared memory starts from whatever was there

template <bool kRepaired>
__global__ void accumulator_not_zeroed_kernel(Items<const int> experts, Items<int> output) {
  __shared__ int count[8];
  if constexpr (kRepaired) {
    if (threadIdx.x < 8) count[threadIdx.x] = 0;
    __syncthreads();
  }
  atomicAdd(&count[experts.data[threadIdx.x]], 1);  // BUG: accumulator_not_zeroed
  __syncthreads();
  if (threadIdx.x < 8) output.data[threadIdx.x] = count[threadIdx.x];
}

template <bool kRepaired>
void accumulator_not_zeroed(TensorView experts, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(experts.size(0)), experts.device())
      .run<accumulator_not_zeroed_kernel<kRepaired>>(items<const int>("experts", experts),
                                                     items<int>("output", output));
}

// ---- tile_tail_not_filled: the part of a tile behind the last column is read, but was never filled

template <bool kRepaired>
__global__ void tile_tail_not_filled_kernel(Items<const float> input, Items<float> output) {
  __shared__ float tile[64];
  const int i = threadIdx.x;
  float sum = 0;
  for (int first = 0; first < input.size; first += 64) {
    if (first + i < input.size) {
      tile[i] = input.data[first + i];
    } else if (kRepaired) {
      tile[i] = 0.0f;
    }
    __syncthreads();
    for (int j = 0; j < 64; ++j) sum += tile[j];  // BUG: tile_tail_not_filled
    __syncthreads();
  }
  output.data[i] = sum;
}

template <bool kRepaired>
void tile_tail_not_filled(TensorView input, TensorView output) {
  LaunchKernel(1, 64, input.device())
      .run<tile_tail_not_filled_kernel<kRepaired>>(items<const float>("input", input), items<float>("output", output));
}

}  // namespace minisgl::test
