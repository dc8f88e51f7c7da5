// Kernels that can never end as CUDA has it, for test_failures.py. `// HERE: name` marks the line that a message names.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstddef>
#include <cstdint>

namespace minisgl::test {

/// Half of the block returns, the other half waits.
__global__ void half_returns_kernel(int* output) {
  if (threadIdx.x >= blockDim.x / 2) return;
  __syncthreads();  // HERE: half_returns
  output[threadIdx.x] = 1;
}

/// Both halves wait, each at a barrier of its own.
__global__ void two_barriers_kernel(int* output) {
  if (threadIdx.x < 48) {
    __syncthreads();  // HERE: first_barrier
  } else {
    __syncthreads();  // HERE: second_barrier
  }
  output[threadIdx.x] = 1;
}

/// One warp waits for the block; one lane of the other waits for its warp.
__global__ void barrier_and_shuffle_kernel(int* output) {
  if (threadIdx.x == 40) {
    output[0] = __shfl_sync(0xffffffff, 1, 0);  // HERE: lonely_shuffle
  } else {
    __syncthreads();  // HERE: barrier_of_the_rest
  }
}

/// A destructor waits, which an exception must not leave.
struct WaitsAtTheEnd {
  __device__ ~WaitsAtTheEnd() {
    __syncthreads();  // HERE: destructor
  }
};

__global__ void destructor_kernel(int* output) {
  if (threadIdx.x < 32) {
    const WaitsAtTheEnd at_the_end;
    output[threadIdx.x] = 1;
  }
}

__global__ void bad_width_kernel(int* output) {
  output[threadIdx.x] = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x), 0, 24);  // HERE: bad_width
}

__global__ void missing_lane_kernel(int* output) {
  output[threadIdx.x] = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x), 20);  // HERE: missing_lane
}

/// The lanes of one mask call different collectives.
__global__ void mismatched_kernel(int* output) {
  int value;
  if (threadIdx.x % 2 == 0) {
    value = __any_sync(0xffffffff, 1);  // HERE: even_lanes
  } else {
    value = __all_sync(0xffffffff, 1);  // HERE: odd_lanes
  }
  output[threadIdx.x] = value;
}

/// A shuffle reads a lane that has returned.
__global__ void returned_lane_kernel(int* output) {
  if (threadIdx.x == 31) return;
  output[threadIdx.x] = __shfl_sync(0xffffffff, 1, 31);  // HERE: returned_lane
}

/// A shuffle reads a lane that its mask does not name.
__global__ void unnamed_lane_kernel(int* output) {
  if (threadIdx.x < 16) output[threadIdx.x] = __shfl_down_sync(0x0000ffff, 1, 8);  // HERE: unnamed_lane
}

/// A lane calls a collective for others.
__global__ void not_in_own_mask_kernel(int* output) {
  output[threadIdx.x] = static_cast<int>(__ballot_sync(0x0000ffff, 1));  // HERE: not_in_own_mask
}

/// Two lanes wait for each other, but under masks that are not the same.
__global__ void masks_never_match_kernel(int* output) {
  const unsigned mask = threadIdx.x == 0 ? 0x3 : 0x7;
  if (threadIdx.x < 2) output[threadIdx.x] = __any_sync(mask, 1);  // HERE: masks_never_match
}

/// The barrier is in a loop of which the threads run through different numbers of rounds.
__global__ void uneven_loop_kernel(int* output) {
  for (unsigned i = 0; i <= threadIdx.x / 32; ++i) __syncthreads();  // HERE: uneven_loop
  output[threadIdx.x] = 1;
}

/// Nothing is wrong.
__global__ void healthy_kernel(int* output) {
  __syncthreads();
  output[threadIdx.x] = __shfl_xor_sync(0xffffffff, static_cast<int>(threadIdx.x), 1);
}

template <auto kKernel>
void launch(TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(output.size(0)), output.device())
      .run<kKernel>(static_cast<int*>(output.data()));
}

/// Only block (1, 2, 0) fails.
__global__ void one_block_fails_kernel() {
  if (blockIdx.x == 1 && blockIdx.y == 2 && threadIdx.x < 5) return;
  __syncthreads();  // HERE: one_block_fails
}

inline void one_block_fails(TensorView tensor) {
  LaunchKernel(dim3(3, 4), 64, tensor.device()).run<one_block_fails_kernel>();
}

/// As much dynamic shared memory as asked for.
__global__ void dynamic_shared_kernel() {
  extern __shared__ int buffer[];
  buffer[threadIdx.x] = 0;
}

inline void dynamic_shared(TensorView tensor, int64_t num_bytes) {
  LaunchKernel(1, 32, tensor.device(), static_cast<std::size_t>(num_bytes)).run<dynamic_shared_kernel>();
}

#ifndef __CUDACC__
/// More static shared memory than a block can have: nvcc refuses it when it compiles, the CPU target when it launches.
__global__ void static_shared_kernel(int* output) {
  __shared__ int array[64 * 1024];
  array[threadIdx.x] = output[threadIdx.x];
  __syncthreads();
  output[threadIdx.x] = array[blockDim.x - 1 - threadIdx.x];
}
#endif

}  // namespace minisgl::test
