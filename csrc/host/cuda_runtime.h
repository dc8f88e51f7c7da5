// Exported from notebooks/03_one_source_two_machines.md by "minisgl book export"; edit it there. sha256:e3d11bc905e9

#pragma once

// NVIDIA's <cuda_runtime.h>, as far as the kernels of this book need it, for the machine that runs this process. The
// include path puts this file in front of NVIDIA's, so that a kernel source is compiled unchanged.

#include <minisgl/observe.h>
#include <pthread.h>
#include <runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <type_traits>

// A __global__ function is called from one place alone, the loop below, and must melt into it: a call per CUDA thread
// can cost as much as the work of a thread.
#define __global__ __attribute__((always_inline)) inline
#define __device__
#define __host__
#define __constant__
#define __noinline__  // nothing at all: the C++ library spells an attribute so
#define __forceinline__ __attribute__((always_inline)) inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

#include <vector_types.h>

#ifdef MINISGL_HOST_PARALLEL
#define MINISGL_PER_OS_THREAD thread_local
#else
#define MINISGL_PER_OS_THREAD
#endif

// Plain variables, not thread_local: looking a thread-local up costs a function call per CUDA thread in a shared
// library. launch_mutex keeps two launches from sharing them.
inline MINISGL_PER_OS_THREAD uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim{}, gridDim{};
inline constexpr int warpSize = 32;

namespace minisgl::host {

inline std::mutex launch_mutex;

// A child process that is forked during a launch would inherit a locked mutex and wait for ever.
inline const int fork_handlers =
    pthread_atfork([] { launch_mutex.lock(); }, [] { launch_mutex.unlock(); }, [] { launch_mutex.unlock(); });

}  // namespace minisgl::host

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

// Shared memory is static: an OS thread runs one block at a time. Its section tells that it is shared.
#define MINISGL_SHARED(number) static MINISGL_PER_OS_THREAD __attribute__((section("minisgl_shared_" #number)))
#define MINISGL_EXPANDED(macro, number) macro(number)
#define __shared__ MINISGL_EXPANDED(MINISGL_SHARED, __COUNTER__)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotReady = 600,
};
using cudaStream_t = void*;

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    default: return "invalid configuration argument";
  }
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

// A stream has done its work when the call that asked for it returns: an event is never waited for.
using cudaEvent_t = void*;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t = nullptr) { return cudaSuccess; }
inline cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned = 0) { return cudaSuccess; }

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};

inline cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
  std::memmove(dst, src, bytes);
  MINISGL_OBSERVE(observe_write(dst, bytes));
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t = nullptr) {
  std::memset(dst, value, bytes);
  MINISGL_OBSERVE(observe_write(dst, bytes));
  return cudaSuccess;
}

struct cudaDeviceProp {
  char name[256];
  size_t sharedMemPerBlock, sharedMemPerBlockOptin;
  int warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3], multiProcessorCount, major, minor;
};

/// One multiprocessor of a GPU that has the limits of sm_90.
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"CPU", 49152, 232448, 32, 1024, {1024, 1024, 64}, {0x7fffffff, 65535, 65535}, 1, 9, 0};
  return cudaSuccess;
}

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, device);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(properties.sharedMemPerBlock); break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(properties.sharedMemPerBlockOptin); break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

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

namespace minisgl::host {

inline constexpr size_t kMaxSharedBytes = 227 * 1024;

/// Whether every GPU that this book compiles for accepts a launch of this shape.
constexpr bool launchable(dim3 grid, dim3 block) {
  const bool block_fits = block.x >= 1 && block.x <= 1024 && block.y >= 1 && block.y <= 1024 && block.z >= 1 &&
                          block.z <= 64 && block.x * block.y * block.z <= 1024;
  const bool grid_fits =
      grid.x >= 1 && grid.x <= 0x7fffffff && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535;
  return block_fits && grid_fits;
}

/// The dynamic shared memory of the block that runs on this OS thread. Its address never changes, so that a pointer to
/// it may be a global variable.
struct alignas(1024) DynamicSharedMemory {
  std::byte bytes[kMaxSharedBytes];

  /// Let AddressSanitizer refuse what lies beyond the first `size` bytes.
  void limit([[maybe_unused]] size_t size) {
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(bytes, size);
    ASAN_POISON_MEMORY_REGION(bytes + size, kMaxSharedBytes - size);
#endif
  }

  template <class T>
  using Array = T[];

  /// A declaration of dynamic shared memory is compiled as `T (&name)[] = dynamic_shared_memory;`.
  template <class T>
  operator Array<T>&() {
    return reinterpret_cast<Array<T>&>(bytes);
  }
};

inline MINISGL_PER_OS_THREAD DynamicSharedMemory dynamic_shared_memory;
inline MINISGL_PER_OS_THREAD Loop thread_loop{};

/// Run threads `first`, `first + 1`, ... of the current block up to the loop's limit, row by row of the block. The
/// parameters are copies of this function's own, so that they can stay in registers.
template <auto kKernel, class... Params>
__attribute__((noinline)) void run_threads(unsigned first, Params... params) {
  const dim3 block = blockDim;
  unsigned thread = first;
  for (unsigned row = first / block.x; thread < thread_loop.thread_limit; ++row) {
    const unsigned row_begin = row * block.x;
    threadIdx.y = row % block.y;
    threadIdx.z = row / block.y;
    const unsigned row_end = row_begin + block.x, limit = thread_loop.thread_limit;
    thread_loop.row_limit = row_end < limit ? row_end : limit;
    for (; thread < thread_loop.row_limit; ++thread) {
      threadIdx.x = thread - row_begin;
      kKernel(params...);
    }
  }
}

inline Loop* enter_block(const Kernel& kernel, unsigned x, unsigned y, unsigned z) {
  blockIdx = {x, y, z};
  thread_loop.block_idx = &blockIdx.x;
  dynamic_shared_memory.limit(kernel.launch.dynamic_shared_bytes);
  return &thread_loop;
}

#ifdef MINISGL_HOST_PARALLEL
inline constexpr bool kIsParallel = true;
#else
inline constexpr bool kIsParallel = false;
#endif

/// The launch as the scheduler sees it. `run(first)` runs threads of the current block, as `run_threads` does.
template <class Run>
Kernel as_host_kernel(const cudaLaunchConfig_t& config, const Run& run) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  return {.launch = {{grid.x, grid.y, grid.z},
                     {block.x, block.y, block.z},
                     dynamic_shared_memory.bytes,
                     config.dynamicSmemBytes,
                     &threadIdx.x,
                     &gridDim},
          .enter_block = enter_block,
          .run = [](const Kernel& kernel, unsigned first) { (*static_cast<const Run*>(kernel.arguments))(first); },
          .arguments = &run,
          .parallel = kIsParallel};
}

/// Run a kernel to its end. It is a template argument, so that the compiler sees which kernel it inlines.
template <auto kKernel, class... Params>
cudaError_t launch_kernel(const cudaLaunchConfig_t& config, Params... params) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (!launchable(grid, block)) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > kMaxSharedBytes) return cudaErrorInvalidValue;
  const std::lock_guard lock(launch_mutex);
  gridDim = grid;
  blockDim = block;

  const auto run = [&](unsigned first) { run_threads<kKernel, Params...>(first, params...); };
  const Kernel kernel = as_host_kernel(config, run);
  if (kernel.parallel || !is_plain()) {
    run_grid(kernel);
    return cudaSuccess;
  }

  enter_block(kernel, 0, 0, 0);
  begin_plain(kernel, thread_loop);
  jmp_buf escape;
  thread_loop.escape = &escape;
  if (_setjmp(escape) != 0) throw_failure(thread_loop);
  const unsigned num_threads = block.x * block.y * block.z;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        thread_loop.thread_limit = num_threads;
        run_threads<kKernel, Params...>(0, params...);
        if (thread_loop.waited) finish_block(thread_loop);
      }
  return cudaSuccess;
}

template <auto kKernel, class... Params>
cudaError_t launch_kernel_as(const cudaLaunchConfig_t& config, void (*)(Params...),
                             std::type_identity_t<Params>... params) {
  return launch_kernel<kKernel, Params...>(config, params...);
}

/// Call a kernel that is known when this runs.
template <class... Params>
__global__ void call_kernel(void (*kernel)(Params...), Params... params) {
  kernel(params...);
}

}  // namespace minisgl::host

/// The launch that our LaunchKernel uses: the kernel is known when this is compiled.
template <auto kKernel, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, Args... args) {
  return minisgl::host::launch_kernel_as<kKernel>(*config, kKernel, args...);
}

/// CUDA's own launch, with a kernel that is known when this runs.
template <class... Params>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               std::type_identity_t<Params>... params) {
  return minisgl::host::launch_kernel<minisgl::host::call_kernel<Params...>>(*config, kernel, params...);
}

#include <atomics.h>
#include <collectives.h>
#include <device_functions.h>
