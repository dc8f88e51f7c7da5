// Ranks of the double of NCCL: what tests count and break, processes that meet in shared memory.

#pragma once

#include <fake_reduce.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#ifndef FAKE_VERSION
#define FAKE_VERSION 23003
#endif

namespace fake {

enum Result {
  kSuccess,
  kCudaError,
  kSystemError,
  kInternalError,
  kInvalidArgument,
  kInvalidUsage,
  kRemoteError,
  kBusy
};

constexpr int kMaxRanks = 8;
constexpr size_t kChunk = 1 << 16;
constexpr int kFloat8Version = 22403;

/// The beginning of ncclConfig_t.
struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct UniqueId {
  pid_t process;
  int file;
  char unused[120];
};
static_assert(sizeof(UniqueId) == 128);

/// What one rank passes to a collective. All ranks have to pass the same.
struct Call {
  char function[24];
  size_t count;
  int type, op, root;
};

/// What one rank shows to the others, in shared memory.
struct Rank {
  std::atomic<bool> is_here, has_left;
  std::atomic<uint64_t> meetings;
  Call call;
  int color, key;
  UniqueId split_id;
  char bytes[kChunk];
};

/// Messages from one rank to another, a chunk at a time.
struct Mailbox {
  std::atomic<uint64_t> written, read;
  size_t message_bytes;
  char bytes[kChunk];
};

struct Shared {
  std::atomic<int> size;
  Rank ranks[kMaxRanks];
  Mailbox mail[kMaxRanks][kMaxRanks];
};

struct Window {
  char* data;
};

struct Comm {
  Shared* shared;
  int rank, size;
  uint64_t meetings = 0;
  std::set<Window*> windows;
  std::atomic<bool> is_aborted = false, is_finalized = false;
  std::atomic<int> async_error = kSuccess, threads_inside = 0;
  Rank& me() { return shared->ranks[rank]; }
};

// ---------------------------------------------------------------------------------------------- what tests ask and set

struct Fault {
  int calls_left, action, result;
};
enum Action { kFail, kDie, kNeverReturn, kAsyncError, kBeLate };  // late by `result` milliseconds

inline std::mutex spy_mutex;
inline std::map<std::string, int64_t> counts;
inline std::map<std::string, Fault> faults;
inline std::set<Comm*> live_comms;
inline std::map<char*, size_t> allocations;
inline const void* last_address = nullptr;
inline char last_error[200];
inline thread_local int group_depth = 0;
inline thread_local Result group_error = kSuccess;

inline Result error(Result result, const std::string& details) {
  const std::lock_guard guard(spy_mutex);
  std::snprintf(last_error, sizeof(last_error), "%s", details.c_str());
  return result;
}

inline Result misuse(const std::string& what) {
  std::fprintf(stderr, "fake NCCL: misuse: %s\n", what.c_str());
  {
    const std::lock_guard guard(spy_mutex);
    ++counts["misuses"];
  }
  return error(kInvalidUsage, what);
}

inline void pause(int attempt) { attempt < 200 ? sched_yield() : usleep(50); }

/// Set free when the communicator is aborted; without one, never.
inline Result never_return(Comm* comm) {
  for (int i = 0; !comm || !comm->is_aborted; ++i) pause(i);
  return error(kInternalError, "aborted");
}

inline Result count_call(const char* function, Comm* comm) {
  Fault fault{};
  {
    const std::lock_guard guard(spy_mutex);
    ++counts[function];
    const auto found = faults.find(function);
    if (found == faults.end() || --found->second.calls_left > 0) return kSuccess;
    fault = found->second;
    faults.erase(found);
  }
  switch (fault.action) {
    case kDie: _exit(42);
    case kNeverReturn: return never_return(comm);
    case kAsyncError: comm->async_error = fault.result; return never_return(comm);
    case kBeLate: usleep(1000 * fault.result); return kSuccess;
    default: return error(static_cast<Result>(fault.result), "injected");
  }
}

/// One call on a communicator. `result` says whether it may go on.
struct Inside {
  Inside(const char* function, Comm* comm) : comm(comm) {
    bool is_live;
    {
      const std::lock_guard guard(spy_mutex);
      is_live = live_comms.contains(comm);
      if (is_live) ++comm->threads_inside;
    }
    if (!is_live) {
      this->comm = nullptr;
      result = misuse(std::string(function) + " on a communicator that is none");
    } else {
      result = count_call(function, comm);
    }
    if (group_depth > 0 && result != kSuccess) group_error = result;
  }
  ~Inside() {
    if (comm) --comm->threads_inside;
  }
  Comm* comm;
  Result result;
};

// ------------------------------------------------------------------------------------------------------------ meetings

/// Wait until rank `other` has done something, unless it has left or this one is aborted.
template <class Done>
Result wait_for(Comm& comm, int other, Done done) {
  for (int i = 0; !done(); ++i) {
    if (comm.is_aborted) return error(kInternalError, "aborted");
    if (comm.shared->ranks[other].has_left && !done()) {
      return error(kRemoteError, "rank " + std::to_string(other) + " has left");
    }
    pause(i);
  }
  return kSuccess;
}

/// Wait until all ranks are here.
inline Result meet(Comm& comm) {
  comm.me().meetings = ++comm.meetings;
  for (int r = 0; r < comm.size; ++r) {
    const auto result = wait_for(comm, r, [&] { return comm.shared->ranks[r].meetings >= comm.meetings; });
    if (result != kSuccess) return result;
  }
  return kSuccess;
}

inline Result agree(Comm& comm, const char* function, size_t count = 0, int type = 0, int op = 0, int root = 0) {
  Call call{};
  std::strncpy(call.function, function, sizeof(call.function) - 1);
  std::tie(call.count, call.type, call.op, call.root) = std::tie(count, type, op, root);
  comm.me().call = call;
  if (const auto result = meet(comm)) return result;
  int other = -1;
  for (int r = 0; r < comm.size; ++r)
    if (std::memcmp(&comm.shared->ranks[r].call, &call, sizeof(call)) != 0) other = r;
  const auto others_call = comm.shared->ranks[std::max(other, 0)].call;
  if (const auto result = meet(comm)) return result;
  if (other < 0) return kSuccess;
  return misuse(std::string(function) + " of " + std::to_string(count) + ", but rank " + std::to_string(other) +
                " calls " + others_call.function + " of " + std::to_string(others_call.count));
}

/// Show `count` elements from `data` to all ranks, a chunk at a time. `use(first, n)` may read what they show.
template <class Use>
Result show(Comm& comm, const void* data, size_t count, int type, Use use) {
  const size_t bytes = size_of(type), step = kChunk / bytes;
  for (size_t first = 0; first < count; first += step) {
    const size_t n = std::min(step, count - first);
    std::memcpy(comm.me().bytes, static_cast<const char*>(data) + first * bytes, n * bytes);
    if (const auto result = meet(comm)) return result;
    use(first, n);
    if (const auto result = meet(comm)) return result;
  }
  return kSuccess;
}

inline void reduce_shown(Comm& comm, void* output, size_t first, size_t n, int type, int op) {
  std::vector<const char*> shown;
  for (int r = 0; r < comm.size; ++r) shown.push_back(comm.shared->ranks[r].bytes);
  reduce(static_cast<char*>(output) + first * size_of(type), shown, n, type, op);
}

inline Result join(UniqueId id, int size, int rank, Comm** made) {
  const auto path = "/proc/" + std::to_string(id.process) + "/fd/" + std::to_string(id.file);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (file < 0) return error(kSystemError, "cannot open " + path);
  const bool has_size = ftruncate(file, sizeof(Shared)) == 0;
  void* memory = has_size ? mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  if (memory == MAP_FAILED) return error(kSystemError, "no shared memory");
  auto comm = std::make_unique<Comm>();
  comm->shared = static_cast<Shared*>(memory);
  comm->rank = rank;
  comm->size = size;
  int others_size = 0;
  auto result = kSuccess;
  if (!comm->shared->size.compare_exchange_strong(others_size, size) && others_size != size) {
    result = misuse("another number of ranks");
  } else if (comm->me().is_here.exchange(true)) {
    result = misuse("two processes with the same rank");
  } else {
    result = meet(*comm);
  }
  if (rank == 0 && id.process == getpid()) close(id.file);
  if (result != kSuccess) {
    munmap(memory, sizeof(Shared));
    return result;
  }
  const std::lock_guard guard(spy_mutex);
  live_comms.insert(*made = comm.release());
  return kSuccess;
}

/// The object itself stays for ever: a test wants to know if it is used again.
inline void leave(Comm* comm) {
  {
    const std::lock_guard guard(spy_mutex);
    live_comms.erase(comm);
  }
  comm->is_aborted = true;
  for (int i = 0; comm->threads_inside > 0; ++i) pause(i);
  comm->me().has_left = true;
  munmap(comm->shared, sizeof(Shared));
}

}  // namespace fake
