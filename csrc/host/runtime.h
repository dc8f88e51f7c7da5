// Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:b66cfe5ee44a

#pragma once

// What the kernels of the CPU target ask of the library behind them (scheduler.cpp), which is built once and linked by
// every kernel, as libcudart is on a GPU.

#include <csetjmp>
#include <cstddef>
#include <cstdint>

#ifdef __has_feature
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1  // as g++ says it
#endif
#endif

namespace minisgl::host {

#define MINISGL_HOST_API __attribute__((visibility("default")))

/// The ways in which a thread waits for others.
enum class Wait : uint8_t {
  kSyncThreads,
  kSyncThreadsCount,
  kSyncThreadsAnd,
  kSyncThreadsOr,  // those above wait for the block, those below for lanes of a warp
  kSyncWarp,
  kShfl,
  kShflUp,
  kShflDown,
  kShflXor,
  kBallot,
  kAny,
  kAll,
  kMatchAny,
  kMatchAll,
  kReduceAdd,
  kReduceMinSigned,
  kReduceMaxSigned,
  kReduceMinUnsigned,
  kReduceMaxUnsigned,
  kReduceAnd,
  kReduceOr,
  kReduceXor,
  kActiveMask,
  kTrap,  // no waiting: the launch ends
};

constexpr bool waits_for_block(Wait wait) { return wait <= Wait::kSyncThreadsOr; }

/// One thread's part in a barrier or warp collective. It lives on the stack of the waiting thread.
struct Request {
  Wait wait;
  const char* function;  ///< as CUDA spells it
  const char* file;      ///< where it is called
  int line;
  uint32_t mask = 0xffffffff;  ///< the lanes that must meet
  uint64_t value = 0;          ///< what this thread brings: a predicate, or the bits of a value
  int operand = 0;             ///< of a shuffle: source lane, distance or lane mask
  int width = 32;              ///< of a shuffle: lanes that exchange among themselves
};

/// A launch, as the microscope is told of it.
struct Launch {
  unsigned grid[3];
  unsigned block[3];
  std::byte* dynamic_shared;
  std::size_t dynamic_shared_bytes;
  const unsigned* thread_idx;  ///< x, y, z of the thread that runs at the moment
  const void* code;            ///< an address inside the library that holds the kernel
};

class Scheduler;

/// What the loop over a block's threads shares with the scheduler of its OS thread.
struct Loop {
  unsigned thread_limit;      ///< the loop starts threads below this one; 0 when it must not start any more
  unsigned row_limit;         ///< the same, or where the current row of the block ends
  bool waited;                ///< whether any thread of this block has ever waited
  const unsigned* block_idx;  ///< x, y, z of the block
  Scheduler* scheduler;
  jmp_buf* escape;  ///< where a launch goes on that fails on its own stack
};

/// A kernel with its arguments, as the library runs it.
struct Kernel {
  Launch launch;
  /// Make block (x, y, z) the current one of this OS thread, and return its loop.
  Loop* (*enter_block)(const Kernel& kernel, unsigned x, unsigned y, unsigned z);
  /// Run threads `first`, `first + 1`, ... for as long as they are below the loop's `thread_limit`.
  void (*run)(const Kernel& kernel, unsigned first);
  const void* arguments;
  bool parallel;  ///< whether blocks may run on several OS threads at once

  unsigned num_threads() const { return launch.block[0] * launch.block[1] * launch.block[2]; }
};

/// Who wants to know what happens inside a launch. All calls come from the thread that launched.
struct Observer {
  virtual void begin_launch(const Launch& launch) = 0;
  virtual void end_launch() = 0;
  virtual void begin_block(uint64_t block) = 0;  ///< x + gridDim.x * (y + gridDim.y * z)
  virtual void end_block() = 0;
  /// A thread (x + blockDim.x * (y + blockDim.y * z)) has come to a barrier or collective.
  virtual void arrive(unsigned thread, const Request& request) = 0;
  /// All threads of the block met at __syncthreads.
  virtual void sync_block() = 0;
  /// The lanes of `lanes` of a warp met at __syncwarp.
  virtual void sync_warp(unsigned warp, uint32_t lanes) = 0;

 protected:
  ~Observer() = default;
};

/// Set by the recorder while it records; null otherwise.
MINISGL_HOST_API extern Observer* observer;

/// Wait as `request` says, and return what the thread gets out of it. If the threads can never meet, the launch ends
/// with an error that names them.
MINISGL_HOST_API uint64_t wait(const Loop& loop, unsigned thread, const Request& request);

/// End the running launch from inside a thread of it: the launch throws a RuntimeError of this message. The thread's
/// stack is left as it is, without unwinding.
[[noreturn]] MINISGL_HOST_API void abandon(const char* message);

/// Whether a launch may loop over its blocks itself: in natural order, on one OS thread, unobserved. It then calls
/// `begin_plain` before the first block, and `finish_block` after each block in which a thread waited. All other
/// launches call `run_grid`.
MINISGL_HOST_API bool is_plain();
MINISGL_HOST_API void begin_plain(const Kernel& kernel, Loop& loop);
MINISGL_HOST_API void finish_block(const Loop& loop);

/// Throw the error of a launch that has escaped from a kernel on its own stack.
[[noreturn]] MINISGL_HOST_API void throw_failure(const Loop& loop);
MINISGL_HOST_API void run_grid(const Kernel& kernel);

}  // namespace minisgl::host
