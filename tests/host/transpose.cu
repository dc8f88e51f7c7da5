// A transpose through shared memory, for test_kernels.py: both the reads and the writes of a warp are of one row.
#include <minisgl/tensor.h>
#include <minisgl/utils.h>
#include <minisgl/utils.cuh>

#include <cstdint>

namespace minisgl::test {

struct TransposeKernelParams {
  void* output;
  const void* input;
  int64_t num_rows;
  int64_t num_columns;
  int64_t output_stride;
  int64_t input_stride;
};

inline constexpr int kTile = 32;
inline constexpr int kRowsOfThreads = 8;
inline constexpr int kTransposeNumThreads = kTile * kRowsOfThreads;

template <class T>
__global__ __launch_bounds__(kTransposeNumThreads) void transpose_kernel(
    const __grid_constant__ TransposeKernelParams params) {
  __shared__ T tile[kTile][kTile + 1];  // one more, so that a column's elements lie in 32 different banks
  const auto& [output, input, num_rows, num_columns, output_stride, input_stride] = params;
  const auto in = static_cast<const T*>(input);
  const auto out = static_cast<T*>(output);
  const int64_t first_row = int64_t{blockIdx.y} * kTile, first_column = int64_t{blockIdx.x} * kTile;

  for (int i = threadIdx.y; i < kTile; i += kRowsOfThreads) {
    const int64_t row = first_row + i, column = first_column + threadIdx.x;
    if (row < num_rows && column < num_columns) tile[i][threadIdx.x] = in[row * input_stride + column];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kTile; i += kRowsOfThreads) {
    const int64_t row = first_row + threadIdx.x, column = first_column + i;
    if (row < num_rows && column < num_columns) out[column * output_stride + row] = tile[threadIdx.x][i];
  }
}

/// input [M, N] to output [N, M], rows apart as they like; any dtype of 2, 4 or 8 bytes.
inline void transpose(TensorView input, TensorView output) {
  auto M = SymbolicSize("M"), N = SymbolicSize("N");
  auto dtype = SymbolicDType();
  auto device = SymbolicDevice({kDeviceType});
  TensorMatcher({M, N}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("input", input);
  TensorMatcher({N, M}).with_strides({kAny, 1}).with_dtype(dtype).with_device(device).verify("output", output);
  const int64_t bytes = dtype_bytes(dtype.value());
  require(bytes == 2 || bytes == 4 || bytes == 8, "TypeError", "input: expected elements of 2, 4 or 8 bytes, got ",
          dtype.value());
  if (M.value() == 0 || N.value() == 0) return;

  const auto guard = DeviceGuard(device.value());
  const auto params = TransposeKernelParams{
      .output = output.data(),
      .input = input.data(),
      .num_rows = M.value(),
      .num_columns = N.value(),
      .output_stride = output.stride(0),
      .input_stride = input.stride(0),
  };
  const auto grid = dim3(static_cast<unsigned>(div_ceil<int64_t>(N.value(), kTile)),
                         static_cast<unsigned>(div_ceil<int64_t>(M.value(), kTile)));
  auto launch = LaunchKernel(grid, dim3(kTile, kRowsOfThreads), device.value());
  if (bytes == 2) {
    launch.run<transpose_kernel<uint16_t>>(params);
  } else if (bytes == 4) {
    launch.run<transpose_kernel<uint32_t>>(params);
  } else {
    launch.run<transpose_kernel<uint64_t>>(params);
  }
}

}  // namespace minisgl::test
