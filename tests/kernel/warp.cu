// One warp, a part of one or several copy or clear one row, for test_warp.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

namespace minisgl::test {

template <int64_t kBytes, int kVectorBytes, int kThreads>
__global__ void copy_kernel(void* dst, const void* src) {
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kThreads == kWarpSize) {
    warp::copy<kBytes, kVectorBytes>(dst, src, thread);
  } else {
    warp::copy<kBytes, kVectorBytes, kThreads>(dst, src, thread);
  }
}

template <int64_t kBytes, int kVectorBytes, int kThreads>
__global__ void reset_kernel(void* dst) {
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kThreads == kWarpSize) {
    warp::reset<kBytes, kVectorBytes>(dst, thread);
  } else {
    warp::reset<kBytes, kVectorBytes, kThreads>(dst, thread);
  }
}

/// Copy src to dst, or clear dst if src is None, at the widest access that the addresses allow; return its width.
template <int64_t kBytes, int kThreads>
int64_t move_row(TensorView dst, std::optional<TensorView> src) {
  const auto to = reinterpret_cast<intptr_t>(dst.data());
  const auto from = src ? reinterpret_cast<intptr_t>(src->data()) : 0;
  const int width = warp::max_vector_bytes({to, from});
  warp::dispatch_vector_bytes(width, [&](auto bytes) {
    auto launch = LaunchKernel(1, kThreads, dst.device());
    if (src) {
      launch.run<copy_kernel<kBytes, bytes.value, kThreads>>(dst.data(), static_cast<const void*>(src->data()));
    } else {
      launch.run<reset_kernel<kBytes, bytes.value, kThreads>>(dst.data());
    }
  });
  return width;
}

}  // namespace minisgl::test
