// Grids, blocks and the runtime API, for test_launches.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstddef>
#include <cstdint>

namespace minisgl::test {

template <class T>
T* data(TensorView tensor) {
  return static_cast<T*>(tensor.data());
}

/// output[block][thread] = the six coordinates, packed into decimal digits in pairs.
__global__ void coordinates_kernel(int64_t* output) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned digits[] = {blockIdx.z, blockIdx.y, blockIdx.x, threadIdx.z, threadIdx.y, threadIdx.x};
  int64_t packed = 0;
  for (unsigned digit : digits) packed = 100 * packed + digit;
  output[int64_t{block} * (blockDim.x * blockDim.y * blockDim.z) + thread] = packed;
}

inline void coordinates(TensorView output) {
  const auto size = [&](int i) { return static_cast<unsigned>(output.size(i)); };
  LaunchKernel(dim3(size(2), size(1), size(0)), dim3(size(5), size(4), size(3)), output.device())
      .run<coordinates_kernel>(data<int64_t>(output));
}

/// A barrier and a warp collective in a block of three dimensions: the linear thread number makes the warps.
__global__ void block_3d_kernel(int* output) {
  __shared__ int values[1024];
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int size = blockDim.x * blockDim.y * blockDim.z;
  values[thread] = __shfl_sync(0xffffffff, thread, 0);
  __syncthreads();
  output[thread] = values[size - 1 - thread];
}

inline void block_3d(TensorView output) {
  const auto size = [&](int i) { return static_cast<unsigned>(output.size(i)); };
  LaunchKernel(1, dim3(size(2), size(1), size(0)), output.device()).run<block_3d_kernel>(data<int>(output));
}

/// Two kernels of one library, to be launched from several Python threads at once.
__global__ void sum_of_block_kernel(const int* input, int* output, int factor) {
  __shared__ int values[256];
  const int thread = threadIdx.x;
  values[thread] = factor * input[blockIdx.x * 256 + thread];
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) values[thread] += values[thread + half];
  }
  if (thread == 0) output[blockIdx.x] = values[0];
}

__global__ void largest_of_warp_kernel(const int* input, int* output) {
  int value = input[blockIdx.x * 32 + threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) value = max(value, __shfl_xor_sync(0xffffffff, value, distance));
  if (threadIdx.x == 0) output[blockIdx.x] = value;
}

inline void sums_of_blocks(TensorView input, TensorView output, int64_t factor) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), 256, input.device())
      .run<sum_of_block_kernel>(data<const int>(input), data<int>(output), static_cast<int>(factor));
}

inline void largest_of_warps(TensorView input, TensorView output) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), 32, input.device())
      .run<largest_of_warp_kernel>(data<const int>(input), data<int>(output));
}

/// Copy and set memory on the tensors' stream: output = input, then `num_bytes` bytes of it from the start are `value`.
inline void copy_and_set(TensorView input, TensorView output, int64_t num_bytes, int64_t value) {
  const auto stream = current_stream(input.device());
  const auto bytes = static_cast<std::size_t>(input.num_elements() * dtype_bytes(input.dtype()));
  check_cuda(cudaMemcpyAsync(output.data(), input.data(), bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  check_cuda(cudaMemsetAsync(output.data(), static_cast<int>(value), static_cast<std::size_t>(num_bytes), stream),
             "cudaMemsetAsync");
}

/// What the device says of itself, once as properties and once as an attribute: warp size, multiprocessors, shared
/// bytes of a block (0, 1), threads of a block.
inline int64_t device_property(int64_t which, bool as_attribute) {
  if (as_attribute) {
    constexpr cudaDeviceAttr kAttributes[] = {cudaDevAttrWarpSize, cudaDevAttrMultiProcessorCount,
                                              cudaDevAttrMaxSharedMemoryPerBlock,
                                              cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMaxThreadsPerBlock};
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, kAttributes[which], 0), "cudaDeviceGetAttribute");
    return value;
  }
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const int64_t values[] = {properties.warpSize, properties.multiProcessorCount,
                            static_cast<int64_t>(properties.sharedMemPerBlock),
                            static_cast<int64_t>(properties.sharedMemPerBlockOptin), properties.maxThreadsPerBlock};
  return values[which];
}

/// A launch of any shape, refused or not.
__global__ void nothing_kernel() {}

inline void launch_shape(TensorView grid_and_block) {
  const auto shape = data<const int>(grid_and_block);
  const auto size = [&](int i) { return static_cast<unsigned>(shape[i]); };
  LaunchKernel(dim3(size(0), size(1), size(2)), dim3(size(3), size(4), size(5)), grid_and_block.device())
      .run<nothing_kernel>();
}

}  // namespace minisgl::test
