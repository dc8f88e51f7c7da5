// Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:0088f1d9c37d

#include <minisgl/row_checks.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/rows.cuh>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace minisgl {

struct IndexKernelParams {
  std::byte* output;
  const std::byte* weights;
  const void* indices;
  int64_t num_indices;
  int64_t output_stride_bytes;
  int64_t weights_stride_bytes;
  int64_t indices_stride;
  uint64_t vocab_start;
  uint64_t vocab_length;
};

/// `kThreadsPerRow` threads copy one row: output[i] = weights[indices[i] - vocab_start], or zeros outside the range.
template <class Index, int64_t kRowBytes, int kVectorBytes, int kThreadsPerRow, int kNumThreads, int kMinBlocksPerSM,
          bool kUsePDL>
__global__ __launch_bounds__(kNumThreads,
                             kMinBlocksPerSM) void index_kernel(const __grid_constant__ IndexKernelParams params,
                                                                bool start_next_early) {
  const auto& [output, weights, indices, num_indices, output_stride_bytes, weights_stride_bytes, indices_stride,
               vocab_start, vocab_length] = params;

  const int64_t thread = int64_t{blockIdx.x} * kNumThreads + threadIdx.x;
  const int64_t i = thread / kThreadsPerRow;
  const int thread_of_row = static_cast<int>(thread % kThreadsPerRow);
  if (i >= num_indices) return;

  auto index_address = static_cast<const Index*>(indices) + i * indices_stride;
  auto dst = output + i * output_stride_bytes;
  compute_here(index_address);
  compute_here(dst);
  wait_for_previous_kernel<kUsePDL>();
  if (start_next_early) launch_next_kernel<kUsePDL>();
  // Unsigned: a negative index becomes a huge one, and one comparison finds both ends of the range.
  const uint64_t row = static_cast<uint64_t>(int64_t{*index_address}) - vocab_start;
  if (row < vocab_length) {
    const auto src = weights + static_cast<int64_t>(row) * weights_stride_bytes;
    warp::copy<kRowBytes, kVectorBytes, kThreadsPerRow>(dst, src, thread_of_row);
  } else {
    warp::reset<kRowBytes, kVectorBytes, kThreadsPerRow>(dst, thread_of_row);
  }
  if (!start_next_early) launch_next_kernel<kUsePDL>();
}

template <int64_t kRowBytes, int kVectorsPerThread, int kNumThreads, int kMinBlocksPerSM, bool kUsePDL>
struct IndexKernel {
  static_assert(kNumThreads % kWarpSize == 0, "a block holds whole warps");

  static void run(TensorView weights, TensorView indices, TensorView output, std::optional<int64_t> vocab_start,
                  std::optional<int64_t> vocab_length) {
    auto V = SymbolicSize("V"), D = SymbolicSize("D"), L = SymbolicSize("L");
    auto dtype = SymbolicDType(), index_dtype = SymbolicDType({{kDLInt, 32, 1}, {kDLInt, 64, 1}});
    auto device = SymbolicDevice({kDeviceType});
    TensorMatcher({V, D}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("weights", weights);
    TensorMatcher({L}).with_strides({kAny}).with_dtype(index_dtype).with_device(device).verify("indices", indices);
    TensorMatcher({L, D}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("output", output);
    require(D.value() * dtype_bytes(dtype.value()) == kRowBytes, "ValueError", "weights: expected rows of ", kRowBytes,
            " bytes, got ", D.value() * dtype_bytes(dtype.value()));
    require(L.value() <= 1 || output.stride(0) >= D.value(), "ValueError",
            "output: expected rows that do not overlap, ", "got a stride of ", output.stride(0),
            " for rows of D=", D.value());
    require_apart("output", output, "weights", weights);
    require_apart("output", output, "indices", indices);
    const int64_t start = vocab_start.value_or(0), length = vocab_length.value_or(V.value());
    require(start >= 0 && 0 <= length && length <= V.value() && start <= INT64_MAX - length, "ValueError",
            "vocab_range: expected start >= 0 and ", "0 <= length <= V=", V.value(), ", got (", start, ", ", length,
            ")");
    if (kDeviceType == kDLCPU && !vocab_start)
      require_in_range(indices, 0, V.value(), "values in [0, V=", V.value(), ")");
    if (L.value() == 0 || kRowBytes == 0) return;

    const auto params = IndexKernelParams{
        .output = static_cast<std::byte*>(output.data()),
        .weights = static_cast<const std::byte*>(weights.data()),
        .indices = indices.data(),
        .num_indices = L.value(),
        .output_stride_bytes = output.stride_bytes(0),
        .weights_stride_bytes = weights.stride_bytes(0),
        .indices_stride = indices.stride(0),
        .vocab_start = static_cast<uint64_t>(start),
        .vocab_length = static_cast<uint64_t>(length),
    };
    const bool is_int32 = index_dtype.value().bits == 32;
    is_int32 ? launch<int32_t>(params, device.value()) : launch<int64_t>(params, device.value());
  }

 private:
  template <class Index>
  static void launch(const IndexKernelParams& params, DLDevice device) {
    const auto guard = DeviceGuard(device);
    const int width = warp::max_vector_bytes({reinterpret_cast<intptr_t>(params.output), params.output_stride_bytes,
                                              reinterpret_cast<intptr_t>(params.weights), params.weights_stride_bytes});
    const int64_t num_vectors = params.num_indices * (kRowBytes / width);
    dispatch_row_shape<kVectorsPerThread, kVectorsInFlight>(width, num_vectors, device, [&](auto vector, auto share) {
      constexpr int kThreadsPerRow = threads_per_row(kRowBytes, vector.value, share.value);
      const bool start_next_early = should_start_next_early(params.num_indices * kThreadsPerRow, device);
      LaunchKernel(num_blocks(params.num_indices, kThreadsPerRow, kNumThreads), kNumThreads, device)
          .enable_pdl(kUsePDL)
          .template run<
              index_kernel<Index, kRowBytes, vector.value, kThreadsPerRow, kNumThreads, kMinBlocksPerSM, kUsePDL>>(
              params, start_next_early);
    });
  }
};

}  // namespace minisgl
