// Planted bugs: two blocks, or two threads of a block, that use one element without atomics.
// `// BUG: name` marks the line that a finding must name. The same kernel with kRepaired is right.
#include "bugs.cuh"

namespace minisgl::test {

// ---- blocks_write_one_element: every block writes its result to the same place

template <bool kRepaired>
__global__ void blocks_write_one_element_kernel(Items<const int> input, Items<int> output) {
  const int sum = __reduce_add_sync(0xffffffff, input.data[blockIdx.x * 32 + threadIdx.x]);
  if (threadIdx.x > 0) return;
  if constexpr (kRepaired) {
    atomicAdd(output.data, sum);
  } else {
    output.data[0] = sum;  // BUG: blocks_write_one_element
  }
}

template <bool kRepaired>
void blocks_write_one_element(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 32, input.device())
      .run<blocks_write_one_element_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- block_reads_another_block: in place, the left neighbour of a block's first element may be new or old

template <bool kRepaired>
__global__ void block_reads_another_block_kernel(Items<const int> input, Items<int> output) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  int left = 0;
  if (i > 0) {
    left = (kRepaired ? input.data : output.data)[i - 1];  // BUG: block_reads_another_block
  }
  if (!kRepaired) __syncthreads();  // orders this block's threads, not the blocks
  output.data[i] = input.data[i] + left;
}

template <bool kRepaired>
void block_reads_another_block(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 64, input.device())
      .run<block_reads_another_block_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- plain_counter: tokens per expert, counted without atomics in shared memory

template <bool kRepaired>
__global__ void plain_counter_kernel(Items<const int> experts, Items<int> output) {
  __shared__ int count[8];
  if (threadIdx.x < 8) count[threadIdx.x] = 0;
  __syncthreads();
  const int expert = experts.data[threadIdx.x];
  if constexpr (kRepaired) {
    atomicAdd(&count[expert], 1);
  } else {
    count[expert] += 1;  // BUG: plain_counter
  }
  __syncthreads();
  if (threadIdx.x < 8) output.data[threadIdx.x] = count[threadIdx.x];
}

template <bool kRepaired>
void plain_counter(TensorView experts, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(experts.size(0)), experts.device())
      .run<plain_counter_kernel<kRepaired>>(items<const int>("experts", experts), items<int>("output", output));
}

// ---- result_without_fence: the last block adds up what the others wrote, but they never published it

template <bool kRepaired>
__global__ void result_without_fence_kernel(Items<const int> input, Items<int> partial, Items<int> output) {
  const int sum = __reduce_add_sync(0xffffffff, input.data[blockIdx.x * 32 + threadIdx.x]);
  if (threadIdx.x > 0) return;
  partial.data[blockIdx.x] = sum;
  if constexpr (kRepaired) __threadfence();
  const int blocks_before = atomicAdd(&output.data[0], 1);
  if (blocks_before + 1 < static_cast<int>(gridDim.x)) return;
  if constexpr (kRepaired) __threadfence();
  int total = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) total += partial.data[block];  // BUG: result_without_fence
  output.data[1] = total;
}

template <bool kRepaired>
void result_without_fence(TensorView input, TensorView partial, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 32, input.device())
      .run<result_without_fence_kernel<kRepaired>>(items<const int>("input", input), items<int>("partial", partial),
                                                   items<int>("output", output));
}

}  // namespace minisgl::test
