// Kernels with known patterns of access, for test_figures.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

struct Triple {
  float values[3];
};
struct alignas(16) Block {
  float values[16];
};

/// Thread i loads element indices[i] of `input`.
template <class T>
__global__ void gather_kernel(int* output, const T* input, const int* indices, int size) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const T value = input[indices[i]];  // the pattern
  output[i] = *reinterpret_cast<const unsigned char*>(&value);
}

template <class T>
void gather(TensorView output, TensorView input, TensorView indices, int64_t num_threads) {
  const int size = static_cast<int>(indices.size(0));
  LaunchKernel(static_cast<unsigned>((size + num_threads - 1) / num_threads), static_cast<unsigned>(num_threads),
               output.device())
      .run<gather_kernel<T>>(static_cast<int*>(output.data()), static_cast<const T*>(input.data()),
                             static_cast<const int*>(indices.data()), size);
}

/// The same from shared memory, that one block fills first.
template <class T>
__global__ void shared_gather_kernel(int* output, const int* indices) {
  __shared__ T values[1024];
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) values[i] = T{};
  __syncthreads();
  const T value = values[indices[threadIdx.x]];  // the shared pattern
  output[threadIdx.x] = *reinterpret_cast<const unsigned char*>(&value);
}

template <class T>
void shared_gather(TensorView output, TensorView indices) {
  LaunchKernel(1, static_cast<unsigned>(indices.size(0)), output.device())
      .run<shared_gather_kernel<T>>(static_cast<int*>(output.data()), static_cast<const int*>(indices.data()));
}

/// One block turns a tile of 32 x 32 around, with rows of 32 + kPadding in shared memory.
template <int kPadding>
__global__ void transpose_kernel(float* output, const float* input) {
  __shared__ float tile[32][32 + kPadding];
  const int x = threadIdx.x, y = threadIdx.y;
  tile[y][x] = input[y * 32 + x];
  __syncthreads();
  output[y * 32 + x] = tile[x][y];  // the column
}

template <int kPadding>
void transpose(TensorView output, TensorView input) {
  LaunchKernel(1, dim3(32, 32), output.device())
      .run<transpose_kernel<kPadding>>(static_cast<float*>(output.data()), static_cast<const float*>(input.data()));
}

/// Lane i runs i + 1 rounds of a loop; round k is one request of the lanes that are still there.
__global__ void uneven_kernel(float* output, const float* input) {
  float sum = 0;
  for (int k = 0; k <= static_cast<int>(threadIdx.x); ++k) sum += input[k * 32 + threadIdx.x];  // the rounds
  output[threadIdx.x] = sum;
}

inline void uneven(TensorView output, TensorView input) {
  LaunchKernel(1, 32, output.device())
      .run<uneven_kernel>(static_cast<float*>(output.data()), static_cast<const float*>(input.data()));
}

}  // namespace minisgl::test
