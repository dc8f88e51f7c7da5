// Exported from notebooks/06_store.md by "minisgl book export"; edit it there. sha256:7bc965abb05c

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <minisgl/row_checks.h>
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/rows.cuh>
#include <minisgl/utils.cuh>
#include <minisgl/warp.cuh>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace minisgl {

/// Rows to read: one per token.
struct InputRows {
  const std::byte* data;
  int64_t stride_bytes;
};

/// Rows to write: one per slot, in pages of `kPageSize` slots.
struct CacheRows {
  std::byte* data;
  int64_t page_stride_bytes;
  int64_t slot_stride_bytes;

  template <int kPageSize>
  __device__ __forceinline__ std::byte* row(uint64_t slot) const {
    const auto page = static_cast<int64_t>(slot / kPageSize), place = static_cast<int64_t>(slot % kPageSize);
    return data + page * page_stride_bytes + place * slot_stride_bytes;
  }
};

/// What the elements of a row are divided by, and its reciprocal, rounded to nearest.
struct Scale {
  float value;
  float inverse;
};

struct StoreKernelParams {
  CacheRows k_cache;
  CacheRows v_cache;
  InputRows k;
  InputRows v;
  const void* indices;
  int64_t indices_stride;
  int64_t num_tokens;
  uint64_t num_slots;
  Scale k_scale;
  Scale v_scale;
};

/// What becomes of a row on its way into the cache: nothing.
struct KeepBytes {
  static constexpr int kShrink = 1;

  template <class Share>
  static __device__ __forceinline__ const Share& apply(const Share& row, const Scale&) {
    return row;
  }
};

/// Keep the loads above ahead of the branches below. The compiler moves a load to where its value is needed, behind a
/// branch that could make it useless; but it moves none across a barrier, and this one costs next to nothing.
__device__ __forceinline__ void keep_loads_ahead() {
#ifdef __CUDA_ARCH__
  __syncwarp();
#endif
}

/// `kThreadsPerRow` threads store one token: k_cache[indices[i]] = k[i], and the same for V.
template <class Index, class Encode, int64_t kKRowBytes, int64_t kVRowBytes, int kPageSize, int kVectorBytes,
          int kThreadsPerRow, int kNumThreads, int kMinBlocksPerSM, bool kUsePDL>
__global__ __launch_bounds__(kNumThreads,
                             kMinBlocksPerSM) void store_kernel(const __grid_constant__ StoreKernelParams params,
                                                                bool start_next_early) {
  const auto& [k_cache, v_cache, k, v, indices, indices_stride, num_tokens, num_slots, k_scale, v_scale] = params;

  const int64_t thread = int64_t{blockIdx.x} * kNumThreads + threadIdx.x;
  const int64_t i = thread / kThreadsPerRow;
  const int thread_of_row = static_cast<int>(thread % kThreadsPerRow);
  if (i >= num_tokens) return;

  auto slot_address = static_cast<const Index*>(indices) + i * indices_stride;
  auto k_address = k.data + i * k.stride_bytes, v_address = v.data + i * v.stride_bytes;
  compute_here(slot_address);
  compute_here(k_address);
  compute_here(v_address);
  wait_for_previous_kernel<kUsePDL>();
  if (start_next_early) launch_next_kernel<kUsePDL>();
  // Unsigned: -1 becomes a huge slot, and one comparison finds both what is padding and what is out of range.
  const auto slot = static_cast<uint64_t>(int64_t{*slot_address});
  warp::RowShare<kKRowBytes, kVectorBytes, kThreadsPerRow> k_row;
  warp::RowShare<kVRowBytes, kVectorBytes, kThreadsPerRow> v_row;
  k_row.load(k_address, thread_of_row);
  v_row.load(v_address, thread_of_row);
  keep_loads_ahead();  // neither row waits for the slot
  if (slot >= num_slots) return;
  Encode::apply(k_row, k_scale).store(k_cache.template row<kPageSize>(slot), thread_of_row);
  Encode::apply(v_row, v_scale).store(v_cache.template row<kPageSize>(slot), thread_of_row);
  if (!start_next_early) launch_next_kernel<kUsePDL>();
}

/// What becomes of a row on its way into the cache: each element is divided by the scale and rounded to float8_e4m3fn.
/// What is too large becomes the largest number, 448.
template <class Element>
struct ToFloat8 {
  static constexpr int kShrink = sizeof(Element);

  template <int64_t kBytes, int kVectorBytes, int kThreads>
  static __device__ __forceinline__ auto apply(const warp::RowShare<kBytes, kVectorBytes, kThreads>& row,
                                               const Scale& scale) {
    warp::RowShare<kBytes / kShrink, kVectorBytes / kShrink, kThreads> result;
#pragma unroll
    for (int round = 0; round < row.kRounds; ++round) result.vectors[round] = convert(row.vectors[round], scale);
    return result;
  }

 private:
  template <class Vector>
  static __device__ __forceinline__ auto convert(const Vector& vector, const Scale& scale) {
    constexpr int kCount = sizeof(Vector) / sizeof(Element);
    struct Elements {
      Element at[kCount];
    };
    struct Floats8 {
      __nv_fp8_storage_t at[kCount];
    };
    const auto elements = std::bit_cast<Elements>(vector);
    Floats8 result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float quotient = divide(static_cast<float>(elements.at[i]), scale);
      result.at[i] = __nv_cvt_float_to_fp8(quotient, __NV_SATFINITE, __NV_E4M3);
    }
    return std::bit_cast<typename warp::VectorOf<kCount>::type>(result);
  }

  /// The quotient, rounded as a division rounds it, at the price of three multiplications: the remainder corrects the
  /// product with the reciprocal. What saturates anyway is left alone, it may be infinite.
  static __device__ __forceinline__ float divide(float x, const Scale& scale) {
    const float quotient = x * scale.inverse;
    const float remainder = fmaf(-quotient, scale.value, x);
    const float corrected = copysignf(fmaf(remainder, scale.inverse, quotient), x);  // -0 stays -0
    return fabsf(quotient) < 1024.0f ? corrected : quotient;
  }
};

/// A tensor of `kLeading` dimensions and a row: all dimensions behind the leading ones are taken as one.
template <int kLeading>
class RowsOf {
 public:
  RowsOf(const char* argument, const TensorView& tensor) : tensor_(*tensor.dl()) {
    require(tensor.dim() > kLeading, "ValueError", argument, ": expected at least ", int64_t{kLeading + 1},
            " dimensions, got ", int64_t{tensor.dim()});
    sizes_[kLeading] = strides_[kLeading] = 1;
    for (int d = tensor.dim() - 1; d >= kLeading; --d) {
      require(tensor.size(d) == 1 || tensor.stride(d) == sizes_[kLeading] || tensor.num_elements() == 0, "ValueError",
              argument, ": expected contiguous rows, got a stride of ", tensor.stride(d), " in dimension ", int64_t{d});
      sizes_[kLeading] *= tensor.size(d);
    }
    for (int d = 0; d < kLeading; ++d) {
      sizes_[d] = tensor.size(d);
      strides_[d] = tensor.stride(d);
    }
    tensor_.ndim = kLeading + 1;
    tensor_.shape = sizes_;
    tensor_.strides = strides_;
  }
  RowsOf(const RowsOf&) = delete;
  RowsOf& operator=(const RowsOf&) = delete;

  TensorView view() const { return TensorView(&tensor_); }

 private:
  DLTensor tensor_;
  int64_t sizes_[kLeading + 1];
  int64_t strides_[kLeading + 1];
};

/// Whether the rows of `cache` lie apart, and, with a `distance_bytes` other than 0, apart from the equally strided rows
/// of `row_bytes` bytes that start so much later. From the inside out, each step must clear what lies within it.
inline bool rows_lie_apart(const TensorView& cache, int64_t distance_bytes = 0, int64_t row_bytes = 0) {
  if (cache.num_elements() == 0) return true;
  constexpr int64_t kPair = -1;  // stands for a size: the step from one cache to the other
  std::pair<int64_t, int64_t> steps[3] = {{distance_bytes, kPair}};
  int count = distance_bytes != 0;
  for (int d = 0; d < cache.dim() - 1; ++d) {
    if (cache.size(d) > 1) steps[count++] = {cache.stride_bytes(d), cache.size(d)};
  }
  std::sort(steps, steps + count);
  int64_t extent = cache.size(cache.dim() - 1) * dtype_bytes(cache.dtype()), other_extent = row_bytes;
  for (int i = 0; i < count; ++i) {
    const auto [step, size] = steps[i];
    if (step < extent || (size != kPair && step < other_extent)) return false;
    extent = size == kPair ? step + other_extent : extent + (size - 1) * step;
    other_extent = size == kPair ? extent : other_extent + (size - 1) * step;
  }
  return true;
}

/// Throw unless no byte of the caches belongs to two rows. Interleaved caches, slices of one tensor, are welcome.
inline void require_rows_apart(const TensorView& k_cache, const TensorView& v_cache) {
  const char* const expected = ": expected rows that do not overlap, got overlapping ones";
  require(rows_lie_apart(k_cache), "ValueError", "k_cache", expected);
  require(rows_lie_apart(v_cache), "ValueError", "v_cache", expected);
  const auto k = reinterpret_cast<intptr_t>(k_cache.data()), v = reinterpret_cast<intptr_t>(v_cache.data());
  const auto& first = k <= v ? k_cache : v_cache;
  const auto& second = k <= v ? v_cache : k_cache;
  if (std::abs(v - k) >= span_bytes(first)) return;
  bool same_steps = true;
  for (int d = 0; d < first.dim() - 1; ++d) same_steps &= first.stride_bytes(d) == second.stride_bytes(d);
  const int64_t row_bytes = second.size(second.dim() - 1) * dtype_bytes(second.dtype());
  require(k != v && same_steps && rows_lie_apart(first, std::abs(v - k), row_bytes), "ValueError",
          "v_cache: expected rows apart from those of k_cache, got overlapping ones");
}

template <bool kToFloat8, int64_t kKRowBytes, int64_t kVRowBytes, int kPageSize, int kVectorsPerThread, int kNumThreads,
          int kMinBlocksPerSM, bool kUsePDL>
struct StoreKernel {
  static_assert(kNumThreads % kWarpSize == 0, "a block holds whole warps");
  static constexpr int kLeading = kPageSize == 1 ? 1 : 2;  // dimensions of a cache in front of a row: [pages and] slots

  static void run(TensorView k_cache_tensor, TensorView v_cache_tensor, TensorView indices, TensorView k_tensor,
                  TensorView v_tensor, double k_scale, double v_scale) {
    const auto k_cache_rows = RowsOf<kLeading>("k_cache", k_cache_tensor);
    const auto v_cache_rows = RowsOf<kLeading>("v_cache", v_cache_tensor);
    const auto k_rows = RowsOf<1>("k", k_tensor), v_rows = RowsOf<1>("v", v_tensor);
    const auto k_cache = k_cache_rows.view(), v_cache = v_cache_rows.view(), k = k_rows.view(), v = v_rows.view();

    auto N = SymbolicSize("N"), L = SymbolicSize("L"), K = SymbolicSize("K"), V = SymbolicSize("V");
    auto cache_dtype = kToFloat8 ? SymbolicDType({{kDLFloat8_e4m3fn, 8, 1}}) : SymbolicDType();
    auto own_dtype = SymbolicDType({{kDLFloat, 16, 1}, {kDLBfloat, 16, 1}});
    auto& dtype = kToFloat8 ? own_dtype : cache_dtype;
    auto index_dtype = SymbolicDType({{kDLInt, 32, 1}, {kDLInt, 64, 1}});
    auto device = SymbolicDevice({kDeviceType});
    match_cache(N, K, cache_dtype, device, "k_cache", k_cache);
    match_cache(N, V, cache_dtype, device, "v_cache", v_cache);
    TensorMatcher({L}).with_strides({kAny}).with_dtype(index_dtype).with_device(device).verify("indices", indices);
    TensorMatcher({L, K}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("k", k);
    TensorMatcher({L, V}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("v", v);
    const int64_t element_bytes = dtype_bytes(dtype.value());
    require(K.value() * element_bytes == kKRowBytes && V.value() * element_bytes == kVRowBytes, "ValueError",
            "k and v: expected rows of ", kKRowBytes, " and ", kVRowBytes, " bytes, got ", K.value() * element_bytes,
            " and ", V.value() * element_bytes);
    require_rows_apart(k_cache, v_cache);
    for (const auto& [name, cache] : {std::pair("k_cache", k_cache), std::pair("v_cache", v_cache)}) {
      require_apart(name, cache, "k", k);
      require_apart(name, cache, "v", v);
      require_apart(name, cache, "indices", indices);
    }
    const int64_t num_slots = N.value() * kPageSize;
    if (kDeviceType == kDLCPU) {
      require_in_range(indices, -1, num_slots, "slots in [0, ", num_slots, ") or -1 to skip a token");
    }
    if (L.value() == 0 || num_slots == 0) return;

    const auto params = StoreKernelParams{
        .k_cache = cache_rows(k_cache),
        .v_cache = cache_rows(v_cache),
        .k = {static_cast<const std::byte*>(k.data()), k.stride_bytes(0)},
        .v = {static_cast<const std::byte*>(v.data()), v.stride_bytes(0)},
        .indices = indices.data(),
        .indices_stride = indices.stride(0),
        .num_tokens = L.value(),
        .num_slots = static_cast<uint64_t>(num_slots),
        .k_scale = {static_cast<float>(k_scale), 1.0f / static_cast<float>(k_scale)},
        .v_scale = {static_cast<float>(v_scale), 1.0f / static_cast<float>(v_scale)},
    };
    const bool is_int32 = index_dtype.value().bits == 32, is_bfloat16 = dtype.value().code == kDLBfloat;
    const auto run_with = [&]<class Encode>(Encode) {
      is_int32 ? launch<int32_t, Encode>(params, device.value()) : launch<int64_t, Encode>(params, device.value());
    };
    if constexpr (kToFloat8) {
      is_bfloat16 ? run_with(ToFloat8<__nv_bfloat16>{}) : run_with(ToFloat8<__half>{});
    } else {
      run_with(KeepBytes{});
    }
  }

 private:
  static void match_cache(SymbolicSize& N, SymbolicSize& row, SymbolicDType& dtype, SymbolicDevice& device,
                          const char* argument, const TensorView& cache) {
    const auto matcher = kPageSize == 1 ? TensorMatcher({N, row}).with_strides({kAny, 1})
                                        : TensorMatcher({N, kPageSize, row}).with_strides({kAny, kAny, 1});
    TensorMatcher(matcher).with_dtype(dtype).with_device(device).verify(argument, cache);
  }

  static CacheRows cache_rows(const TensorView& cache) {
    return {static_cast<std::byte*>(cache.data()), cache.stride_bytes(0), cache.stride_bytes(kLeading - 1)};
  }

  template <class Index, class Encode>
  static void launch(const StoreKernelParams& params, DLDevice device) {
    const auto guard = DeviceGuard(device);
    constexpr int64_t kWidest = std::max(kKRowBytes, kVRowBytes);
    const int width = vector_bytes<Encode>(params);
    const int64_t num_vectors = params.num_tokens * (kWidest / width);
    dispatch_row_shape<kVectorsPerThread, kVectorsInFlight / 2>(
        width, num_vectors, device, [&](auto vector, auto share) {
          if constexpr (vector.value % Encode::kShrink == 0) {
            constexpr int kThreadsPerRow = threads_per_row(kWidest, vector.value, share.value);
            const bool start_next_early = should_start_next_early(params.num_tokens * kThreadsPerRow, device);
            LaunchKernel(num_blocks(params.num_tokens, kThreadsPerRow, kNumThreads), kNumThreads, device)
                .enable_pdl(kUsePDL)
                .template run<store_kernel<Index, Encode, kKRowBytes, kVRowBytes, kPageSize, vector.value,
                                           kThreadsPerRow, kNumThreads, kMinBlocksPerSM, kUsePDL>>(params,
                                                                                                   start_next_early);
          } else {
            fail("ValueError", "k and v: expected addresses that are multiples of ", int64_t{Encode::kShrink});
          }
        });
  }

  /// The widest vector at which all rows of the launch are aligned; if they shrink, also those that are written.
  template <class Encode>
  static int vector_bytes(const StoreKernelParams& params) {
    const auto of = [](const auto& rows) { return reinterpret_cast<intptr_t>(rows.data); };
    const auto& [k_cache, v_cache, k, v, indices, indices_stride, num_tokens, num_slots, k_scale, v_scale] = params;
    const auto of_row = [&](const CacheRows& cache, const InputRows& input) {
      const int64_t written = of(cache) | cache.page_stride_bytes | cache.slot_stride_bytes;
      return of(input) | input.stride_bytes | written * Encode::kShrink;
    };
    const int64_t whole = Encode::kShrink == 1 ? 0 : kKRowBytes | kVRowBytes;  // no single bytes at a row's end
    return warp::max_vector_bytes({kKRowBytes ? of_row(k_cache, k) : 0, kVRowBytes ? of_row(v_cache, v) : 0, whole});
  }
};

}  // namespace minisgl
