// Exported from notebooks/04_warps_vectors_launches.md by "minisgl book export"; edit it there. sha256:7314df4b240d

#pragma once

#include <minisgl/utils.cuh>

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

/// Vectors that a lane loads before it stores the first: 8 of 16 bytes take 32 registers.
inline constexpr int kMaxInFlight = 8;

/// Copy `kBytes` bytes with one warp, `kVectorBytes` at a time; what is left at the end goes byte by byte.
///
/// Both addresses must be multiples of `kVectorBytes`. Lane i takes vectors i, i + 32, i + 64, ...: neighbours read
/// neighbouring memory. A lane issues up to `kMaxInFlight` loads before the first store, so that it waits for memory
/// once, not once per vector.
template <int64_t kBytes, int kVectorBytes>
__device__ __forceinline__ void copy(void* dst, const void* src, int lane) {
  using Vector = typename VectorOf<kVectorBytes>::type;
  constexpr int64_t kVectors = kBytes / kVectorBytes;
  constexpr int64_t kRounds = kVectors / kWarpSize;        // in which every lane has a vector
  constexpr int64_t kRest = kRounds % kMaxInFlight;        // rounds after the last full batch
  constexpr int kLanesOfLastRound = kVectors % kWarpSize;  // a round for some of the lanes
  constexpr int kTail = kBytes % kVectorBytes;             // bytes after the last vector
  auto from = static_cast<const Vector*>(src) + lane;
  auto to = static_cast<Vector*>(dst) + lane;

  for (int64_t batch = 0; batch < kRounds / kMaxInFlight; ++batch) {
    Vector values[kMaxInFlight];
#pragma unroll
    for (int i = 0; i < kMaxInFlight; ++i) values[i] = from[i * kWarpSize];
#pragma unroll
    for (int i = 0; i < kMaxInFlight; ++i) to[i * kWarpSize] = values[i];
    from += kMaxInFlight * kWarpSize;
    to += kMaxInFlight * kWarpSize;
  }

  Vector values[kRest + 1];
  uint8_t tail = 0;
#pragma unroll
  for (int i = 0; i < kRest; ++i) values[i] = from[i * kWarpSize];
  if (kLanesOfLastRound > 0 && lane < kLanesOfLastRound) values[kRest] = from[kRest * kWarpSize];
  if (kTail > 0 && lane < kTail) tail = static_cast<const uint8_t*>(src)[kBytes - kTail + lane];
#pragma unroll
  for (int i = 0; i < kRest; ++i) to[i * kWarpSize] = values[i];
  if (kLanesOfLastRound > 0 && lane < kLanesOfLastRound) to[kRest * kWarpSize] = values[kRest];
  if (kTail > 0 && lane < kTail) static_cast<uint8_t*>(dst)[kBytes - kTail + lane] = tail;
}

/// Set `kBytes` bytes to zero with one warp. The address must be a multiple of `kVectorBytes`.
template <int64_t kBytes, int kVectorBytes>
__device__ __forceinline__ void reset(void* dst, int lane) {
  using Vector = typename VectorOf<kVectorBytes>::type;
  constexpr int64_t kVectors = kBytes / kVectorBytes;
  constexpr int64_t kRounds = kVectors / kWarpSize;
  constexpr int kTail = kBytes % kVectorBytes;
  const auto to = static_cast<Vector*>(dst) + lane;
  for (int64_t i = 0; i < kRounds; ++i) to[i * kWarpSize] = Vector{};
  if (lane < kVectors % kWarpSize) to[kRounds * kWarpSize] = Vector{};
  if (kTail > 0 && lane < kTail) static_cast<uint8_t*>(dst)[kBytes - kTail + lane] = 0;
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
