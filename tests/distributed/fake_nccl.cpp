// A double of libnccl.so.2 for CPU memory and real processes, for tests of the wrapper without a GPU.
//
// Ranks talk through shared memory that has no name in any folder (a memfd, which the others open through /proc), so
// nothing is left behind, however a process ends. Every call blocks until it is done. It checks what NCCL checks and,
// as a spy, what NCCL trusts its caller with: that all ranks call the same, that nothing is used after its end. The
// functions fake_nccl_* are for tests: they count, and make calls fail.
//
// -DFAKE_VERSION=21801 is another version; -DFAKE_NO_WINDOWS leaves out what NCCL before 2.27 does not have.

#include <fake_reduce.h>
#include <fake_world.h>

#include <functional>
#include <list>
#include <utility>

namespace fake {

struct Message {
  Comm* comm;
  bool is_send;
  char* data;
  size_t bytes;
  int peer;
  size_t done = 0;
  bool has_started = false;

  bool is_done() const { return has_started && done == bytes; }
  auto key() const { return std::tuple(comm, is_send, peer); }

  /// Do what can be done without waiting.
  Result progress() {
    auto& box = is_send ? comm->shared->mail[comm->rank][peer] : comm->shared->mail[peer][comm->rank];
    const uint64_t written = box.written, read = box.read;
    const size_t n = std::min(kChunk, bytes - done);
    if (comm->is_aborted) return error(kInternalError, "aborted");
    if (written == read + (is_send ? 1 : 0)) {  // full, or empty
      const bool is_gone = comm->shared->ranks[peer].has_left && written == box.written && read == box.read;
      return is_gone ? error(kRemoteError, "rank " + std::to_string(peer) + " has left") : kSuccess;
    }
    if (is_send) {
      box.message_bytes = bytes;
      std::memcpy(box.bytes, data + done, n);
      ++box.written;
    } else {
      if (box.message_bytes != bytes) {
        return misuse("Recv of " + std::to_string(bytes) + " bytes, Send of " + std::to_string(box.message_bytes));
      }
      std::memcpy(data + done, box.bytes, n);
      ++box.read;
    }
    has_started = true;
    done += n;
    return kSuccess;
  }
};

Result exchange(std::vector<Message> messages) {
  for (int attempt = 0; !messages.empty(); ++attempt) {
    std::set<std::tuple<Comm*, bool, int>> busy;  // messages to one peer stay in their order
    size_t done_before = 0, done_after = 0;
    for (auto& message : messages) {
      if (!busy.insert(message.key()).second) continue;
      done_before += message.done;
      if (const auto result = message.progress()) return result;
      done_after += message.done;
    }
    std::erase_if(messages, [](const Message& message) { return message.is_done(); });
    if (done_before != done_after) attempt = 0;
    pause(attempt);
  }
  return kSuccess;
}

/// The calls of a thread between ncclGroupStart and ncclGroupEnd.
struct Group {
  std::set<Comm*> comms;
  std::vector<std::function<Result()>> collectives;
  std::vector<Message> messages;
};
thread_local Group group;

Result submit(Comm* comm, std::function<Result()> collective) {
  if (group_depth == 0) return collective();
  group.comms.insert(comm);
  group.collectives.push_back(std::move(collective));
  return kSuccess;
}

Result submit(Message message) {
  if (group_depth == 0) return exchange({message});
  group.comms.insert(message.comm);
  group.messages.push_back(message);
  return kSuccess;
}

Result check_arguments(Comm* comm, const void* a, const void* b, int type, int op, int root) {
  const int types = FAKE_VERSION >= kFloat8Version ? kNumTypes : kFloat8e4m3;
  if (!a || !b || type < 0 || type >= types || op < 0 || op >= kNumOps || root < 0 || root >= comm->size) {
    return error(kInvalidArgument, "a wrong argument");
  }
  const std::lock_guard guard(spy_mutex);
  last_address = a;
  return kSuccess;
}

}  // namespace fake

// -------------------------------------------------------------------------------------------------- NCCL's own functions

using namespace fake;

#define EXPORT extern "C" __attribute__((visibility("default")))
/// The head of every function on a communicator: count it, and let it fail if a test wants that.
#define ENTER(function, comm)          \
  const Inside inside(function, comm); \
  if (inside.result) return inside.result
#define CHECK(expression) \
  if (const auto checked = (expression)) return checked

EXPORT Result ncclGetVersion(int* version) {
  *version = FAKE_VERSION;
  return kSuccess;
}

EXPORT const char* ncclGetErrorString(Result result) {
  constexpr const char* kTexts[] = {"no error",
                                    "unhandled cuda error",
                                    "unhandled system error",
                                    "internal error",
                                    "invalid argument",
                                    "invalid usage",
                                    "remote process exited or there was a network error",
                                    "NCCL operation in progress"};
  return result >= 0 && result <= kBusy ? kTexts[result] : "unknown result code";
}

EXPORT const char* ncclGetLastError(Comm*) { return last_error; }

EXPORT Result ncclGetUniqueId(UniqueId* id) {
  CHECK(count_call("GetUniqueId", nullptr));
  *id = {getpid(), memfd_create("fake_nccl", MFD_CLOEXEC), {}};
  return id->file < 0 ? kSystemError : kSuccess;
}

EXPORT Result ncclCommInitRankConfig(Comm** comm, int size, UniqueId id, int rank, Config* config) {
  *comm = nullptr;
  CHECK(count_call("CommInitRankConfig", nullptr));
  if (size < 1 || size > kMaxRanks || rank < 0 || rank >= size) return error(kInvalidArgument, "a wrong rank");
  if (config->magic != 0xcafebeef || config->blocking == 0) return error(kInvalidArgument, "this double only blocks");
  return join(id, size, rank, comm);
}

EXPORT Result ncclCommSplit(Comm* comm, int color, int key, Comm** made, Config* config) {
  *made = nullptr;
  ENTER("CommSplit", comm);
  if (color < -1 || config->blocking == 0) return error(kInvalidArgument, "a wrong color");
  comm->me().color = color;
  comm->me().key = key;
  CHECK(agree(*comm, "CommSplit"));
  std::vector<std::pair<int, int>> members;
  for (int r = 0; r < comm->size; ++r) {
    const auto& other = comm->shared->ranks[r];
    if (other.color == color) members.push_back({other.key, r});
  }
  std::sort(members.begin(), members.end());
  const auto me = std::find(members.begin(), members.end(), std::pair(key, comm->rank)) - members.begin();
  if (me == 0 && color >= 0) CHECK(ncclGetUniqueId(&comm->me().split_id));
  CHECK(meet(*comm));
  const auto id = comm->shared->ranks[members[0].second].split_id;
  if (color >= 0) CHECK(join(id, static_cast<int>(members.size()), static_cast<int>(me), made));
  return meet(*comm);
}

EXPORT Result ncclCommCount(Comm* comm, int* size) {
  ENTER("CommCount", comm);
  *size = comm->size;
  return kSuccess;
}

EXPORT Result ncclCommUserRank(Comm* comm, int* rank) {
  ENTER("CommUserRank", comm);
  *rank = comm->rank;
  return kSuccess;
}

EXPORT Result ncclCommGetAsyncError(Comm* comm, Result* result) {
  ENTER("CommGetAsyncError", comm);
  *result = static_cast<Result>(comm->async_error.load());
  return kSuccess;
}

EXPORT Result ncclCommFinalize(Comm* comm) {
  ENTER("CommFinalize", comm);
  if (comm->is_finalized.exchange(true)) return misuse("CommFinalize twice");
  return agree(*comm, "CommFinalize");
}

EXPORT Result ncclCommDestroy(Comm* comm) {
  {
    ENTER("CommDestroy", comm);
    if (!comm->is_finalized) return misuse("CommDestroy before CommFinalize");
    if (!comm->windows.empty()) return misuse("CommDestroy with a window");
    if (comm->threads_inside > 1) return misuse("CommDestroy while another thread is inside");
  }
  leave(comm);
  return kSuccess;
}

EXPORT Result ncclCommAbort(Comm* comm) {
  {
    ENTER("CommAbort", comm);
  }
  leave(comm);
  return kSuccess;
}

EXPORT Result ncclGroupStart() {
  CHECK(count_call("GroupStart", nullptr));
  ++group_depth;
  return kSuccess;
}

EXPORT Result ncclGroupEnd() {
  if (group_depth == 0) return misuse("GroupEnd without GroupStart");
  if (--group_depth > 0) return kSuccess;
  const auto ended = group;
  group = {};
  CHECK(std::exchange(group_error, kSuccess));  // one wrong call, and the group does nothing
  std::list<Inside> inside;
  for (auto* comm : ended.comms) CHECK(inside.emplace_back("GroupEnd", comm).result);
  for (const auto& collective : ended.collectives) CHECK(collective());
  return exchange(ended.messages);
}

EXPORT Result ncclAllReduce(const void* send, void* recv, size_t count, int type, int op, Comm* comm, void*) {
  ENTER("AllReduce", comm);
  CHECK(check_arguments(comm, send, recv, type, op, 0));
  return submit(comm, [=]() -> Result {
    CHECK(agree(*comm, "AllReduce", count, type, op));
    return show(*comm, send, count, type,
                [=](size_t first, size_t n) { reduce_shown(*comm, recv, first, n, type, op); });
  });
}

EXPORT Result ncclAllGather(const void* send, void* recv, size_t count, int type, Comm* comm, void*) {
  ENTER("AllGather", comm);
  CHECK(check_arguments(comm, send, recv, type, 0, 0));
  return submit(comm, [=]() -> Result {
    CHECK(agree(*comm, "AllGather", count, type));
    const size_t bytes = size_of(type);
    return show(*comm, send, count, type, [=](size_t first, size_t n) {
      for (int r = 0; r < comm->size; ++r) {
        auto* const part = static_cast<char*>(recv) + r * count * bytes;
        std::memcpy(part + first * bytes, comm->shared->ranks[r].bytes, n * bytes);
      }
    });
  });
}

EXPORT Result ncclReduceScatter(const void* send, void* recv, size_t count, int type, int op, Comm* comm, void*) {
  ENTER("ReduceScatter", comm);
  CHECK(check_arguments(comm, send, recv, type, op, 0));
  return submit(comm, [=]() -> Result {
    CHECK(agree(*comm, "ReduceScatter", count, type, op));
    for (int r = 0; r < comm->size; ++r) {
      const auto* const part = static_cast<const char*>(send) + r * count * size_of(type);
      CHECK(show(*comm, part, count, type, [=](size_t first, size_t n) {
        if (r == comm->rank) reduce_shown(*comm, recv, first, n, type, op);
      }));
    }
    return kSuccess;
  });
}

EXPORT Result ncclBroadcast(const void* send, void* recv, size_t count, int type, int root, Comm* comm, void*) {
  ENTER("Broadcast", comm);
  CHECK(check_arguments(comm, send, recv, type, 0, root));
  return submit(comm, [=]() -> Result {
    CHECK(agree(*comm, "Broadcast", count, type, 0, root));
    const size_t bytes = size_of(type);
    return show(*comm, send, count, type, [=](size_t first, size_t n) {
      std::memcpy(static_cast<char*>(recv) + first * bytes, comm->shared->ranks[root].bytes, n * bytes);
    });
  });
}

EXPORT Result ncclSend(const void* data, size_t count, int type, int peer, Comm* comm, void*) {
  ENTER("Send", comm);
  CHECK(check_arguments(comm, data, data, type, 0, peer));
  auto* const from = static_cast<char*>(const_cast<void*>(data));
  return submit(Message{comm, /*is_send=*/true, from, count * size_of(type), peer});
}

EXPORT Result ncclRecv(void* data, size_t count, int type, int peer, Comm* comm, void*) {
  ENTER("Recv", comm);
  CHECK(check_arguments(comm, data, data, type, 0, peer));
  return submit(Message{comm, /*is_send=*/false, static_cast<char*>(data), count * size_of(type), peer});
}

#ifndef FAKE_NO_WINDOWS

EXPORT Result ncclMemAlloc(void** memory, size_t bytes) {
  CHECK(count_call("MemAlloc", nullptr));
  auto* const data = new char[bytes];
  *memory = data;
  const std::lock_guard guard(spy_mutex);
  allocations[data] = bytes;
  return kSuccess;
}

EXPORT Result ncclMemFree(void* memory) {
  CHECK(count_call("MemFree", nullptr));
  auto* const data = static_cast<char*>(memory);
  bool is_known, is_registered = false;
  {
    const std::lock_guard guard(spy_mutex);
    is_known = allocations.erase(data) == 1;
    for (const auto* comm : live_comms)
      for (const auto* window : comm->windows) is_registered |= window->data == data;
  }
  if (!is_known) return misuse("MemFree of memory that is none of MemAlloc's");
  delete[] data;
  return is_registered ? misuse("MemFree of memory that is still registered") : kSuccess;
}

EXPORT Result ncclCommWindowRegister(Comm* comm, void* memory, size_t bytes, Window** window, int) {
  ENTER("CommWindowRegister", comm);
  auto* const data = static_cast<char*>(memory);
  size_t allocated = 0;
  {
    const std::lock_guard guard(spy_mutex);
    const auto found = allocations.find(data);
    if (found != allocations.end()) allocated = found->second;
  }
  if (bytes > allocated) return misuse("CommWindowRegister of memory that is none of MemAlloc's");
  CHECK(agree(*comm, "CommWindowRegister", bytes));
  const std::lock_guard guard(spy_mutex);
  comm->windows.insert(*window = new Window{data});
  return kSuccess;
}

EXPORT Result ncclCommWindowDeregister(Comm* comm, Window* window) {
  ENTER("CommWindowDeregister", comm);
  bool is_known;
  {
    const std::lock_guard guard(spy_mutex);
    is_known = comm->windows.erase(window) == 1;
  }
  if (!is_known) return misuse("CommWindowDeregister of a window that is none");
  delete window;
  return kSuccess;
}

#endif

// ----------------------------------------------------------------------------------------------- for tests, by ctypes

/// How often a function was called; or how many "communicators", "allocations" there are, or "misuses" there were.
EXPORT int64_t fake_nccl_count(const char* name) {
  const std::lock_guard guard(spy_mutex);
  if (std::string(name) == "communicators") return static_cast<int64_t>(live_comms.size());
  if (std::string(name) == "allocations") return static_cast<int64_t>(allocations.size());
  return counts[name];
}

/// The address that the last operation sent from.
EXPORT const void* fake_nccl_last_address() {
  const std::lock_guard guard(spy_mutex);
  return last_address;
}

/// Let the `nth` call of `function` from now on, in this process, fail: see `Action`.
EXPORT void fake_nccl_inject(const char* function, int nth, int action, int result) {
  const std::lock_guard guard(spy_mutex);
  faults[function] = {nth, action, result};
}
