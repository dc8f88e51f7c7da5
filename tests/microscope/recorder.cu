// Kernels whose accesses are known one by one, for test_recorder.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

#include <cstdint>
#include <cstring>

namespace minisgl::test {

/// Each thread copies one element, `stride` apart in the output.
template <class T>
__global__ void scatter_kernel(T* output, const T* input, int size, int stride) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  output[i * stride] = input[i];
}

template <class T>
void scatter(TensorView output, TensorView input) {
  TensorMatcher({kAny}).with_strides({kAny}).verify("output", output);
  TensorMatcher({kAny}).verify("input", input);
  LaunchKernel(2, 48, output.device())
      .run<scatter_kernel<T>>(static_cast<T*>(output.data()), static_cast<const T*>(input.data()),
                              static_cast<int>(input.size(0)), static_cast<int>(output.stride(0)));
}

/// A grid and blocks of three dimensions: each thread writes its number.
__global__ void number_kernel(int* output) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  output[block * 24 + thread] = thread;
}

inline void number(TensorView output) {
  LaunchKernel(dim3(2, 3, 4), dim3(2, 3, 4), output.device()).run<number_kernel>(static_cast<int*>(output.data()));
}

__device__ inline int next_of(const int* values, int i) { return values[i + 1]; }  // inlined here

/// Through static and dynamic shared memory, with barriers and a shuffle; `local` never leaves the thread.
__global__ void shared_kernel(int* output, const int* input) {
  __shared__ int fixed[65];
  extern __shared__ int dynamic[];
  const int t = threadIdx.x;
  int local[4];
  fixed[t] = input[t];
  if (t == 0) fixed[64] = 0;
  __syncthreads();
  for (int i = 0; i < 4; ++i) local[i] = t + i;
  dynamic[t] = next_of(fixed, t) + local[t % 4] - local[t % 4];
  __syncwarp();
  output[t] = __shfl_xor_sync(0xffffffff, dynamic[t], 1);
}

inline void shared(TensorView output, TensorView input) {
  LaunchKernel(1, 64, output.device(), 64 * sizeof(int))
      .run<shared_kernel>(static_cast<int*>(output.data()), static_cast<const int*>(input.data()));
}

/// Every atomic operation changes an element of its own.
__global__ void atomics_kernel(int* ints, float* floats, unsigned long long* longs) {
  atomicAdd(&ints[0], 1);
  atomicSub(&ints[1], 1);
  atomicExch(&ints[2], 5);
  atomicMin(&ints[3], -static_cast<int>(threadIdx.x));
  atomicMax(&ints[4], static_cast<int>(threadIdx.x));
  atomicAnd(&ints[5], ~(1 << threadIdx.x % 32));
  atomicOr(&ints[6], 1 << threadIdx.x % 32);
  atomicXor(&ints[7], 3);
  atomicCAS(&ints[8], static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.x) + 1);
  atomicAdd(&floats[0], 0.5f);
  atomicAdd(&longs[0], 1ull << 33);
}

inline void atomics(TensorView ints, TensorView floats, TensorView longs) {
  LaunchKernel(1, 32, ints.device())
      .run<atomics_kernel>(static_cast<int*>(ints.data()), static_cast<float*>(floats.data()),
                           static_cast<unsigned long long*>(longs.data()));
}

struct Triple {
  int values[3];
};

/// Accesses that no single instruction makes: a structure of 12 bytes, and the C library's functions.
__global__ void pieces_kernel(Triple* output, const Triple* input, uint8_t* bytes, int size) {
  output[threadIdx.x] = input[threadIdx.x];
  if (threadIdx.x == 0) memset(bytes, 7, size);
  if (threadIdx.x == 1) memcpy(bytes + size, bytes + 2 * size, size);
}

inline void pieces(TensorView output, TensorView input, TensorView bytes, int64_t size) {
  LaunchKernel(1, 2, output.device())
      .run<pieces_kernel>(static_cast<Triple*>(output.data()), static_cast<const Triple*>(input.data()),
                          static_cast<uint8_t*>(bytes.data()), static_cast<int>(size));
}

inline void refuse(TensorView output) { TensorMatcher({3}).verify("output", output); }

}  // namespace minisgl::test
