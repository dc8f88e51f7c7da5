// Exported from notebooks/04_warps_vectors_launches.md by "minisgl book export"; edit it there. sha256:85c99223217b

#pragma once

#include <cuda_runtime.h>
#include <dlpack/dlpack.h>
#include <minisgl/utils.h>
#include <tvm/ffi/extra/c_env_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace minisgl {

inline constexpr int kWarpSize = 32;

/// The device type whose tensors this build of a kernel takes.
#ifdef __CUDACC__
inline constexpr DLDeviceType kDeviceType = kDLCUDA;
#else
inline constexpr DLDeviceType kDeviceType = kDLCPU;
#endif

/// Programmatic dependent launch exists from sm_90 on. The build system passes the architecture to the host code too.
#if defined(MINISGL_CUDA_ARCH) && MINISGL_CUDA_ARCH >= 900
inline constexpr bool kHasPDL = true;
#else
inline constexpr bool kHasPDL = false;
#endif

/// Throw for a CUDA error, and clear it: PyTorch would find it again after its own next launch.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
  require(error == cudaSuccess, "RuntimeError", what, ": ", cudaGetErrorString(error));
}

/// Makes a tensor's device the current one for a scope, as a launch needs it.
class DeviceGuard {
 public:
  explicit DeviceGuard(DLDevice device) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    changed_ = previous_ != device.device_id;
    if (changed_) check_cuda(cudaSetDevice(device.device_id), "cudaSetDevice");
  }
  ~DeviceGuard() {
    if (changed_) static_cast<void>(cudaSetDevice(previous_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

/// The stream that PyTorch is using on `device`: TVM-FFI passes it on with every call.
inline cudaStream_t current_stream(DLDevice device) {
  return static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
}

/// One launch on the current stream of a device:
///
///     LaunchKernel(num_blocks, kNumThreads, device).enable_pdl(kUsePDL).run<my_kernel<float>>(params);
class LaunchKernel {
 public:
  LaunchKernel(dim3 grid, dim3 block, DLDevice device, std::size_t shared_bytes = 0) {
    config_.gridDim = grid;
    config_.blockDim = block;
    config_.dynamicSmemBytes = shared_bytes;
    config_.stream = current_stream(device);
  }

  /// Let this kernel start while the one before it in the stream still runs. It must call wait_for_previous_kernel.
  LaunchKernel& enable_pdl(bool use_pdl) {
    if (use_pdl && kHasPDL) {
      pdl_.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      pdl_.val.programmaticStreamSerializationAllowed = 1;
      config_.attrs = &pdl_;
      config_.numAttrs = 1;
    }
    return *this;
  }

  /// The kernel is a template argument, not a value: the CPU target inlines it.
  template <auto kKernel, class... Args>
  void run(const Args&... args) {
#ifdef __CUDACC__
    constexpr std::size_t kSharedBytesByDefault = 48 * 1024;  // more must be asked for
    if (config_.dynamicSmemBytes > kSharedBytesByDefault) {
      const auto bytes = static_cast<int>(config_.dynamicSmemBytes);
      check_launch(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    }
    check_launch(cudaLaunchKernelEx(&config_, kKernel, args...));
#else
    check_launch(cudaLaunchKernelEx<kKernel>(&config_, args...));
#endif
  }

 private:
  void check_launch(cudaError_t error) const {
    if (error == cudaSuccess) return;
    const auto size = [](dim3 d) {
      return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
    };
    const auto shape = "kernel launch (grid " + size(config_.gridDim) + ", block " + size(config_.blockDim) + ", " +
                       std::to_string(config_.dynamicSmemBytes) + " bytes of dynamic shared memory)";
    check_cuda(error, shape.c_str());
  }

  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute pdl_{};
};

/// Ask for an address in global memory to be computed here: ahead of the wait below, the kernel before may still be
/// running. The assembler moves some of the arithmetic behind it all the same. What is left of the order saved 14% in
/// one launch (16384 rows of 256 bytes on an H200) and nothing in most.
template <class T>
__device__ __forceinline__ void compute_here([[maybe_unused]] T*& address) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+l"(address));
  __builtin_assume(__isGlobal(address));  // what the line above made the compiler forget
#endif
}

/// With PDL, wait until the kernel before this one in the stream has finished writing.
template <bool kUsePDL>
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kUsePDL) asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// With PDL, allow the next kernel in the stream to start as soon as every block has said so or ended. It may be called
/// early: the next kernel's own wait still covers all writes of this one.
template <bool kUsePDL>
__device__ __forceinline__ void launch_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kUsePDL) asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

}  // namespace minisgl
