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

// ---- Silent: who is ordered by other means than barriers

/// Lanes of one warp, and of two, take turns by a lock.
__global__ void lock_kernel(int* lock, int* sum, int first, int second) {
  const int t = threadIdx.x;
  if (t != first && t != second) return;
  for (bool done = false; !done;) {
    if (atomicCAS(lock, 0, 1) != 0) continue;
    __threadfence();
    *sum += t;
    __threadfence();
    atomicExch(lock, 0);
    done = true;
  }
}

inline void lock(TensorView lock, TensorView sum, int64_t first, int64_t second) {
  LaunchKernel(1, 64, sum.device())
      .run<lock_kernel>(data<int>(lock), data<int>(sum), static_cast<int>(first), static_cast<int>(second));
}

/// Lane 0 takes the lock for its whole warp.
__global__ void warp_lock_kernel(int* lock, int* sums) {
  const int lane = threadIdx.x % 32;
  if (lane == 0) {
    while (atomicCAS(lock, 0, 1) != 0) {
    }
    __threadfence();
  }
  __syncwarp();
  sums[lane] += lane;
  __threadfence();
  __syncwarp();
  if (lane == 0) {
    __threadfence();
    atomicExch(lock, 0);
  }
}

inline void warp_lock(TensorView lock, TensorView sums) {
  LaunchKernel(2, 64, sums.device()).run<warp_lock_kernel>(data<int>(lock), data<int>(sums));
}

/// The last warp to finish adds up. All lanes fence, and meet; lane 0 takes the ticket for them.
template <bool kWide>
__global__ void last_warp_kernel(const int* input, int* partial, unsigned* ticket, int* output) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  partial[i] = 2 * input[i];
  kWide ? __threadfence() : __threadfence_block();
  __syncwarp();
  unsigned number = 0;
  if (threadIdx.x == 0) number = atomicInc(ticket, gridDim.x - 1);
  number = __shfl_sync(0xffffffff, number, 0);
  if (number != gridDim.x - 1) return;
  __threadfence();
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += partial[block * 32 + threadIdx.x];  // HERE: last_warp
  output[threadIdx.x] = sum;
}

template <bool kWide>
void last_warp(TensorView input, TensorView partial, TensorView ticket, TensorView output) {
  LaunchKernel(static_cast<unsigned>(input.size(0)) / 32, 32, input.device())
      .run<last_warp_kernel<kWide>>(data<int>(input), data<int>(partial), data<unsigned>(ticket), data<int>(output));
}

// ---- Silent: memory that only looks wrong

struct Best {
  float score;
  bool valid;
};

/// A structure with bytes that nobody writes, copied whole.
__global__ void padding_kernel(float* output, const float* input) {
  __shared__ Best best[32];
  const int t = threadIdx.x;
  best[t].score = input[t];
  best[t].valid = input[t] > 0;
  __syncwarp();
  for (int step = 16; step > 0; step /= 2) {
    if (t < step) {
      const Best other = best[t + step];
      if (other.valid && other.score > best[t].score) best[t] = other;
    }
    __syncwarp();
  }
  if (t == 0) *output = best[0].score;
}

inline void padding(TensorView output, TensorView input) {
  LaunchKernel(1, 32, output.device()).run<padding_kernel>(data<float>(output), data<float>(input));
}

__device__ __attribute__((noinline)) inline int pick(const int* table, int k) { return table[k & 3]; }

/// A table of constants beside a shared array.
template <int kFactor>
__global__ void table_kernel(int* output) {
  static const int kTable[4] = {2, 3, 5, 7};
  __shared__ int shared[32];
  shared[threadIdx.x] = kFactor * pick(kTable, static_cast<int>(threadIdx.x));
  __syncthreads();
  output[threadIdx.x] = shared[31 - threadIdx.x];
}

inline void table(TensorView output) { LaunchKernel(1, 32, output.device()).run<table_kernel<10>>(data<int>(output)); }

// ---- Faults

/// Adds atomically; then thread `reader`, or each block's first, reads the sum with nothing between.
template <bool kShared>
__global__ void sum_kernel(int* sum, int* output, int reader) {
  __shared__ int shared_sum;
  int* target = kShared ? &shared_sum : sum;
  if (kShared && threadIdx.x == 0) shared_sum = 0;
  __syncthreads();
  atomicAdd(target, 1);
  __syncwarp();
  if (static_cast<int>(threadIdx.x) == reader) output[blockIdx.x] = *target;  // HERE: sum
}

template <bool kShared>
void sum(TensorView sum, TensorView output, int64_t num_threads, int64_t reader) {
  LaunchKernel(static_cast<unsigned>(output.size(0)), static_cast<unsigned>(num_threads), sum.device())
      .run<sum_kernel<kShared>>(data<int>(sum), data<int>(output), static_cast<int>(reader));
}

/// Writes `n` elements behind the first of a small shared array, into whatever lies there; large_kernel's is near.
__global__ void small_kernel(int* output, int n) {
  __shared__ int small[32];
  int* pointer = small;
  small[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x == 0) pointer[n] = 1;  // HERE: small
  output[threadIdx.x] = small[threadIdx.x];
}

__global__ void large_kernel(int* output) {
  __shared__ int large[2048];
  for (int i = threadIdx.x; i < 2048; i += 32) large[i] = i;
  output[threadIdx.x] = large[threadIdx.x];
}

inline void beyond(TensorView output, int64_t n) {
  LaunchKernel(1, 32, output.device()).run<small_kernel>(data<int>(output), static_cast<int>(n));
  LaunchKernel(1, 32, output.device()).run<large_kernel>(data<int>(output));
}

__global__ void dynamic_kernel(int* output, int n) {
  extern __shared__ int dynamic[];
  dynamic[threadIdx.x] = n;  // HERE: dynamic
  output[threadIdx.x] = dynamic[threadIdx.x];
}

inline void dynamic(TensorView output, int64_t bytes) {
  LaunchKernel(1, 32, output.device(), static_cast<std::size_t>(bytes)).run<dynamic_kernel>(data<int>(output), 1);
}

__global__ void copy_kernel(int* output, const int* input) { output[threadIdx.x] = input[threadIdx.x]; }

/// Takes `input` for one without gaps.
inline void strided(TensorView output, TensorView input) {
  TensorMatcher({kAny}).with_strides({kAny}).verify("input", input);
  LaunchKernel(1, 4, output.device()).run<copy_kernel>(data<int>(output), data<int>(input));
}

/// Thread `waiting` of the block waits for another one to set a flag, which it does only later here.
__global__ void spin_kernel(int* output, int waiting) {
  __shared__ volatile int flag;
  if (threadIdx.x == 0) flag = 0;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) == waiting) {
    while (flag == 0) {  // HERE: spin
    }
  } else {
    flag = 1;
  }
  output[threadIdx.x] = flag;
}

inline void spin(TensorView output, int64_t waiting) {
  LaunchKernel(1, 32, output.device()).run<spin_kernel>(data<int>(output), static_cast<int>(waiting));
}

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
  if constexpr (kFault == 9) {
    atomicAdd(reinterpret_cast<int*>(reinterpret_cast<char*>(output) + n), 1);  // HERE: atomic_aligned
  }
  if constexpr (kFault == 10) memcpy(output + n, input, (n - 17) * sizeof(int));  // HERE: memcpy_to
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
