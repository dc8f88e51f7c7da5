// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:df3873e36ab1

#pragma once

#include <minisgl/nccl_api.h>
#include <minisgl/tensor.h>
#include <minisgl/watchdog.h>
#include <minisgl/utils.cuh>

#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace minisgl {

inline std::string nccl_error_text(const nccl::Api& api, nccl::Result result) {
  const std::string text = api.GetErrorString(result), details = api.GetLastError(nullptr);
  return "NCCL: " + text + (details.empty() ? "" : ": " + details);
}

inline void check_nccl(const nccl::Api& api, nccl::Result result) {
  if (result != nccl::kSuccess) [[unlikely]]
    fail("RuntimeError", nccl_error_text(api, result));
}

/// Call `function` in a thread of its own and wait for it. If it has not returned after `timeout` the answer is false, and
/// the thread, once it does return, calls `undo`. Both must keep alive what they use.
inline bool returns_within(std::chrono::duration<double> timeout, std::function<void()> function,
                           std::function<void()> undo) {
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_done = false, is_late = false;
  };
  const auto state = std::make_shared<State>();
  std::thread([state, function = std::move(function), undo = std::move(undo)] {
    function();
    const std::lock_guard guard(state->mutex);
    if (state->is_late) return undo();
    state->is_done = true;
    state->changed.notify_all();
  }).detach();
  std::unique_lock lock(state->mutex);
  state->is_late = !state->changed.wait_for(lock, timeout, [&] { return state->is_done; });
  return !state->is_late;
}

/// Memory for messages that all ranks have registered with each other, if the library can do that. Tensors over it may
/// outlive the communicator.
struct NcclBuffer {
  std::shared_ptr<void> data;
  int64_t bytes = 0;
  nccl::Window window = nullptr;
  cudaEvent_t last_use = nullptr;  ///< behind the last operation that went through it
  bool is_used = false;

  bool holds(const void* address) const {
    const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(data.get());
    return offset < static_cast<uintptr_t>(bytes);
  }
};

/// One rank of a group of processes that call the same operations in the same order.
///
/// Tensors are checked before NCCL is called. An operation is put on the current stream of the device; a watchdog sees
/// that it ends. After a failure the communicator is dead, and every call throws the reason.
class NcclCommunicator {
 public:
  struct Options {
    int device;
    double timeout_seconds;
    int64_t buffer_bytes;
  };

  /// Every rank calls this with the same `id`; it returns when all of them have.
  static std::unique_ptr<NcclCommunicator> create(const nccl::Api& api, const nccl::UniqueId& id, int rank, int size,
                                                  Options options) {
    struct Outcome {
      nccl::Comm comm = nullptr;
      std::string error;
    };
    const auto outcome = std::make_shared<Outcome>();
    const auto connect = [=] {
      try {
        check_cuda(cudaSetDevice(options.device), "cudaSetDevice");
        nccl::Config config;
        check_nccl(api, api.CommInitRankConfig(&outcome->comm, size, id, rank, &config));
      } catch (const Error& error) {
        outcome->error = error.what();
      }
    };
    const auto undo = [=] {
      if (outcome->error.empty()) static_cast<void>(api.CommAbort(outcome->comm));
    };
    const auto name = rank_text(rank, size) + ": init: ";
    const bool is_done = returns_within(std::chrono::duration<double>(options.timeout_seconds), connect, undo);
    require(is_done, "RuntimeError", name, Watchdog::late(options.timeout_seconds));
    require(outcome->error.empty(), "RuntimeError", name, outcome->error);
    auto made = std::unique_ptr<NcclCommunicator>(new NcclCommunicator(api, outcome->comm, rank, size, options));
    if (options.buffer_bytes > 0) made->allocate_buffer();
    return made;
  }

  /// Every rank calls this; those with the same `color` become a group, ordered by `key`. Null for a negative color.
  std::unique_ptr<NcclCommunicator> split(int64_t color, int64_t key) {
    const Turn turn(mutex_);
    require_open();
    require(color <= INT_MAX, "ValueError", "color: expected at most ", INT_MAX, ", got ", color);
    require(INT_MIN <= key && key <= INT_MAX, "ValueError", "key: expected a number of 32 bits, got ", key);
    const DeviceGuard device_guard(device());
    nccl::Comm comm = nullptr;
    int rank = 0, size = 0;
    watchdog_->call("split", [&] {
      nccl::Config config;
      check_nccl(api_, api_.CommSplit(comm_, color < 0 ? kNoColor : static_cast<int>(color), static_cast<int>(key),
                                      &comm, &config));
      if (comm == nullptr) return;
      auto result = api_.CommUserRank(comm, &rank);
      if (result == nccl::kSuccess) result = api_.CommCount(comm, &size);
      if (result != nccl::kSuccess) static_cast<void>(api_.CommAbort(comm));
      check_nccl(api_, result);
    });
    if (comm == nullptr) return nullptr;
    const Options options{options_.device, options_.timeout_seconds, /*buffer_bytes=*/0};
    return std::unique_ptr<NcclCommunicator>(new NcclCommunicator(api_, comm, rank, size, options));
  }

  ~NcclCommunicator() { abandon(); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  DLDevice device() const { return {kDeviceType, options_.device}; }

  NcclBuffer buffer() {
    const std::lock_guard guard(mutex_);
    require_open();
    require(buffer_.bytes > 0, "RuntimeError", "the communicator has no buffer: it was made without max_size_bytes");
    return buffer_;
  }

  /// Through the buffer if the tensor fits: its addresses are known to all ranks, which saves NCCL copies of its own.
  void all_reduce(TensorView tensor, nccl::RedOp op) {
    const auto message = message_of("tensor", tensor);
    const auto type = reducible("tensor", tensor);
    const bool is_alone = !in_group();  // a group starts after the last call in it: too late to copy into the buffer
    run("all_reduce", message.bytes, [=, this, count = tensor.num_elements()](cudaStream_t stream) {
      const bool through_buffer =
          is_alone && buffer_.window && message.bytes <= buffer_.bytes && !buffer_.holds(message.data);
      if (!through_buffer) return api_.AllReduce(message.data, message.data, count, type, op, comm_, stream);
      auto* const buffer = buffer_.data.get();
      wait_for_buffer(stream);
      copy(buffer, message.data, message.bytes, stream);
      check_nccl(api_, api_.AllReduce(buffer, buffer, count, type, op, comm_, stream));
      copy(message.data, buffer, message.bytes, stream);
      leave_buffer(stream);
      return nccl::kSuccess;
    });
  }

  void all_gather(TensorView output, TensorView input) {
    const auto from = message_of("input", input), to = message_of("output", output);
    require_same_dtype("output", output, input);
    require_elements("output", output, input.num_elements() * size_);
    run("all_gather", from.bytes, [=, this](cudaStream_t stream) {
      return api_.AllGather(from.data, to.data, from.bytes, nccl::kUint8, comm_, stream);
    });
  }

  void reduce_scatter(TensorView output, TensorView input, nccl::RedOp op) {
    const auto from = message_of("input", input), to = message_of("output", output);
    require_same_dtype("output", output, input);
    require_elements("input", input, output.num_elements() * size_);
    const auto type = reducible("input", input);
    run("reduce_scatter", from.bytes, [=, this, count = output.num_elements()](cudaStream_t stream) {
      return api_.ReduceScatter(from.data, to.data, count, type, op, comm_, stream);
    });
  }

  void broadcast(TensorView tensor, int64_t root) {
    const auto message = message_of("tensor", tensor);
    require_rank("root", root);
    run("broadcast", message.bytes, [=, this, root = static_cast<int>(root)](cudaStream_t stream) {
      return api_.Broadcast(message.data, message.data, message.bytes, nccl::kUint8, root, comm_, stream);
    });
  }

  void send(TensorView tensor, int64_t peer) {
    const auto message = message_of("tensor", tensor);
    require_peer(peer);
    run("send", message.bytes, [=, this, peer = static_cast<int>(peer)](cudaStream_t stream) {
      return api_.Send(message.data, message.bytes, nccl::kUint8, peer, comm_, stream);
    });
  }

  void recv(TensorView tensor, int64_t peer) {
    const auto message = message_of("tensor", tensor);
    require_peer(peer);
    run("recv", message.bytes, [=, this, peer = static_cast<int>(peer)](cudaStream_t stream) {
      return api_.Recv(message.data, message.bytes, nccl::kUint8, peer, comm_, stream);
    });
  }

  /// What this thread calls until `end_group` is kept, and then becomes one operation: so sends and receives can wait
  /// for each other. The caller keeps the tensors until then.
  void start_group() {
    const std::lock_guard guard(mutex_);
    require_open();
    require(group_thread_ == std::thread::id(), "RuntimeError", "the group before has not ended");
    group_thread_ = std::this_thread::get_id();
  }

  void end_group() {
    const Turn turn(mutex_);
    const auto calls = take_group();
    require_open();
    if (calls.empty()) return watchdog_->check();
    const DeviceGuard device_guard(device());
    watchdog_->run("group", calls.back().stream, [&] {
      check_nccl(api_, api_.GroupStart());
      auto result = nccl::kSuccess;
      for (const auto& call : calls) {
        if (result == nccl::kSuccess) result = call.enqueue(call.stream);
      }
      const auto end = api_.GroupEnd();  // in any case: the thread must not stay in the group
      check_nccl(api_, result == nccl::kSuccess ? end : result);
    });
  }

  /// End the group and call nothing.
  void drop_group() {
    const std::lock_guard guard(mutex_);
    take_group();
  }

  /// Throw if an operation has failed.
  void require_healthy() {
    require_open();
    watchdog_->check();
  }

  /// Give everything back, together with the other ranks. A second call does nothing. Throws if an operation fails, or
  /// has failed without a call that told of it.
  void close() {
    const Turn turn(mutex_);
    if (is_closed_.exchange(true)) return;
    try {
      finalize();
    } catch (...) {
      release_buffer();
      throw;
    }
    release_buffer();
  }

  /// Leave without the other ranks, which may be gone.
  void abandon() {
    watchdog_->fail("abandoned");  // whoever is blocked inside NCCL holds the mutex
    const std::unique_lock lock(mutex_, kTimeToLeave);
    is_closed_ = true;
    if (lock) release_buffer();  // else somebody is stuck inside NCCL: what it uses stays until the process ends
  }

  /// The same at the end of the interpreter. From then on no other thread comes back from a call: Python, which would
  /// have to run it, is gone.
  void abandon_at_exit() {
    exit_thread_ = std::this_thread::get_id();
    abandon();
  }

 private:
  static constexpr int kNoColor = -1;
  static constexpr std::chrono::seconds kTimeToAbort{10}, kTimeToLeave{1};

  /// Held by a thread that puts an operation on the stream.
  class Turn {
   public:
    explicit Turn(std::timed_mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
    ~Turn() {
      mutex_.unlock();
      const auto exit_thread = exit_thread_.load();
      while (exit_thread != std::thread::id() && exit_thread != std::this_thread::get_id()) {
        std::this_thread::sleep_for(std::chrono::seconds(1));
      }
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::timed_mutex& mutex_;
  };

  struct Call {
    std::function<nccl::Result(cudaStream_t)> enqueue;
    cudaStream_t stream;
  };

  NcclCommunicator(const nccl::Api& api, nccl::Comm comm, int rank, int size, Options options)
      : api_(api), comm_(comm), rank_(rank), size_(size), options_(options) {
    const auto find_error = [this]() -> std::string {
      auto error = nccl::kSuccess;
      const auto result = api_.CommGetAsyncError(comm_, &error);
      if (result != nccl::kSuccess) error = result;
      return error == nccl::kSuccess || error == nccl::kInProgress ? "" : nccl_error_text(api_, error);
    };
    const std::chrono::duration<double> timeout(options.timeout_seconds);
    // NCCL itself may wait for a kernel that notices no abort.
    const auto abort = [api, comm, options] {
      const auto abort = [=] {
        static_cast<void>(cudaSetDevice(options.device));
        static_cast<void>(api.CommAbort(comm));
      };
      returns_within(kTimeToAbort, abort, [] {});
    };
    watchdog_.emplace(rank_text(rank_, size_), options.device, timeout, find_error, abort);
  }

  void allocate_buffer() {
    const DeviceGuard guard(device());
    watchdog_->call("init", [&] {
      void* data = nullptr;
      // Without a window it is ordinary memory, and messages go directly. NCCL 2.28 refuses the window of a single rank.
      if (!api_.has_windows() || size_ == 1) {
        check_cuda(cudaMalloc(&data, options_.buffer_bytes), "cudaMalloc");
        buffer_.data = {data, [](void* memory) { static_cast<void>(cudaFree(memory)); }};
      } else {
        check_nccl(api_, api_.MemAlloc(&data, options_.buffer_bytes));
        buffer_.data = {data, [free = api_.MemFree](void* memory) { static_cast<void>(free(memory)); }};
        constexpr int kFlags = nccl::kWinCollSymmetric;
        check_nccl(api_, api_.CommWindowRegister(comm_, data, options_.buffer_bytes, &buffer_.window, kFlags));
      }
    });
    buffer_.last_use = new_event();
    buffer_.bytes = options_.buffer_bytes;
  }

  void finalize() {
    if (watchdog_->has_thrown()) return watchdog_->fail("closed");  // whose abort may still run
    watchdog_->wait_until_idle();
    const DeviceGuard device_guard(device());
    watchdog_->call("close", [&] {
      if (buffer_.window) check_nccl(api_, api_.CommWindowDeregister(comm_, buffer_.window));
      check_nccl(api_, api_.CommFinalize(comm_));
    });
    if (watchdog_->stop()) check_nccl(api_, api_.CommDestroy(comm_));
  }

  /// A kernel that waits for other ranks inside the window notices no abort, and freeing would wait for the kernel: then
  /// the memory stays until the process ends.
  void release_buffer() {
    const auto buffer = std::exchange(buffer_, {});
    if (buffer.last_use) static_cast<void>(cudaEventDestroy(buffer.last_use));
    if (buffer.window && !watchdog_->is_idle()) static_cast<void>(new std::shared_ptr<void>(buffer.data));
  }

  /// Two streams must not be in the buffer at once. What a graph does with it is known only when the graph runs.
  void wait_for_buffer(cudaStream_t stream) {
    if (!buffer_.is_used || is_capturing(stream)) return;
    check_cuda(cudaStreamWaitEvent(stream, buffer_.last_use, 0), "cudaStreamWaitEvent");
  }

  void leave_buffer(cudaStream_t stream) {
    if (is_capturing(stream)) return;
    check_cuda(cudaEventRecord(buffer_.last_use, stream), "cudaEventRecord");
    buffer_.is_used = true;
  }

  /// `enqueue` returns NCCL's answer. It is kept if this thread has a group open, so it must own what it needs.
  template <class Enqueue>
  void run(const char* name, int64_t bytes, Enqueue enqueue) {
    const Turn turn(mutex_);
    require_open();
    if (bytes == 0) return watchdog_->check();
    const auto stream = current_stream(device());
    if (in_group()) return group_.push_back({enqueue, stream});
    const DeviceGuard device_guard(device());
    watchdog_->run(name, stream, [&] { check_nccl(api_, enqueue(stream)); });
  }

  bool in_group() const { return group_thread_ == std::this_thread::get_id(); }

  std::vector<Call> take_group() {
    require(in_group(), "RuntimeError", "this thread has started no group");
    group_thread_ = std::thread::id();
    return std::exchange(group_, {});
  }

  static void copy(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  }

  struct Message {
    void* data;
    int64_t bytes;
  };

  Message message_of(const char* argument, const TensorView& tensor) const {
    const auto device = tensor.device();
    require(device.device_type == kDeviceType && (device.device_type == kDLCPU || device.device_id == options_.device),
            "ValueError", argument, ": expected a tensor on ", to_string(this->device()), ", got one on ",
            to_string(device));
    int64_t contiguous = 1;
    for (int d = tensor.dim() - 1; d >= 0; --d) {
      require(tensor.size(d) <= 1 || tensor.stride(d) == contiguous || tensor.num_elements() == 0, "ValueError",
              argument, ": expected a contiguous tensor, got a stride of ", tensor.stride(d), " in dimension ",
              int64_t{d});
      contiguous *= tensor.size(d);
    }
    const auto bytes = tensor.num_elements() * dtype_bytes(tensor.dtype());
    require(tensor.has_memory() || bytes == 0, "ValueError", argument, ": expected a tensor with memory");
    return {tensor.data(), bytes};
  }

  /// NCCL's name of a dtype that it can calculate with.
  nccl::DataType reducible(const char* argument, const TensorView& tensor) const {
    const auto type = find_type(tensor.dtype());
    require(type.has_value(), "TypeError", argument, ": expected a dtype that NCCL ", nccl::version_text(api_.version),
            " can reduce, got ", to_string(tensor.dtype()));
    return *type;
  }

  std::optional<nccl::DataType> find_type(DLDataType dtype) const {
    const bool is_byte = dtype.bits == 8;
    if (dtype.lanes != 1) return {};
    switch (dtype.code) {
      case kDLInt:
        if (is_byte) return nccl::kInt8;
        if (dtype.bits == 32) return nccl::kInt32;
        if (dtype.bits == 64) return nccl::kInt64;
        return {};
      case kDLUInt:
        if (is_byte) return nccl::kUint8;
        if (dtype.bits == 32) return nccl::kUint32;
        if (dtype.bits == 64) return nccl::kUint64;
        return {};
      case kDLFloat:
        if (dtype.bits == 16) return nccl::kFloat16;
        if (dtype.bits == 32) return nccl::kFloat32;
        if (dtype.bits == 64) return nccl::kFloat64;
        return {};
      case kDLBfloat:
        if (dtype.bits == 16) return nccl::kBfloat16;
        return {};
      case kDLFloat8_e4m3fn:
        if (api_.version >= nccl::kFloat8Version) return nccl::kFloat8e4m3;
        return {};
      case kDLFloat8_e5m2:
        if (api_.version >= nccl::kFloat8Version) return nccl::kFloat8e5m2;
        return {};
      default: return {};
    }
  }

  static void require_same_dtype(const char* argument, const TensorView& tensor, const TensorView& other) {
    const auto a = tensor.dtype(), b = other.dtype();
    if (a.code != b.code || a.bits != b.bits || a.lanes != b.lanes) {
      fail("TypeError", argument, ": expected ", to_string(b), ", got ", to_string(a));
    }
  }

  void require_elements(const char* argument, const TensorView& tensor, int64_t expected) const {
    require(tensor.num_elements() == expected, "ValueError", argument, ": expected ", expected, " elements for ",
            int64_t{size_}, " ranks, got ", tensor.num_elements());
  }

  void require_rank(const char* argument, int64_t rank) const {
    require(0 <= rank && rank < size_, "ValueError", argument, ": expected a rank from 0 to ", int64_t{size_ - 1},
            ", got ", rank);
  }

  void require_peer(int64_t peer) const {
    require_rank("peer", peer);
    require(peer != rank_ || in_group(), "ValueError", "peer: expected another rank, got this one, ", peer,
            " (only a group can send to itself)");
  }

  void require_open() const { require(!is_closed_, "RuntimeError", "the communicator is closed"); }

  static std::string rank_text(int rank, int size) {
    return "rank " + std::to_string(rank) + " of " + std::to_string(size);
  }

  static inline std::atomic<std::thread::id> exit_thread_{};

  const nccl::Api api_;
  const nccl::Comm comm_;  // freed by the watchdog's abort, or by close()
  const int rank_;
  const int size_;
  const Options options_;
  NcclBuffer buffer_;
  std::timed_mutex mutex_;
  std::atomic<bool> is_closed_ = false;
  std::atomic<std::thread::id> group_thread_{};
  std::vector<Call> group_;
  std::optional<Watchdog> watchdog_;
};

}  // namespace minisgl
