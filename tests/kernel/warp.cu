// One warp copies or clears one row, for test_warp.py.
#include <minisgl/tensor.h>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

namespace minisgl::test {

template <int64_t kBytes, int kVectorBytes>
__global__ void copy_kernel(void* dst, const void* src) {
  warp::copy<kBytes, kVectorBytes>(dst, src, threadIdx.x % kWarpSize);
}

template <int64_t kBytes, int kVectorBytes>
__global__ void reset_kernel(void* dst) {
  warp::reset<kBytes, kVectorBytes>(dst, threadIdx.x % kWarpSize);
}

/// Copy src to dst, or clear dst if src is None, at the widest access that the addresses allow; return its width.
template <int64_t kBytes>
int64_t move_row(TensorView dst, std::optional<TensorView> src) {
  const auto to = reinterpret_cast<intptr_t>(dst.data());
  const auto from = src ? reinterpret_cast<intptr_t>(src->data()) : 0;
  const int width = warp::max_vector_bytes({to, from});
  warp::dispatch_vector_bytes(width, [&](auto bytes) {
    auto launch = LaunchKernel(1, kWarpSize, dst.device());
    if (src) {
      launch.run<copy_kernel<kBytes, bytes.value>>(dst.data(), static_cast<const void*>(src->data()));
    } else {
      launch.run<reset_kernel<kBytes, bytes.value>>(dst.data());
    }
  });
  return width;
}

}  // namespace minisgl::test
