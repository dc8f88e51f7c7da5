// Exported from notebooks/12_the_microscope.md by "minisgl book export"; edit it there. sha256:77dbd415067d

#pragma once

// The functions that the compiler inserts calls of, with -fsanitize=thread and -fsanitize=undefined. Their names and
// arguments are those of the libraries that come with the compiler, which are not linked.

#include <cstdint>
#include <cstring>
#include <new>
#include <string>

// The last part of recorder.cpp, which includes it at its end.

namespace minisgl::microscope {
namespace {

template <Kind kKind>
void record(const void* pc, const volatile void* address, std::size_t size) {
  if (!recorder || size == 0) return;
  try {
    recorder->access<kKind>(pc, reinterpret_cast<uintptr_t>(address), static_cast<uint32_t>(size));
  } catch (const std::bad_alloc&) {  // it must not fly through a kernel
    host::abandon("no memory is left for the microscope");
  }
}

/// UndefinedBehaviorSanitizer's description of an integer type, and of a place in the source (unused: the debug
/// information of the calling instruction says more).
struct TypeDescription {
  uint16_t kind;
  uint16_t info;  ///< of an integer: 1 if signed, and 2 * log2 of its bits
  char name[1];   ///< in quotes

  std::string plain_name() const {
    const std::string quoted = name;
    return quoted.size() < 2 ? quoted : quoted.substr(1, quoted.size() - 2);
  }
  std::string value(uintptr_t bits) const {
    const unsigned width = 1u << (info >> 1);
    if (width > 64) return "?";
    if (!(info & 1)) return std::to_string(width == 64 ? bits : bits & ((uintptr_t{1} << width) - 1));
    return std::to_string(static_cast<int64_t>(bits << (64 - width)) >> (64 - width));
  }
};
struct Place {
  const char* file;
  uint32_t line, column;
};
struct OverflowCheck {
  Place place;
  const TypeDescription& type;
};
struct IndexCheck {
  Place place;
  const TypeDescription& array;
  const TypeDescription& index;
};
struct AlignmentCheck {
  Place place;
  const TypeDescription& type;
  unsigned char log2_alignment, kind_of_use;
};

void overflow(const void* pc, const OverflowCheck& check, const char* sign, uintptr_t a, uintptr_t b) {
  const std::string detail = check.type.value(a) + " " + sign + " " + check.type.value(b) +
                             ", which does not fit into " + check.type.plain_name();
  if (recorder) recorder->wrong_value(pc, "integer overflow", detail, false);
}

}  // namespace
}  // namespace minisgl::microscope

#define MINISGL_PC __builtin_return_address(0)
#define MINISGL_HOOK extern "C" __attribute__((visibility("default")))
using minisgl::microscope::Kind;

MINISGL_HOOK void __tsan_init() {}
MINISGL_HOOK void __tsan_func_entry(void*) {}
MINISGL_HOOK void __tsan_func_exit() {}
MINISGL_HOOK void __tsan_vptr_update(void**, void*) {}
MINISGL_HOOK void __tsan_vptr_read(void**) {}

#define MINISGL_ACCESS(name, kind, size) \
  MINISGL_HOOK void __tsan_##name##size(void* address) { minisgl::microscope::record<kind>(MINISGL_PC, address, size); }
#define MINISGL_ACCESSES(size)                               \
  MINISGL_ACCESS(read, Kind::kLoad, size)                    \
  MINISGL_ACCESS(write, Kind::kStore, size)                  \
  MINISGL_ACCESS(unaligned_read, Kind::kLoad, size)          \
  MINISGL_ACCESS(unaligned_write, Kind::kStore, size)        \
  MINISGL_ACCESS(volatile_read, Kind::kLoad, size)           \
  MINISGL_ACCESS(volatile_write, Kind::kStore, size)         \
  MINISGL_ACCESS(unaligned_volatile_read, Kind::kLoad, size) \
  MINISGL_ACCESS(unaligned_volatile_write, Kind::kStore, size)
MINISGL_ACCESSES(1)
MINISGL_ACCESSES(2)
MINISGL_ACCESSES(4)
MINISGL_ACCESSES(8)
MINISGL_ACCESSES(16)

MINISGL_HOOK void __tsan_read_range(void* address, std::size_t size) {
  minisgl::microscope::record<Kind::kLoad>(MINISGL_PC, address, size);
}
MINISGL_HOOK void __tsan_write_range(void* address, std::size_t size) {
  minisgl::microscope::record<Kind::kStore>(MINISGL_PC, address, size);
}

// A kernel is linked with --wrap for these: the compiler leaves them to the library, uninstrumented.
MINISGL_HOOK void* __wrap_memcpy(void* to, const void* from, std::size_t size) {
  minisgl::microscope::record<Kind::kLoad>(MINISGL_PC, from, size);
  minisgl::microscope::record<Kind::kStore>(static_cast<char*>(MINISGL_PC) - 1, to, size);
  return std::memcpy(to, from, size);
}
MINISGL_HOOK void* __wrap_memmove(void* to, const void* from, std::size_t size) {
  minisgl::microscope::record<Kind::kLoad>(MINISGL_PC, from, size);
  minisgl::microscope::record<Kind::kStore>(static_cast<char*>(MINISGL_PC) - 1, to, size);
  return std::memmove(to, from, size);
}
MINISGL_HOOK void* __wrap_memset(void* to, int value, std::size_t size) {
  minisgl::microscope::record<Kind::kStore>(MINISGL_PC, to, size);
  return std::memset(to, value, size);
}

// Atomics must be performed here. An atomic load appears only in the loop around a compare-and-swap (as of floats):
// the swap counts, the look before it does not.
#define MINISGL_FETCH(bits, type, name, function)                                           \
  MINISGL_HOOK type __tsan_atomic##bits##_##name(volatile type* address, type value, int) { \
    minisgl::microscope::record<Kind::kAtomic>(MINISGL_PC, address, sizeof(type));          \
    return function(address, value, __ATOMIC_SEQ_CST);                                      \
  }
#define MINISGL_SWAP(bits, type, name)                                                                               \
  MINISGL_HOOK int __tsan_atomic##bits##_compare_exchange_##name(volatile type* address, type* expected, type value, \
                                                                 int, int) {                                         \
    minisgl::microscope::record<Kind::kAtomic>(MINISGL_PC, address, sizeof(type));                                   \
    return __atomic_compare_exchange_n(address, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);         \
  }
#define MINISGL_ATOMICS(bits, type)                                                                                    \
  MINISGL_HOOK type __tsan_atomic##bits##_load(const volatile type* address, int) {                                    \
    if (auto r = minisgl::microscope::recorder)                                                                        \
      r->look(MINISGL_PC, reinterpret_cast<uintptr_t>(address), sizeof(type));                                         \
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                                 \
  }                                                                                                                    \
  MINISGL_HOOK void __tsan_atomic##bits##_store(volatile type* address, type value, int) {                             \
    minisgl::microscope::record<Kind::kAtomic>(MINISGL_PC, address, sizeof(type));                                     \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                                \
  }                                                                                                                    \
  MINISGL_FETCH(bits, type, exchange, __atomic_exchange_n)                                                             \
  MINISGL_FETCH(bits, type, fetch_add, __atomic_fetch_add)                                                             \
  MINISGL_FETCH(bits, type, fetch_sub, __atomic_fetch_sub)                                                             \
  MINISGL_FETCH(bits, type, fetch_and, __atomic_fetch_and)                                                             \
  MINISGL_FETCH(bits, type, fetch_or, __atomic_fetch_or)                                                               \
  MINISGL_FETCH(bits, type, fetch_xor, __atomic_fetch_xor)                                                             \
  MINISGL_FETCH(bits, type, fetch_nand, __atomic_fetch_nand)                                                           \
  MINISGL_SWAP(bits, type, strong)                                                                                     \
  MINISGL_SWAP(bits, type, weak)                                                                                       \
  MINISGL_HOOK type __tsan_atomic##bits##_compare_exchange_val(volatile type* address, type expected, type value, int, \
                                                               int) {                                                  \
    minisgl::microscope::record<Kind::kAtomic>(MINISGL_PC, address, sizeof(type));                                     \
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    return expected;                                                                                                   \
  }
MINISGL_ATOMICS(8, uint8_t)
MINISGL_ATOMICS(16, uint16_t)
MINISGL_ATOMICS(32, uint32_t)
MINISGL_ATOMICS(64, uint64_t)

MINISGL_HOOK void __tsan_atomic_thread_fence(int order) {
  if (auto r = minisgl::microscope::recorder) r->fence(order == __ATOMIC_SEQ_CST);  // else __threadfence_block
}
MINISGL_HOOK void __tsan_atomic_signal_fence(int) {}

// What -fsanitize=alignment,bounds,signed-integer-overflow,integer-divide-by-zero calls when a check has failed.
#define MINISGL_OVERFLOW(name, sign)                                                                               \
  MINISGL_HOOK void __ubsan_handle_##name##_overflow(const minisgl::microscope::OverflowCheck* check, uintptr_t a, \
                                                     uintptr_t b) {                                                \
    minisgl::microscope::overflow(MINISGL_PC, *check, sign, a, b);                                                 \
  }
MINISGL_OVERFLOW(add, "+")
MINISGL_OVERFLOW(sub, "-")
MINISGL_OVERFLOW(mul, "*")

MINISGL_HOOK void __ubsan_handle_negate_overflow(const minisgl::microscope::OverflowCheck* check, uintptr_t a) {
  minisgl::microscope::overflow(MINISGL_PC, *check, "-", 0, a);
}
MINISGL_HOOK void __ubsan_handle_divrem_overflow(const minisgl::microscope::OverflowCheck* check, uintptr_t a,
                                                 uintptr_t b) {
  const std::string detail = check->type.value(a) + " / " + check->type.value(b);
  if (auto r = minisgl::microscope::recorder) r->wrong_value(MINISGL_PC, "division", detail, true);
}
MINISGL_HOOK void __ubsan_handle_out_of_bounds(const minisgl::microscope::IndexCheck* check, uintptr_t index) {
  const std::string detail = "index " + check->index.value(index) + " of an array " + check->array.plain_name();
  if (auto r = minisgl::microscope::recorder) r->wrong_value(MINISGL_PC, "out of bounds", detail, true);
}
MINISGL_HOOK void __ubsan_handle_type_mismatch_v1(const minisgl::microscope::AlignmentCheck* check, uintptr_t address) {
  if (auto r = minisgl::microscope::recorder)
    r->misaligned(MINISGL_PC, Kind::kCheck, address, 1u << check->log2_alignment, check->type.plain_name());
}
