// How many threads share a row, and which of them carries which byte, for test_rows.py.
#include <minisgl/tensor.h>
#include <minisgl/rows.cuh>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <cstdint>

namespace minisgl::test {

inline int64_t threads(int64_t row_bytes, int64_t vector_bytes, int64_t vectors_per_thread) {
  return threads_per_row(row_bytes, static_cast<int>(vector_bytes), static_cast<int>(vectors_per_thread));
}

inline int64_t blocks(int64_t num_rows, int64_t threads_per_row, int64_t num_threads) {
  return num_blocks(num_rows, static_cast<int>(threads_per_row), static_cast<int>(num_threads));
}

/// The vector width and the vectors per thread of a launch, in one number.
template <int kVectorsPerThread>
int64_t shape(int64_t vector_bytes, int64_t num_vectors, TensorView any) {
  int64_t result = 0;
  dispatch_row_shape<kVectorsPerThread, 5>(static_cast<int>(vector_bytes), num_vectors, any.device(),
                                           [&](auto width, auto share) { result = width.value * 100 + share.value; });
  return result;
}

inline int64_t places(TensorView any) { return resident_threads(any.device()); }

inline bool starts_next_early(int64_t num_threads, TensorView any) {
  return should_start_next_early(num_threads, any.device());
}

/// Each thread stores what it carries of `row` into a row of its own, of so many bytes that all are aligned.
template <int64_t kBytes, int kVectorBytes, int kThreads>
__global__ void carry_kernel(uint8_t* output, const uint8_t* row) {
  const int thread = static_cast<int>(threadIdx.x);
  warp::RowShare<kBytes, kVectorBytes, kThreads> share;
  share.load(row, thread);
  share.store(output + thread * div_ceil<int64_t>(kBytes, 16) * 16, thread);
}

template <int64_t kBytes, int kVectorBytes, int kThreads>
void carry(TensorView output, TensorView row) {
  LaunchKernel(1, kThreads, row.device())
      .run<carry_kernel<kBytes, kVectorBytes, kThreads>>(static_cast<uint8_t*>(output.data()),
                                                         static_cast<const uint8_t*>(row.data()));
}

}  // namespace minisgl::test
