// Exported from notebooks/11_small_floats.md by "minisgl book export"; edit it there. sha256:edc5b58fcec6

#pragma once

// CUDA's vector types: float4, uint2, ... with CUDA's alignment, and the functions that make one. On a GPU a thread
// loads or stores up to 16 aligned bytes in one instruction; through these types it says so.

#define MINISGL_VECTOR_TYPES(name, scalar)                                                     \
  struct name##1 { scalar x; };                                                                \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                                 \
  struct name##3 { scalar x, y, z; };                                                          \
  struct alignas(sizeof(scalar) > 4 ? 16 : 4 * sizeof(scalar)) name##4 { scalar x, y, z, w; }; \
  inline name##1 make_##name##1(scalar x) { return {x}; }                                      \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                         \
  inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

MINISGL_VECTOR_TYPES(char, signed char)
MINISGL_VECTOR_TYPES(uchar, unsigned char)
MINISGL_VECTOR_TYPES(short, short)
MINISGL_VECTOR_TYPES(ushort, unsigned short)
MINISGL_VECTOR_TYPES(int, int)
MINISGL_VECTOR_TYPES(uint, unsigned)
MINISGL_VECTOR_TYPES(long, long)
MINISGL_VECTOR_TYPES(ulong, unsigned long)
MINISGL_VECTOR_TYPES(longlong, long long)
MINISGL_VECTOR_TYPES(ulonglong, unsigned long long)
MINISGL_VECTOR_TYPES(float, float)
MINISGL_VECTOR_TYPES(double, double)

#undef MINISGL_VECTOR_TYPES

/// The size of a grid or block.
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
