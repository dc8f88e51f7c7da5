// One small kernel for each thing that threads of a block or warp do together, for test_collectives.py. A kernel writes
// what every thread got; what it should have got is computed in Python from CUDA's definition.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

template <class T>
T* data(TensorView tensor) {
  return static_cast<T*>(tensor.data());
}

inline constexpr unsigned kFullMask = 0xffffffff;
inline constexpr int kMaxThreads = 1024;

// ---- barriers

/// The three barriers that count: results[0..2][thread].
__global__ void barrier_votes_kernel(const int* predicates, int* results) {
  const int i = threadIdx.x, n = blockDim.x;
  results[i] = __syncthreads_count(predicates[i]);
  results[n + i] = __syncthreads_and(predicates[i]);
  results[2 * n + i] = __syncthreads_or(predicates[i]);
}

inline void barrier_votes(TensorView predicates, TensorView results) {
  LaunchKernel(1, static_cast<unsigned>(predicates.size(0)), predicates.device())
      .run<barrier_votes_kernel>(data<const int>(predicates), data<int>(results));
}

/// Every block reverses its part.
__global__ void reverse_kernel(const int* input, int* output) {
  __shared__ int values[kMaxThreads];
  const unsigned first = blockIdx.x * blockDim.x;
  values[threadIdx.x] = input[first + threadIdx.x];
  __syncthreads();
  output[first + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

inline void reverse(TensorView input, TensorView output) {
  LaunchKernel(static_cast<unsigned>(input.size(0)), static_cast<unsigned>(input.size(1)), input.device())
      .run<reverse_kernel>(data<const int>(input), data<int>(output));
}

/// A function that is not inlined may hold a barrier as well. (CUDA spells it __noinline__, which libstdc++ uses too.)
__device__ __attribute__((noinline)) int next_of_block(int* values, int value) {
  __syncthreads();
  values[threadIdx.x] = value;
  __syncthreads();
  return values[(threadIdx.x + 1) % blockDim.x];
}

/// Many barriers: in each round every thread takes its neighbour's value and adds one.
__global__ void rotate_kernel(const int* input, int* output, int num_rounds) {
  __shared__ int shared[kMaxThreads];
  int value = input[threadIdx.x];
  for (int round = 0; round < num_rounds; ++round) value = next_of_block(shared, value) + 1;
  output[threadIdx.x] = value;
}

inline void rotate(TensorView input, TensorView output, int64_t num_rounds) {
  LaunchKernel(1, static_cast<unsigned>(input.size(0)), input.device())
      .run<rotate_kernel>(data<const int>(input), data<int>(output), static_cast<int>(num_rounds));
}

/// Barriers in a branch that all threads of a block take, or none; blocks differ.
__global__ void uniform_branch_kernel(int* output) {
  __shared__ int sum;
  int result = -1;
  if (blockIdx.x % 2 == 1) {
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, static_cast<int>(threadIdx.x));
    __syncthreads();
    result = sum;
  }
  output[blockIdx.x * blockDim.x + threadIdx.x] = result;
}

inline void uniform_branch(TensorView output) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), static_cast<unsigned>(output.size(1)), output.device())
      .run<uniform_branch_kernel>(data<int>(output));
}

/// Lanes exchange through shared memory among those of one mask; a warp holds several masks.
__global__ void syncwarp_kernel(const int* masks, const int* input, int* output) {
  __shared__ int values[kWarpSize];
  const int lane = threadIdx.x;
  const auto mask = static_cast<unsigned>(masks[lane]);
  for (int round = 0; round < 3; ++round) {
    values[lane] = input[lane] + round;
    __syncwarp(mask);
    const unsigned above = lane == kWarpSize - 1 ? 0 : mask >> (lane + 1);
    const int next = above ? lane + __ffs(static_cast<int>(above)) : __ffs(static_cast<int>(mask)) - 1;
    output[round * kWarpSize + lane] = values[next];
    __syncwarp(mask);
  }
}

inline void syncwarp(TensorView masks, TensorView input, TensorView output) {
  LaunchKernel(1, kWarpSize, input.device())
      .run<syncwarp_kernel>(data<const int>(masks), data<const int>(input), data<int>(output));
}

/// Half of a warp, then the other half, on ways of their own, then all together.
__global__ void divergent_halves_kernel(int* output) {
  const int lane = threadIdx.x;
  int value = lane;
  if (lane < 16) {
    value = __shfl_xor_sync(0x0000ffff, value, 1);
    value = __shfl_xor_sync(0x0000ffff, value, 2);
  } else {
    value = __shfl_xor_sync(0xffff0000, value, 4);
  }
  __syncwarp();
  output[lane] = __shfl_xor_sync(kFullMask, value, 16);
}

inline void divergent_halves(TensorView output) {
  LaunchKernel(1, kWarpSize, output.device()).run<divergent_halves_kernel>(data<int>(output));
}

// ---- shuffles

enum class Shuffle : int64_t { kIndex, kUp, kDown, kXor };

template <class T>
__global__ void shuffle_kernel(Shuffle kind, const T* input, const int* operands, int width, T* output) {
  const int lane = threadIdx.x;
  const T value = input[lane];
  const int operand = operands[lane];
  switch (kind) {
    case Shuffle::kIndex: output[lane] = __shfl_sync(kFullMask, value, operand, width); break;
    case Shuffle::kUp: output[lane] = __shfl_up_sync(kFullMask, value, operand, width); break;
    case Shuffle::kDown: output[lane] = __shfl_down_sync(kFullMask, value, operand, width); break;
    case Shuffle::kXor: output[lane] = __shfl_xor_sync(kFullMask, value, operand, width); break;
  }
}

template <class T>
void shuffle(int64_t kind, TensorView input, TensorView operands, int64_t width, TensorView output) {
  LaunchKernel(1, kWarpSize, input.device())
      .run<shuffle_kernel<T>>(static_cast<Shuffle>(kind), data<const T>(input), data<const int>(operands),
                              static_cast<int>(width), data<T>(output));
}

/// Each lane reads the next one in its own mask; a warp holds several masks.
__global__ void shuffle_in_groups_kernel(const int* masks, const int* sources, int* output) {
  const int lane = threadIdx.x;
  output[lane] = __shfl_sync(static_cast<unsigned>(masks[lane]), lane * lane, sources[lane]);
}

inline void shuffle_in_groups(TensorView masks, TensorView sources, TensorView output) {
  LaunchKernel(1, kWarpSize, output.device())
      .run<shuffle_in_groups_kernel>(data<const int>(masks), data<const int>(sources), data<int>(output));
}

// ---- votes, matches, reductions; the lanes of each mask among themselves

/// results[0..2][lane]: ballot, any, all.
__global__ void votes_kernel(const int* masks, const int* predicates, int* results) {
  const int lane = threadIdx.x;
  const auto mask = static_cast<unsigned>(masks[lane]);
  results[lane] = static_cast<int>(__ballot_sync(mask, predicates[lane]));
  results[kWarpSize + lane] = __any_sync(mask, predicates[lane]);
  results[2 * kWarpSize + lane] = __all_sync(mask, predicates[lane]);
}

inline void votes(TensorView masks, TensorView predicates, TensorView results) {
  LaunchKernel(1, kWarpSize, results.device())
      .run<votes_kernel>(data<const int>(masks), data<const int>(predicates), data<int>(results));
}

/// results[0..2][lane]: the lanes with an equal value, the lanes if all values are equal, and whether they are.
template <class T>
__global__ void match_kernel(const int* masks, const T* values, int* results) {
  const int lane = threadIdx.x;
  const auto mask = static_cast<unsigned>(masks[lane]);
  results[lane] = static_cast<int>(__match_any_sync(mask, values[lane]));
  int all_equal = -1;
  results[kWarpSize + lane] = static_cast<int>(__match_all_sync(mask, values[lane], &all_equal));
  results[2 * kWarpSize + lane] = all_equal;
}

template <class T>
void match(TensorView masks, TensorView values, TensorView results) {
  LaunchKernel(1, kWarpSize, results.device())
      .run<match_kernel<T>>(data<const int>(masks), data<const T>(values), data<int>(results));
}

/// results[0..5][lane]: add, min, max, and, or, xor. The last three exist for unsigned numbers alone.
template <class T>
__global__ void reduce_kernel(const int* masks, const T* values, T* results) {
  const int lane = threadIdx.x;
  const auto mask = static_cast<unsigned>(masks[lane]);
  const auto bits = static_cast<unsigned>(values[lane]);
  results[lane] = __reduce_add_sync(mask, values[lane]);
  results[kWarpSize + lane] = __reduce_min_sync(mask, values[lane]);
  results[2 * kWarpSize + lane] = __reduce_max_sync(mask, values[lane]);
  results[3 * kWarpSize + lane] = static_cast<T>(__reduce_and_sync(mask, bits));
  results[4 * kWarpSize + lane] = static_cast<T>(__reduce_or_sync(mask, bits));
  results[5 * kWarpSize + lane] = static_cast<T>(__reduce_xor_sync(mask, bits));
}

template <class T>
void reduce(TensorView masks, TensorView values, TensorView results) {
  LaunchKernel(1, kWarpSize, results.device())
      .run<reduce_kernel<T>>(data<const int>(masks), data<const T>(values), data<T>(results));
}

// ---- lanes that are absent

/// results[0][thread]: at the top; results[1][thread]: in a branch, -1 elsewhere.
__global__ void active_mask_kernel(int* results, int num_lanes) {
  const int i = threadIdx.x;
  results[i] = static_cast<int>(__activemask());
  __syncwarp();
  results[blockDim.x + i] = -1;
  if (i % kWarpSize < num_lanes) results[blockDim.x + i] = static_cast<int>(__activemask());
}

inline void active_mask(TensorView results, int64_t num_lanes) {
  LaunchKernel(1, static_cast<unsigned>(results.size(1)), results.device())
      .run<active_mask_kernel>(data<int>(results), static_cast<int>(num_lanes));
}

/// Threads from `num_threads` on return; the others of their warps carry on. A mask may name lanes that have returned,
/// and lanes that the block never had. results[0..2][thread]: ballot, lane 0's thread, all; -1 if returned.
__global__ void early_exit_kernel(int* results, int num_threads) {
  const int i = threadIdx.x, n = blockDim.x;
  for (int row = 0; row < 3; ++row) results[row * n + i] = -1;
  if (i >= num_threads) return;
  results[i] = static_cast<int>(__ballot_sync(kFullMask, i % 3 == 0));
  results[n + i] = __shfl_sync(kFullMask, i, 0);
  results[2 * n + i] = __all_sync(kFullMask, i < num_threads);
}

inline void early_exit(TensorView results, int64_t num_threads) {
  LaunchKernel(1, static_cast<unsigned>(results.size(1)), results.device())
      .run<early_exit_kernel>(data<int>(results), static_cast<int>(num_threads));
}

}  // namespace minisgl::test
