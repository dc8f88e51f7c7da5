// Static and dynamic shared memory, for test_shared.py.
#include <cuda_fp16.h>
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

struct Pair {
  int first;
  float second;
};

/// Static arrays of several types and ranks; every thread writes its part, and reads that of the thread opposite.
__global__ void static_arrays_kernel(float* output) {
  __shared__ int64_t wide[64];
  __shared__ uint8_t bytes[64];
  __shared__ float matrix[8][9];
  __shared__ Pair pairs[64];
  const int i = threadIdx.x, opposite = 63 - i;
  wide[i] = int64_t{i} << 32;
  bytes[i] = static_cast<uint8_t>(i);
  matrix[i / 8][i % 8] = 0.5f * static_cast<float>(i);
  pairs[i] = {i, 0.25f};
  __syncthreads();
  output[i] = static_cast<float>(wide[opposite] >> 32) + bytes[opposite] + matrix[opposite / 8][opposite % 8] +
              static_cast<float>(pairs[opposite].first) + pairs[opposite].second;
}

inline void static_arrays(TensorView output) {
  LaunchKernel(2, 64, output.device()).run<static_arrays_kernel>(data<float>(output));
}

/// An array on every thread's own stack, kept across a barrier.
__global__ void large_local_array_kernel(int* output) {
  __shared__ int values[64];
  volatile int local[120 * 1024];
  local[threadIdx.x * 1024] = static_cast<int>(threadIdx.x);
  __syncthreads();
  values[threadIdx.x] = local[threadIdx.x * 1024];
  __syncthreads();
  output[threadIdx.x] = values[63 - threadIdx.x];
}

inline void large_local_array(TensorView output) {
  LaunchKernel(1, 64, output.device()).run<large_local_array_kernel>(data<int>(output));
}

/// One buffer of dynamic shared memory, cut into parts of several types.
__global__ void carve_kernel(const int* input, double* output) {
  extern __shared__ __align__(16) unsigned char buffer[];
  const int i = threadIdx.x, n = blockDim.x;
  const auto doubles = reinterpret_cast<double*>(buffer);
  const auto vectors = reinterpret_cast<float4*>(buffer + n * sizeof(double));
  const auto halves = reinterpret_cast<__half*>(buffer + n * (sizeof(double) + sizeof(float4)));
  doubles[i] = input[i] + 0.125;
  vectors[i] = make_float4(static_cast<float>(input[i]), 1.0f, 2.0f, 3.0f);
  halves[i] = __float2half(0.5f);
  __syncthreads();
  const int next = (i + 1) % n;
  output[i] = doubles[next] + vectors[next].x + vectors[next].w + __half2float(halves[next]);
}

inline void carve(TensorView input, TensorView output) {
  const auto n = static_cast<unsigned>(input.size(0));
  LaunchKernel(1, n, input.device(), n * (sizeof(double) + sizeof(float4) + sizeof(__half)))
      .run<carve_kernel>(data<const int>(input), data<double>(output));
}

/// Each block reverses a row of any length in a buffer of exactly its size.
template <class T>
__global__ void reverse_row_kernel(const T* input, T* output, int length) {
  extern __shared__ T row[];
  const int64_t first = int64_t{blockIdx.x} * length;
  for (int i = threadIdx.x; i < length; i += blockDim.x) row[i] = input[first + i];
  __syncthreads();
  for (int i = threadIdx.x; i < length; i += blockDim.x) output[first + i] = row[length - 1 - i];
}

inline void reverse_rows(TensorView input, TensorView output) {
  const int64_t length = input.size(1);
  LaunchKernel(static_cast<unsigned>(input.size(0)), 64, input.device(), static_cast<std::size_t>(length) * sizeof(int))
      .run<reverse_row_kernel<int>>(data<const int>(input), data<int>(output), static_cast<int>(length));
}

/// The same name for another type in another kernel, and static shared memory beside it.
__global__ void weighted_row_kernel(const int* input, float* output) {
  extern __shared__ float weights[];
  __shared__ int values[32];
  const int i = threadIdx.x;
  weights[i] = 0.5f * static_cast<float>(i);
  values[i] = input[i];
  __syncthreads();
  output[i] = weights[31 - i] * static_cast<float>(values[31 - i]);
}

inline void weighted_row(TensorView input, TensorView output) {
  LaunchKernel(1, 32, input.device(), 32 * sizeof(float))
      .run<weighted_row_kernel>(data<const int>(input), data<float>(output));
}

/// Shared memory of a device function: every kernel that calls it has it, and its address can be passed around.
__device__ int* counter() {
  __shared__ int count;
  return &count;
}

__global__ void count_kernel(const int* input, int* output) {
  int* const count = counter();
  if (threadIdx.x == 0) *count = 0;
  __syncthreads();
  if (input[blockIdx.x * blockDim.x + threadIdx.x] > 0) atomicAdd(count, 1);
  __syncthreads();
  if (threadIdx.x == 0) output[blockIdx.x] = *count;
}

inline void count_positive(TensorView input, TensorView output) {
  LaunchKernel(static_cast<unsigned>(input.size(0)), static_cast<unsigned>(input.size(1)), input.device())
      .run<count_kernel>(data<const int>(input), data<int>(output));
}

}  // namespace minisgl::test
