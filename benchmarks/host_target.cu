// Kernels of host_target.py: many barriers, many shuffles, and a kernel without either.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::bench {

__global__ void barriers_kernel(int num_rounds) {
  for (int round = 0; round < num_rounds; ++round) __syncthreads();
}

__global__ void shuffles_kernel(int* output, int num_rounds) {
  int value = threadIdx.x;
  for (int round = 0; round < num_rounds; ++round) value += __shfl_xor_sync(0xffffffff, value, 1);
  if (threadIdx.x == 0) output[blockIdx.x] = value;
}

inline void barriers(TensorView output, int64_t num_threads, int64_t num_rounds) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), static_cast<unsigned>(num_threads), output.device())
      .run<barriers_kernel>(static_cast<int>(num_rounds));
}

inline void shuffles(TensorView output, int64_t num_threads, int64_t num_rounds) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), static_cast<unsigned>(num_threads), output.device())
      .run<shuffles_kernel>(static_cast<int*>(output.data()), static_cast<int>(num_rounds));
}

struct ScaleKernelParams {
  float* output;
  const float* input;
  int64_t length;
  float factor;
};

/// output = factor * input, one element per thread.
__global__ void scale_kernel(const __grid_constant__ ScaleKernelParams params) {
  const auto& [output, input, length, factor] = params;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < length) output[i] = factor * input[i];
}

inline ScaleKernelParams scale_params(TensorView input, TensorView output) {
  return {static_cast<float*>(output.data()), static_cast<const float*>(input.data()), input.size(0), 2.0f};
}

inline void scale(TensorView input, TensorView output, int64_t num_threads) {
  const auto params = scale_params(input, output);
  const auto num_blocks = static_cast<unsigned>(div_ceil(params.length, num_threads));
  LaunchKernel(num_blocks, static_cast<unsigned>(num_threads), input.device()).run<scale_kernel>(params);
}

/// The same kernel in the bare loops over blocks and threads.
inline void scale_by_hand(TensorView input, TensorView output, int64_t num_threads) {
  const auto params = scale_params(input, output);
  const dim3 block(static_cast<unsigned>(num_threads));
  const auto num_blocks = static_cast<unsigned>(div_ceil(params.length, num_threads));
  blockDim = block;
  for (unsigned x = 0; x < num_blocks; ++x) {
    blockIdx = {x, 0, 0};
    for (unsigned tz = 0; tz < block.z; ++tz)
      for (unsigned ty = 0; ty < block.y; ++ty)
        for (unsigned tx = 0; tx < block.x; ++tx) {
          threadIdx = {tx, ty, tz};
          scale_kernel(params);
        }
  }
}

}  // namespace minisgl::bench
