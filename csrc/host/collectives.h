// Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:1abc3380e713

#pragma once

// Barriers and warp collectives. Each one is a request to the scheduler; `file` and `line` are those of the call, for
// its error messages. The caller's threadIdx is put back afterwards: other threads have run meanwhile.

#include <cuda_runtime.h>

namespace minisgl::host {

template <class Value>
uint64_t to_bits(Value value) {
  static_assert(sizeof(Value) <= 8 && std::is_trivially_copyable_v<Value>, "warp collectives carry up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class Value>
Value from_bits(uint64_t bits) {
  Value value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint64_t wait(const Request& request) {
  const uint3 me = threadIdx;
  const uint64_t result = wait(thread_loop, me.x + blockDim.x * (me.y + blockDim.y * me.z), request);
  threadIdx = me;
  return result;
}

}  // namespace minisgl::host

#define MINISGL_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(MINISGL_CALLER) {
  minisgl::host::wait({minisgl::host::Wait::kSyncThreads, "__syncthreads", file, line});
}

#define MINISGL_BARRIER(name, kind)                                                                                    \
  inline int name(int predicate, MINISGL_CALLER) {                                                                     \
    return static_cast<int>(minisgl::host::wait(                                                                       \
        {.wait = minisgl::host::Wait::kind, .function = #name, .file = file, .line = line, .value = predicate != 0})); \
  }
MINISGL_BARRIER(__syncthreads_count, kSyncThreadsCount)
MINISGL_BARRIER(__syncthreads_and, kSyncThreadsAnd)
MINISGL_BARRIER(__syncthreads_or, kSyncThreadsOr)
#undef MINISGL_BARRIER

inline void __syncwarp(unsigned mask = 0xffffffff, MINISGL_CALLER) {
  minisgl::host::wait({minisgl::host::Wait::kSyncWarp, "__syncwarp", file, line, mask});
}

#define MINISGL_SHUFFLE(name, kind, Operand)                                                            \
  template <class Value>                                                                                \
  Value name(unsigned mask, Value value, Operand operand, int width = warpSize, MINISGL_CALLER) {       \
    using namespace minisgl::host;                                                                      \
    return from_bits<Value>(                                                                            \
        wait({Wait::kind, #name, file, line, mask, to_bits(value), static_cast<int>(operand), width})); \
  }
MINISGL_SHUFFLE(__shfl_sync, kShfl, int)
MINISGL_SHUFFLE(__shfl_up_sync, kShflUp, unsigned)
MINISGL_SHUFFLE(__shfl_down_sync, kShflDown, unsigned)
MINISGL_SHUFFLE(__shfl_xor_sync, kShflXor, int)
#undef MINISGL_SHUFFLE

#define MINISGL_VOTE(Result, name, kind)                                                     \
  inline Result name(unsigned mask, int predicate, MINISGL_CALLER) {                         \
    using namespace minisgl::host;                                                           \
    return static_cast<Result>(wait({Wait::kind, #name, file, line, mask, predicate != 0})); \
  }
MINISGL_VOTE(unsigned, __ballot_sync, kBallot)
MINISGL_VOTE(int, __any_sync, kAny)
MINISGL_VOTE(int, __all_sync, kAll)
#undef MINISGL_VOTE

template <class Value>
unsigned __match_any_sync(unsigned mask, Value value, MINISGL_CALLER) {
  using namespace minisgl::host;
  return static_cast<unsigned>(wait({Wait::kMatchAny, "__match_any_sync", file, line, mask, to_bits(value)}));
}

template <class Value>
unsigned __match_all_sync(unsigned mask, Value value, int* predicate, MINISGL_CALLER) {
  using namespace minisgl::host;
  const auto same =
      static_cast<unsigned>(wait({Wait::kMatchAll, "__match_all_sync", file, line, mask, to_bits(value)}));
  *predicate = same != 0;
  return same;
}

#define MINISGL_REDUCE(name, Value, kind)                                                                 \
  inline Value name(unsigned mask, Value value, MINISGL_CALLER) {                                         \
    using namespace minisgl::host;                                                                        \
    return static_cast<Value>(wait({Wait::kind, #name, file, line, mask, static_cast<uint32_t>(value)})); \
  }
MINISGL_REDUCE(__reduce_add_sync, unsigned, kReduceAdd)
MINISGL_REDUCE(__reduce_min_sync, unsigned, kReduceMinUnsigned)
MINISGL_REDUCE(__reduce_max_sync, unsigned, kReduceMaxUnsigned)
MINISGL_REDUCE(__reduce_add_sync, int, kReduceAdd)
MINISGL_REDUCE(__reduce_min_sync, int, kReduceMinSigned)
MINISGL_REDUCE(__reduce_max_sync, int, kReduceMaxSigned)
MINISGL_REDUCE(__reduce_and_sync, unsigned, kReduceAnd)
MINISGL_REDUCE(__reduce_or_sync, unsigned, kReduceOr)
MINISGL_REDUCE(__reduce_xor_sync, unsigned, kReduceXor)
#undef MINISGL_REDUCE

/// The lanes of the warp that come to this call, as far as they come without meeting the others before.
inline unsigned __activemask(MINISGL_CALLER) {
  return static_cast<unsigned>(minisgl::host::wait({minisgl::host::Wait::kActiveMask, "__activemask", file, line}));
}

/// End the launch with an error that names the call.
[[noreturn]] inline void __trap(MINISGL_CALLER) {
  minisgl::host::wait({minisgl::host::Wait::kTrap, "__trap", file, line});
  __builtin_unreachable();
}

#undef MINISGL_CALLER
