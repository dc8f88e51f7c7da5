// A program without Python: barriers, shuffles and a failure, for compilers and processors that Python does not run on.
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <string>

__global__ void block_sum(const int* x, int* sums) {
  __shared__ int warp_sums[32];
  int sum = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sums[blockIdx.x] += warp_sums[warp];
  }
}

__global__ void half_a_barrier() {
  if (threadIdx.x < 16) __syncthreads();
}

int main() {
  constexpr int kBlocks = 3, kThreads = 256;
  int x[kBlocks * kThreads], sums[kBlocks];
  for (int i = 0; i < kBlocks * kThreads; ++i) x[i] = i * i % 1000;
  cudaLaunchConfig_t config{};
  config.gridDim = kBlocks;
  config.blockDim = kThreads;
  cudaLaunchKernelEx<block_sum>(&config, x, sums);
  for (int block = 0; block < kBlocks; ++block) {
    int expected = 0;
    for (int i = 0; i < kThreads; ++i) expected += x[block * kThreads + i];
    if (sums[block] != expected) return std::printf("block %d: expected %d, got %d\n", block, expected, sums[block]), 1;
  }
  try {
    cudaLaunchKernelEx<half_a_barrier>(&config);
    return std::puts("a divergent barrier went unnoticed"), 1;
  } catch (const std::exception& error) {
    std::puts(error.what());
  }
  cudaLaunchKernelEx<block_sum>(&config, x, sums);
}
