// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:bf96555d8e4e

#pragma once

// CUDA's atomic functions. They return the old value and, as on a GPU, order no other access (relaxed). The _block and
// _system forms differ in who else sees them as atomic; here everybody does.

#include <vector_types.h>

#include <cstdint>
#include <type_traits>

namespace minisgl::host {

/// The unsigned integer of as many bytes as T.
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;

/// Replace `*address` by `change(*address)`, and return what it was. Values are compared by their bits: a NaN equals
/// itself here.
template <class T, class Change>
inline T atomic_update(T* address, const Change& change) {
  using Bits = BitsOf<T>;
  static_assert(sizeof(Bits) == sizeof(T));
  const auto bits = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (true) {
    const auto next = __builtin_bit_cast(Bits, static_cast<T>(change(__builtin_bit_cast(T, old))));
    if (__atomic_compare_exchange_n(bits, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      return __builtin_bit_cast(T, old);
    }
  }
}

template <class T>
inline T atomic_compare_and_swap(T* address, T expected, T value) {
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

}  // namespace minisgl::host

#define MINISGL_ATOMIC(name, type, expression)                               \
  inline type name(type* address, type value) { return expression; }         \
  inline type name##_block(type* address, type value) { return expression; } \
  inline type name##_system(type* address, type value) { return expression; }
#define MINISGL_ATOMIC_UPDATE(name, type, expression) \
  MINISGL_ATOMIC(name, type, minisgl::host::atomic_update(address, [value](type old) { return expression; }))
#define MINISGL_ATOMIC_BITS(type)                                                         \
  MINISGL_ATOMIC(atomicAnd, type, __atomic_fetch_and(address, value, __ATOMIC_RELAXED))   \
  MINISGL_ATOMIC(atomicOr, type, __atomic_fetch_or(address, value, __ATOMIC_RELAXED))     \
  MINISGL_ATOMIC(atomicXor, type, __atomic_fetch_xor(address, value, __ATOMIC_RELAXED))   \
  MINISGL_ATOMIC(atomicExch, type, __atomic_exchange_n(address, value, __ATOMIC_RELAXED)) \
  MINISGL_ATOMIC_COMPARE_AND_SWAP(type)
#define MINISGL_ATOMIC_COMPARE_AND_SWAP(type)                                \
  inline type atomicCAS(type* address, type expected, type value) {          \
    return minisgl::host::atomic_compare_and_swap(address, expected, value); \
  }                                                                          \
  inline type atomicCAS_block(type* address, type expected, type value) {    \
    return minisgl::host::atomic_compare_and_swap(address, expected, value); \
  }                                                                          \
  inline type atomicCAS_system(type* address, type expected, type value) {   \
    return minisgl::host::atomic_compare_and_swap(address, expected, value); \
  }
#define MINISGL_ATOMIC_MIN_MAX(type)                                \
  MINISGL_ATOMIC_UPDATE(atomicMin, type, value < old ? value : old) \
  MINISGL_ATOMIC_UPDATE(atomicMax, type, value > old ? value : old)

MINISGL_ATOMIC(atomicAdd, int, __atomic_fetch_add(address, value, __ATOMIC_RELAXED))
MINISGL_ATOMIC(atomicAdd, unsigned, __atomic_fetch_add(address, value, __ATOMIC_RELAXED))
MINISGL_ATOMIC(atomicAdd, unsigned long long, __atomic_fetch_add(address, value, __ATOMIC_RELAXED))
MINISGL_ATOMIC_UPDATE(atomicAdd, float, old + value)
MINISGL_ATOMIC_UPDATE(atomicAdd, double, old + value)
MINISGL_ATOMIC(atomicSub, int, __atomic_fetch_sub(address, value, __ATOMIC_RELAXED))
MINISGL_ATOMIC(atomicSub, unsigned, __atomic_fetch_sub(address, value, __ATOMIC_RELAXED))
MINISGL_ATOMIC_MIN_MAX(int)
MINISGL_ATOMIC_MIN_MAX(unsigned)
MINISGL_ATOMIC_MIN_MAX(long long)
MINISGL_ATOMIC_MIN_MAX(unsigned long long)
MINISGL_ATOMIC_UPDATE(atomicInc, unsigned, old >= value ? 0 : old + 1)
MINISGL_ATOMIC_UPDATE(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
MINISGL_ATOMIC_BITS(int)
MINISGL_ATOMIC_BITS(unsigned)
MINISGL_ATOMIC_BITS(unsigned long long)
MINISGL_ATOMIC_COMPARE_AND_SWAP(unsigned short)
MINISGL_ATOMIC_UPDATE(atomicExch, float, (static_cast<void>(old), value))

#undef MINISGL_ATOMIC_MIN_MAX
#undef MINISGL_ATOMIC_COMPARE_AND_SWAP
#undef MINISGL_ATOMIC_BITS
#undef MINISGL_ATOMIC_UPDATE
#undef MINISGL_ATOMIC

// A GPU adds to each part of a vector on its own, and so does this.
inline float2 atomicAdd(float2* address, float2 value) {
  return {atomicAdd(&address->x, value.x), atomicAdd(&address->y, value.y)};
}
inline float4 atomicAdd(float4* address, float4 value) {
  return {atomicAdd(&address->x, value.x), atomicAdd(&address->y, value.y), atomicAdd(&address->z, value.z),
          atomicAdd(&address->w, value.w)};
}
