// Exported from notebooks/04_warps_vectors_launches.md by "minisgl book export"; edit it there. sha256:b41b9084beee

#pragma once

#include <minisgl/utils.cuh>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace minisgl::warp {

/// The type that moves `kBytes` bytes (1, 2, 4, 8 or 16) in one instruction. Its address must be a multiple of that.
template <int kBytes>
struct VectorOf;
// clang-format off
template <> struct VectorOf<16> { using type = uint4; };
template <> struct VectorOf<8> { using type = uint2; };
template <> struct VectorOf<4> { using type = uint32_t; };
template <> struct VectorOf<2> { using type = uint16_t; };
template <> struct VectorOf<1> { using type = uint8_t; };
// clang-format on

/// What one of `kThreads` threads carries of a row of `kBytes` bytes: vectors of `kVectorBytes`, and single bytes of what
/// is left at the end. All vectors are loaded before the first is stored: a thread waits for memory once.
///
/// Neighbouring threads touch neighbouring vectors. Each warp has a part of the row to itself. The row must start at a
/// multiple of `kVectorBytes`.
template <int64_t kBytes, int kVectorBytes, int kThreads>
class RowShare {
 public:
  using Vector = typename VectorOf<kVectorBytes>::type;
  static constexpr int64_t kVectors = kBytes / kVectorBytes;
  static constexpr int kRounds = static_cast<int>((kVectors + kThreads - 1) / kThreads);  // vectors of one thread

  __device__ __forceinline__ void load(const void* row, int thread) {
    for_each_vector(thread, [&](int round, int64_t i) { vectors[round] = static_cast<const Vector*>(row)[i]; });
    for_each_byte(thread, [&](int round, int64_t i) { tail_[round] = static_cast<const uint8_t*>(row)[i]; });
  }

  __device__ __forceinline__ void store(void* row, int thread) const {
    for_each_vector(thread, [&](int round, int64_t i) { static_cast<Vector*>(row)[i] = vectors[round]; });
    for_each_byte(thread, [&](int round, int64_t i) { static_cast<uint8_t*>(row)[i] = tail_[round]; });
  }

  Vector vectors[kRounds > 0 ? kRounds : 1];

 private:
  static constexpr int kLanes = kThreads < kWarpSize ? kThreads : kWarpSize;
  static constexpr int kTailBytes = kBytes % kVectorBytes;
  static constexpr int kTailRounds = (kTailBytes + kThreads - 1) / kThreads;

  template <class Body>
  static __device__ __forceinline__ void for_each_vector(int thread, const Body& body) {
    const int64_t first = int64_t{thread / kLanes} * kLanes * kRounds + thread % kLanes;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int64_t i = first + round * kLanes;
      if (kVectors == int64_t{kThreads} * kRounds || i < kVectors) body(round, i);
    }
  }

  template <class Body>
  static __device__ __forceinline__ void for_each_byte(int thread, const Body& body) {
#pragma unroll
    for (int round = 0; round < kTailRounds; ++round) {
      const int i = round * kThreads + thread;
      if (i < kTailBytes) body(round, kVectors * kVectorBytes + i);
    }
  }

  uint8_t tail_[kTailRounds > 0 ? kTailRounds : 1];
};

/// Vectors that a thread loads before it stores the first: 8 of 16 bytes take 32 registers.
inline constexpr int kMaxInFlight = 8;

/// Copy `kBytes` bytes with `kThreads` threads, by default one warp. Both addresses must be multiples of `kVectorBytes`.
template <int64_t kBytes, int kVectorBytes, int kThreads = kWarpSize>
__device__ __forceinline__ void copy(void* dst, const void* src, int thread) {
  constexpr int64_t kBatchBytes = int64_t{kMaxInFlight} * kThreads * kVectorBytes;
  constexpr int64_t kBatches = kBytes / kBatchBytes;
  auto from = static_cast<const std::byte*>(src);
  auto to = static_cast<std::byte*>(dst);
  for (int64_t batch = 0; batch < kBatches; ++batch, from += kBatchBytes, to += kBatchBytes) {
    RowShare<kBatchBytes, kVectorBytes, kThreads> share;
    share.load(from, thread);
    share.store(to, thread);
  }
  RowShare<kBytes - kBatches * kBatchBytes, kVectorBytes, kThreads> rest;
  rest.load(from, thread);
  rest.store(to, thread);
}

/// Set `kBytes` bytes to zero with `kThreads` threads. The address must be a multiple of `kVectorBytes`.
template <int64_t kBytes, int kVectorBytes, int kThreads = kWarpSize>
__device__ __forceinline__ void reset(void* dst, int thread) {
  using Vector = typename VectorOf<kVectorBytes>::type;
  constexpr int64_t kVectors = kBytes / kVectorBytes;
  for (int64_t i = thread; i < kVectors; i += kThreads) static_cast<Vector*>(dst)[i] = Vector{};
  for (int64_t i = kVectors * kVectorBytes + thread; i < kBytes; i += kThreads) static_cast<uint8_t*>(dst)[i] = 0;
}

/// The widest vector (16, 8, 4, 2 or 1 bytes) at which every one of `addresses_and_strides` is aligned.
inline int max_vector_bytes(std::initializer_list<int64_t> addresses_and_strides) {
  int64_t bits = 16;
  for (auto value : addresses_and_strides) bits |= value;
  return static_cast<int>(bits & -bits);
}

/// Call `body` with the widest width as a compile-time constant.
template <class Body>
void dispatch_vector_bytes(int bytes, const Body& body) {
  switch (bytes) {
    case 16: return body(std::integral_constant<int, 16>{});
    case 8: return body(std::integral_constant<int, 8>{});
    case 4: return body(std::integral_constant<int, 4>{});
    case 2: return body(std::integral_constant<int, 2>{});
    default: return body(std::integral_constant<int, 1>{});
  }
}

}  // namespace minisgl::warp
