// Faults, and what only looks like one, for test_findings.py. `// HERE: name` marks the line that a finding must name.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>

#include <cstdint>
#include <cstring>

namespace minisgl::test {

template <class T>
T* data(TensorView tensor) {
  return static_cast<T*>(tensor.data());
}

// ---- Silent

/// The last block to finish adds up what all have written: fences and an atomic order the blocks.
__global__ void last_block_kernel(const int* input, int* partial, unsigned* ticket, int* output) {
  __shared__ bool is_last;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  partial[i] = 2 * input[i];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += partial[block * blockDim.x + threadIdx.x];
  output[threadIdx.x] = sum;
}

inline void last_block(TensorView input, TensorView partial, TensorView ticket, TensorView output) {
  const auto num_threads = static_cast<unsigned>(output.size(0));
  LaunchKernel(static_cast<unsigned>(input.size(0)) / num_threads, num_threads, input.device())
      .run<last_block_kernel>(data<int>(input), data<int>(partial), data<unsigned>(ticket), data<int>(output));
}

/// Neighbouring threads write neighbouring bytes, and halves of a warp meet on their own.
__global__ void neighbours_kernel(uint8_t* output, const uint8_t* input) {
  __shared__ uint8_t bytes[64];
  const int t = threadIdx.x;
  const unsigned half = t % 32 < 16 ? 0x0000ffff : 0xffff0000;
  bytes[t] = input[t];
  __syncwarp(half);
  const uint8_t other = bytes[t ^ 1];
  __syncwarp(half);
  bytes[t] = other;
  __syncthreads();
  output[t] = bytes[t] + bytes[63] - bytes[63];
}

inline void neighbours(TensorView output, TensorView input) {
  LaunchKernel(3, 64, output.device()).run<neighbours_kernel>(data<uint8_t>(output), data<uint8_t>(input));
}

__global__ void double_kernel(float* output, const float* input) { output[threadIdx.x] = 2 * input[threadIdx.x]; }

/// Two launches: what the first has written, the second may read. The first argument is also the second.
inline void twice(TensorView inout, TensorView same) {
  auto n = SymbolicSize("n");
  TensorMatcher({n}).verify("inout", inout);
  TensorMatcher({n}).verify("same", same);
  const auto threads = static_cast<unsigned>(n.value());
  for (int i = 0; i < 2; ++i)
    LaunchKernel(1, threads, inout.device()).run<double_kernel>(data<float>(inout), data<float>(same));
}

__global__ void add_kernel(float* sum, const float* input) { atomicAdd(&sum[threadIdx.x % 4], input[threadIdx.x]); }

/// The launcher clears what the kernel adds to.
inline void cleared(TensorView output, TensorView input) {
  TensorMatcher({4}).verify("output", output);
  check_cuda(cudaMemsetAsync(output.data(), 0, 16, current_stream(output.device())), "cudaMemsetAsync");
  LaunchKernel(2, 32, output.device()).run<add_kernel>(data<float>(output), data<float>(input));
}

inline void not_cleared(TensorView output, TensorView input) {
  TensorMatcher({4}).verify("output", output);
  LaunchKernel(2, 32, output.device()).run<add_kernel>(data<float>(output), data<float>(input));
}

struct alignas(8) Pair {
  int64_t key;
  int value;
};

/// A structure of 16 bytes that need only be aligned to 8.
__global__ void pairs_kernel(Pair* output, const Pair* input) { output[threadIdx.x] = input[threadIdx.x]; }

inline void pairs(TensorView output, TensorView input) {
  LaunchKernel(1, 4, output.device()).run<pairs_kernel>(data<Pair>(output), data<Pair>(input));
}

// ---- Faults

template <int kFault>
__global__ void fault_kernel(int* output, const int* input, int n) {
  __shared__ int tile[32];
  __shared__ int behind[32];
  int local[4] = {n, n, n, n};
  const int t = threadIdx.x;
  behind[t] = tile[t] = 0;
  if constexpr (kFault == 0) output[t] = input[t + n];                                     // HERE: tensor
  if constexpr (kFault == 1) output[t] = *reinterpret_cast<const int*>(intptr_t{64} * n);  // HERE: wild
  if constexpr (kFault == 2) output[t] = tile[t + n];                                      // HERE: shared
  if constexpr (kFault == 3) output[t] = local[(t + n) % 8];                               // HERE: local
  if constexpr (kFault == 4) output[t] = 1'000'000'000 * n + t;                            // HERE: overflow
  if constexpr (kFault == 5) output[t] = t / (n - 4);                                      // HERE: division
  if constexpr (kFault == 6) output[t] = reinterpret_cast<const int2*>(input + 1)[t].x;    // HERE: aligned
  if constexpr (kFault == 7) memcpy(output, input, n * sizeof(int));                       // HERE: memcpy
  if constexpr (kFault == 8) atomicAdd(&output[t * n], 1);                                 // HERE: atomic
}

template <int kFault>
void fault(TensorView output, TensorView input, int64_t n) {
  TensorMatcher({kAny}).verify("output", output);
  TensorMatcher({kAny}).verify("input", input);
  LaunchKernel(1, 32, output.device())
      .run<fault_kernel<kFault>>(data<int>(output), data<int>(input), static_cast<int>(n));
}

/// Only thread 0 of each block fences; the atomic does not order what the others wrote.
__global__ void unfenced_kernel(int* partial, unsigned* ticket, int* output) {
  partial[blockIdx.x] = 1;
  if (atomicAdd(ticket, 1u) == gridDim.x - 1) *output = partial[0];  // HERE: unfenced
}

inline void unfenced(TensorView partial, TensorView ticket, TensorView output) {
  LaunchKernel(3, 1, output.device())
      .run<unfenced_kernel>(data<int>(partial), data<unsigned>(ticket), data<int>(output));
}

__global__ void diverging_kernel(int* output) {
  if (threadIdx.x < 7) __syncthreads();  // HERE: diverging
  output[threadIdx.x] = 1;
}

inline void diverging(TensorView output) {
  LaunchKernel(1, 32, output.device()).run<diverging_kernel>(data<int>(output));
}

// ---- Random programs

enum Op { kNothing, kRead, kWrite, kAtomic, kSyncThreads, kSyncWarp };

/// Step s of thread t of block b does ops[s, b, t]; everybody uses the same cell.
template <bool kShared>
__global__ void program_kernel(const int* ops, const int* masks, int num_steps, int* cell, int* sink) {
  __shared__ int shared_cell;
  int* target = kShared ? &shared_cell : cell;
  int sum = 0;
  for (int s = 0; s < num_steps; ++s) {
    const int i = (s * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
    switch (ops[i]) {
      case kRead: sum += *target; break;
      case kWrite: *target = s; break;
      case kAtomic: atomicAdd(target, 1); break;
      case kSyncThreads: __syncthreads(); break;
      case kSyncWarp: __syncwarp(static_cast<unsigned>(masks[i])); break;
      default: break;
    }
  }
  sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

template <bool kShared>
void program(TensorView ops, TensorView masks, TensorView cell, TensorView sink) {
  LaunchKernel(static_cast<unsigned>(ops.size(1)), static_cast<unsigned>(ops.size(2)), ops.device())
      .run<program_kernel<kShared>>(data<int>(ops), data<int>(masks), static_cast<int>(ops.size(0)), data<int>(cell),
                                    data<int>(sink));
}

}  // namespace minisgl::test
