// Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:c01dc53857f6

#pragma once

#include <minisgl/utils.h>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>

namespace minisgl {

/// Threads that share a row so that each carries `vectors_per_thread` of its vectors, or up to twice as many: one for
/// each vector, else whole warps, else a power of two below a warp, at least as many as cover a sector of 32 bytes.
constexpr int threads_per_row(int64_t row_bytes, int vector_bytes, int vectors_per_thread) {
  const int64_t vectors = row_bytes / vector_bytes;
  const int64_t threads = vectors / vectors_per_thread;
  if (vectors_per_thread == 1) return static_cast<int>(std::max<int64_t>(threads, 1));
  if (threads >= kWarpSize) {
    return static_cast<int>(div_ceil<int64_t>(vectors, int64_t{kWarpSize} * vectors_per_thread)) * kWarpSize;
  }
  const bool by_lanes = vectors_per_thread <= warp::kMaxInFlight;  // not on a CPU, see kVectorsInFlight
  const int64_t in_a_sector = by_lanes ? std::min<int64_t>(vectors, 32 / vector_bytes) : 1;
  return static_cast<int>(std::bit_floor(static_cast<uint64_t>(std::max({threads, in_a_sector, int64_t{1}}))));
}

/// Threads that a GPU holds at once.
inline int64_t resident_threads(DLDevice device) {
  const auto get = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, attribute, device.device_id), "cudaDeviceGetAttribute");
    return int64_t{value};
  };
  return get(cudaDevAttrMultiProcessorCount) * get(cudaDevAttrMaxThreadsPerMultiProcessor);
}

/// Blocks of `num_threads` threads for `num_rows` rows. Throws ValueError where CUDA has no grid of that size.
inline unsigned num_blocks(int64_t num_rows, int threads_per_row, int num_threads) {
  const int64_t blocks = div_ceil<int64_t>(num_rows * threads_per_row, num_threads);
  require(blocks <= INT32_MAX, "ValueError", "indices: expected work for fewer than 2^31 blocks, got ", blocks);
  return static_cast<unsigned>(blocks);
}

/// What a thread of an index kernel carries in a large launch; a store kernel has two rows and carries half of each.
#if defined(__CUDACC__) || defined(MINISGL_MICROSCOPE)
inline constexpr int kVectorsInFlight = 4;
#else
inline constexpr int kVectorsInFlight = 4096;  // a CPU has no lanes: one thread carries a whole row
#endif

/// Call `body(vector_bytes, vectors_per_thread)` with both numbers as compile-time constants.
///
/// The second is `kVectorsPerThread` if that is not 0. Otherwise the size of the launch decides: one as long as that
/// fills at most a quarter of the GPU with threads, else `kUsualVectorsPerThread`.
template <int kVectorsPerThread, int kUsualVectorsPerThread, class Body>
void dispatch_row_shape(int vector_bytes, int64_t num_vectors, DLDevice device, const Body& body) {
  warp::dispatch_vector_bytes(vector_bytes, [&](auto width) {
    if constexpr (kVectorsPerThread > 0) {
      body(width, std::integral_constant<int, kVectorsPerThread>{});
    } else if constexpr (kDeviceType == kDLCUDA && width.value == 16) {
      if (num_vectors <= resident_threads(device) / 4) {
        body(width, std::integral_constant<int, 1>{});
      } else {
        body(width, std::integral_constant<int, kUsualVectorsPerThread>{});
      }
    } else {
      body(width, std::integral_constant<int, kUsualVectorsPerThread>{});
    }
  });
}

/// Whether a kernel of `num_threads` threads should let the next one start at once, or only when its own work is done.
///
/// Waiting blocks of the next one take any place that is free. If a launch fills more than a quarter of the GPU but not
/// all of it, those places lie unevenly over the SMs, and the next launch takes a fifth longer (measured on an H200).
inline bool should_start_next_early(int64_t num_threads, DLDevice device) {
  const int64_t places = resident_threads(device);
  return num_threads <= places / 4 || num_threads >= places * 9 / 10;
}

}  // namespace minisgl
