// Exported from notebooks/03_one_source_two_machines.md by "minisgl book export"; edit it there. sha256:02906c090fbf

#pragma once

// NVIDIA's <cuda_runtime.h>, as far as the kernels of this book need it, for the machine that runs this process. The
// include path puts this file in front of NVIDIA's, so that a kernel source is compiled unchanged.

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <type_traits>

// A __global__ function is called from one place alone, the loop below, and must melt into it: a call per CUDA thread
// can cost as much as the work of a thread.
#define __global__ __attribute__((always_inline)) inline
#define __device__
#define __host__
#define __forceinline__ __attribute__((always_inline)) inline
#define __grid_constant__
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) uint2 {
  unsigned x, y;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// Plain variables, not thread_local: looking a thread-local up costs a function call per CUDA thread in a shared
// library. launch_mutex keeps two launches from sharing them.
inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim{}, gridDim{};
inline std::mutex launch_mutex;

// A child process that is forked during a launch would inherit a locked mutex and wait for ever.
inline const int fork_handlers =
    pthread_atfork([] { launch_mutex.lock(); }, [] { launch_mutex.unlock(); }, [] { launch_mutex.unlock(); });
inline constexpr int warpSize = 32;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };

struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

/// Whether every GPU that this book compiles for accepts a launch of this shape.
constexpr bool launchable(dim3 grid, dim3 block) {
  const bool block_fits = block.x >= 1 && block.x <= 1024 && block.y >= 1 && block.y <= 1024 && block.z >= 1 &&
                          block.z <= 64 && block.x * block.y * block.z <= 1024;
  const bool grid_fits =
      grid.x >= 1 && grid.x <= 0x7fffffff && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535;
  return block_fits && grid_fits;
}

/// Run a kernel to its end: one block after the other, one thread after the other. It is inlined, so that the compiler
/// sees which kernel it is, and takes the parameters by value, so that they can stay in registers.
template <class... Params>
__forceinline__ cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                                               std::type_identity_t<Params>... params) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  if (!launchable(grid, block)) return cudaErrorInvalidConfiguration;
  const std::lock_guard lock(launch_mutex);
  gridDim = grid;
  blockDim = block;
  for (unsigned bz = 0; bz < grid.z; ++bz)
    for (unsigned by = 0; by < grid.y; ++by)
      for (unsigned bx = 0; bx < grid.x; ++bx) {
        blockIdx = {bx, by, bz};
        for (unsigned tz = 0; tz < block.z; ++tz)
          for (unsigned ty = 0; ty < block.y; ++ty)
            for (unsigned tx = 0; tx < block.x; ++tx) {
              threadIdx = {tx, ty, tz};
              kernel(params...);
            }
      }
  return cudaSuccess;
}
