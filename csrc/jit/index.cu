// Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:765aea5fd6f0

#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

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

/// One warp copies one part of one row: output[i] = weights[indices[i] - vocab_start], or zeros outside the range.
template <class Index, int64_t kRowBytes, int kNumSplits, int kVectorBytes, int kNumThreads, int kMinBlocksPerSM,
          bool kUsePDL>
__global__ __launch_bounds__(kNumThreads,
                             kMinBlocksPerSM) void index_kernel(const __grid_constant__ IndexKernelParams params) {
  constexpr int64_t kPartBytes = kRowBytes / kNumSplits;
  const auto& [output, weights, indices, num_indices, output_stride_bytes, weights_stride_bytes, indices_stride,
               vocab_start, vocab_length] = params;

  const int64_t warp = int64_t{blockIdx.x} * (kNumThreads / kWarpSize) + threadIdx.x / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t i = warp / kNumSplits;
  const int64_t part_offset = warp % kNumSplits * kPartBytes;
  if (i >= num_indices) return;

  wait_for_previous_kernel<kUsePDL>();
  launch_next_kernel<kUsePDL>();
  // Unsigned: a negative index becomes a huge one, and one comparison finds both ends of the range.
  const auto index = static_cast<uint64_t>(int64_t{static_cast<const Index*>(indices)[i * indices_stride]});
  const uint64_t row = index - vocab_start;
  const auto dst = output + i * output_stride_bytes + part_offset;
  if (row < vocab_length) {
    const auto src = weights + static_cast<int64_t>(row) * weights_stride_bytes + part_offset;
    warp::copy<kPartBytes, kVectorBytes>(dst, src, lane);
  } else {
    warp::reset<kPartBytes, kVectorBytes>(dst, lane);
  }
}

/// Throw IndexError for the first index outside [0, num_rows). Only the CPU can look before it launches.
template <class Index>
void require_in_range(const TensorView& indices, int64_t num_rows) {
  const auto data = static_cast<const Index*>(indices.data());
  for (int64_t i = 0; i < indices.size(0); ++i) {
    const int64_t index = data[i * indices.stride(0)];
    require(0 <= index && index < num_rows, "IndexError", "indices: expected values in [0, V=", num_rows, "), got ",
            index, " at position ", i);
  }
}

/// Throw unless the memory that `output` spans lies apart from that of `input`.
inline void require_apart(const TensorView& output, const TensorView& input, const char* input_name) {
  if (output.num_elements() == 0 || input.num_elements() == 0) return;
  const auto span = [](const TensorView& t) {
    int64_t last = dtype_bytes(t.dtype());
    for (int d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride_bytes(d);
    const auto begin = reinterpret_cast<uintptr_t>(t.data());
    return std::pair(begin, begin + static_cast<uintptr_t>(last));
  };
  const auto [out_begin, out_end] = span(output);
  const auto [in_begin, in_end] = span(input);
  require(out_end <= in_begin || in_end <= out_begin, "ValueError", "output: expected memory apart from that of ",
          input_name, ", got memory that overlaps it");
}

template <int64_t kRowBytes, int kNumSplits, int kNumThreads, int kMinBlocksPerSM, bool kUsePDL>
struct IndexKernel {
  static_assert(kNumThreads % kWarpSize == 0, "a block holds whole warps");
  static_assert(kRowBytes % kNumSplits == 0, "the warps of a row copy parts of one size");
  static constexpr int64_t kPartBytes = kRowBytes / kNumSplits;

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
    require_apart(output, weights, "weights");
    require_apart(output, indices, "indices");
    const int64_t start = vocab_start.value_or(0), length = vocab_length.value_or(V.value());
    require(start >= 0 && 0 <= length && length <= V.value() && start <= INT64_MAX - length, "ValueError",
            "vocab_range: expected start >= 0 and ", "0 <= length <= V=", V.value(), ", got (", start, ", ", length,
            ")");
    const bool is_int32 = index_dtype.value().bits == 32;
    if (kDeviceType == kDLCPU && !vocab_start) {
      is_int32 ? require_in_range<int32_t>(indices, V.value()) : require_in_range<int64_t>(indices, V.value());
    }
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
    is_int32 ? launch<int32_t>(params, device.value()) : launch<int64_t>(params, device.value());
  }

 private:
  template <class Index>
  static void launch(const IndexKernelParams& params, DLDevice device) {
    const auto guard = DeviceGuard(device);
    const int64_t num_blocks = div_ceil<int64_t>(params.num_indices * kNumSplits, kNumThreads / kWarpSize);
    require(num_blocks <= INT32_MAX, "ValueError", "indices: expected work for fewer than 2^31 blocks, got ",
            num_blocks);
    const int width = warp::max_vector_bytes({reinterpret_cast<intptr_t>(params.output), params.output_stride_bytes,
                                              reinterpret_cast<intptr_t>(params.weights), params.weights_stride_bytes,
                                              kNumSplits == 1 ? 0 : kPartBytes});
    warp::dispatch_vector_bytes(width, [&](auto vector_bytes) {
      LaunchKernel(static_cast<unsigned>(num_blocks), kNumThreads, device)
          .enable_pdl(kUsePDL)
          .template run<
              index_kernel<Index, kRowBytes, kNumSplits, vector_bytes.value, kNumThreads, kMinBlocksPerSM, kUsePDL>>(
              params);
    });
  }
};

}  // namespace minisgl
