// Exported from notebooks/05_index.md by "minisgl book export"; edit it there. sha256:a3c5acb1182c

#pragma once

#include <minisgl/tensor.h>
#include <minisgl/utils.h>

#include <cstdint>

namespace minisgl {

/// Throw IndexError for the first of `indices` outside [first, end); `expected` says in words what is allowed. Only the
/// CPU can look before it launches.
template <class... Parts>
void require_in_range(const TensorView& indices, int64_t first, int64_t end, const Parts&... expected) {
  const auto check = [&](const auto* data) {
    for (int64_t i = 0; i < indices.size(0); ++i) {
      const int64_t index = data[i * indices.stride(0)];
      require(first <= index && index < end, "IndexError", "indices: expected ", expected..., ", got ", index,
              " at position ", i);
    }
  };
  if (indices.dtype().bits == 32) {
    check(static_cast<const int32_t*>(indices.data()));
  } else {
    check(static_cast<const int64_t*>(indices.data()));
  }
}

/// Bytes from the first to the last element of `tensor`; what lies between its rows counts too.
inline int64_t span_bytes(const TensorView& tensor) {
  if (tensor.num_elements() == 0) return 0;
  int64_t last = dtype_bytes(tensor.dtype());
  for (int d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride_bytes(d);
  return last;
}

/// Throw unless the memory that `output` spans lies apart from that of `input`.
inline void require_apart(const char* output_name, const TensorView& output, const char* input_name,
                          const TensorView& input) {
  const auto out = reinterpret_cast<intptr_t>(output.data()), in = reinterpret_cast<intptr_t>(input.data());
  const int64_t out_bytes = span_bytes(output), in_bytes = span_bytes(input);
  require(out_bytes == 0 || in_bytes == 0 || out + out_bytes <= in || in + in_bytes <= out, "ValueError", output_name,
          ": expected memory apart from that of ", input_name, ", got memory that overlaps it");
}

}  // namespace minisgl
