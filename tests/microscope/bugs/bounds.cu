// Planted bugs: accesses outside a tensor or a shared array, and arithmetic that leads there.
// `// BUG: name` marks the line that a finding must name. The same kernel with kRepaired is right.
#include "bugs.cuh"

#include <type_traits>

namespace minisgl::test {

// ---- read_past_end: differences of neighbours, also of the last element and the one behind it

template <bool kRepaired>
__global__ void read_past_end_kernel(Items<const int> input, Items<int> output) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= output.size) return;
  int next = 0;
  if (!kRepaired || i + 1 < input.size) {
    next = input.data[i + 1];  // BUG: read_past_end
  }
  output.data[i] = next - input.data[i];
}

template <bool kRepaired>
void read_past_end(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 64, input.device())
      .run<read_past_end_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- write_past_end: <= where < is meant

template <bool kRepaired>
__global__ void write_past_end_kernel(Items<int> output) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kRepaired ? i < output.size : i <= output.size) {
    output.data[i] = 3 * i;  // BUG: write_past_end
  }
}

template <bool kRepaired>
void write_past_end(TensorView output) {
  launch_for(static_cast<int>(output.size(0)), 64, output.device())
      .run<write_past_end_kernel<kRepaired>>(items<int>("output", output));
}

// ---- dropped_guard: the last block has more threads than there are elements

template <bool kRepaired>
__global__ void dropped_guard_kernel(Items<const float> input, Items<float> output, float factor) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (kRepaired && i >= input.size) return;
  const float value = input.data[i];  // BUG: dropped_guard
  output.data[i] = value * factor;
}

template <bool kRepaired>
void dropped_guard(TensorView input, TensorView output) {
  launch_for(static_cast<int>(input.size(0)), 128, input.device())
      .run<dropped_guard_kernel<kRepaired>>(items<const float>("input", input), items<float>("output", output), 2.0f);
}

// ---- wrong_stride: rows of a view lie further apart than they are long

template <bool kRepaired>
__global__ void wrong_stride_kernel(Rows<const float> input, Rows<float> output) {
  const int row = blockIdx.x, column = threadIdx.x;
  const int stride = kRepaired ? input.stride : input.num_columns;
  output.data[row * output.stride + column] = input.data[row * stride + column];  // BUG: wrong_stride
}

template <bool kRepaired>
void wrong_stride(TensorView input, TensorView output) {
  LaunchKernel(static_cast<unsigned>(input.size(0)), static_cast<unsigned>(input.size(1)), input.device())
      .run<wrong_stride_kernel<kRepaired>>(rows<const float>("input", input), rows<float>("output", output));
}

// ---- padding_written: a kernel that rounds the width up to whole vectors writes what lies beside the view

template <bool kRepaired>
__global__ void padding_written_kernel(Rows<float> output) {
  const int first = threadIdx.x * 4;
  for (int column = first; column < first + 4; ++column) {
    if (kRepaired && column >= output.num_columns) break;
    output.data[blockIdx.x * output.stride + column] = 1.0f;  // BUG: padding_written
  }
}

template <bool kRepaired>
void padding_written(TensorView output) {
  const auto num_threads = static_cast<unsigned>(div_ceil<int64_t>(output.size(1), 4));
  LaunchKernel(static_cast<unsigned>(output.size(0)), num_threads, output.device())
      .run<padding_written_kernel<kRepaired>>(rows<float>("output", output));
}

// ---- wrong_row: a scatter that forgets that this rank's part of the table starts at another row

template <bool kRepaired>
__global__ void wrong_row_kernel(Rows<const float> input, Items<const int> indices, Rows<float> output, int start) {
  const int column = threadIdx.x;
  const int row = indices.data[blockIdx.x] - (kRepaired ? start : 0);
  const float value = input.data[blockIdx.x * input.stride + column];
  output.data[row * output.stride + column] = value;  // BUG: wrong_row
}

template <bool kRepaired>
void wrong_row(TensorView input, TensorView indices, int64_t start, TensorView output) {
  LaunchKernel(static_cast<unsigned>(input.size(0)), static_cast<unsigned>(input.size(1)), input.device())
      .run<wrong_row_kernel<kRepaired>>(rows<const float>("input", input), items<const int>("indices", indices),
                                        rows<float>("output", output), static_cast<int>(start));
}

// ---- offset_overflow: the offset of a row is computed in too few bits, and goes negative

template <bool kRepaired>
__global__ void offset_overflow_kernel(Rows<const int16_t> input, Items<int16_t> output) {
  using Offset = std::conditional_t<kRepaired, int32_t, int16_t>;  // 16 bits keep the memory of this test small
  const int row = threadIdx.x;
  const auto offset = static_cast<Offset>(row * input.stride);
  output.data[row] = input.data[offset];  // BUG: offset_overflow
}

template <bool kRepaired>
void offset_overflow(TensorView input, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(input.size(0)), input.device())
      .run<offset_overflow_kernel<kRepaired>>(rows<const int16_t>("input", input), items<int16_t>("output", output));
}

// ---- hash_overflow: a product of ints overflows, and the remainder of a negative number is negative

template <bool kRepaired>
__global__ void hash_overflow_kernel(Items<const int> table, Items<const int> keys, Items<int> output) {
  using Hash = std::conditional_t<kRepaired, unsigned, int>;
  const int i = threadIdx.x;
  const Hash hash = static_cast<Hash>(keys.data[i]) * Hash{40503};  // BUG: hash_overflow
  output.data[i] = table.data[hash % static_cast<Hash>(table.size)];
}

template <bool kRepaired>
void hash_overflow(TensorView table, TensorView keys, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(keys.size(0)), table.device())
      .run<hash_overflow_kernel<kRepaired>>(items<const int>("table", table), items<const int>("keys", keys),
                                            items<int>("output", output));
}

// ---- misaligned_vector: a vector load needs an address that is a multiple of its size

template <bool kRepaired>
__global__ void misaligned_vector_kernel(Items<const float> input, Items<float> output) {
  const int i = threadIdx.x;
  float4 value;
  if constexpr (kRepaired) {
    value = make_float4(input.data[4 * i], input.data[4 * i + 1], input.data[4 * i + 2], input.data[4 * i + 3]);
  } else {
    value = reinterpret_cast<const float4*>(input.data)[i];  // BUG: misaligned_vector
  }
  output.data[i] = value.x + value.y + value.z + value.w;
}

template <bool kRepaired>
void misaligned_vector(TensorView input, TensorView output) {
  LaunchKernel(1, static_cast<unsigned>(output.size(0)), input.device())
      .run<misaligned_vector_kernel<kRepaired>>(items<const float>("input", input), items<float>("output", output));
}

// ---- static_shared_overflow: an entry per warp, but for fewer warps than the block has

template <bool kRepaired>
__global__ void static_shared_overflow_kernel(Items<const int> input, Items<int> output) {
  constexpr int kNumWarps = kRepaired ? 8 : 4;
  __shared__ int warp_sums[kNumWarps];
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int sum = __reduce_add_sync(0xffffffff, input.data[threadIdx.x]);
  if (lane == 0) {
    warp_sums[warp] = sum;  // BUG: static_shared_overflow
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int total = 0;
    for (int i = 0; i < kNumWarps; ++i) total += warp_sums[i];
    output.data[0] = total;
  }
}

template <bool kRepaired>
void static_shared_overflow(TensorView input, TensorView output) {
  LaunchKernel(1, 256, input.device())
      .run<static_shared_overflow_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

// ---- dynamic_shared_overflow: the launch asks for as many elements as there are threads, the kernel uses one more

template <bool kRepaired>
__global__ void dynamic_shared_overflow_kernel(Items<const int> input, Items<int> output) {
  extern __shared__ int tile[];
  const int i = threadIdx.x;
  tile[i + 1] = input.data[i];  // BUG: dynamic_shared_overflow
  if (i == 0) tile[0] = 0;
  __syncthreads();
  output.data[i] = tile[i];
}

template <bool kRepaired>
void dynamic_shared_overflow(TensorView input, TensorView output) {
  const auto size = static_cast<std::size_t>(input.size(0));
  LaunchKernel(1, static_cast<unsigned>(size), input.device(), (size + kRepaired) * sizeof(int))
      .run<dynamic_shared_overflow_kernel<kRepaired>>(items<const int>("input", input), items<int>("output", output));
}

}  // namespace minisgl::test
