// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:30ce4c62e64e

#pragma once

#include <minisgl/nccl_api.h>
#include <minisgl/tensor.h>
#include <minisgl/watchdog.h>
#include <minisgl/utils.cuh>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

namespace minisgl {

/// Call `function` in a thread of its own and wait for it. False if it has not returned after `timeout`: then it goes on
/// alone, and must keep alive what it uses.
inline bool returns_within(std::chrono::duration<double> timeout, std::function<void()> function) {
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  };
  const auto state = std::make_shared<State>();
  std::thread([state, function = std::move(function)] {
    function();
    const std::lock_guard guard(state->mutex);
    state->done = true;
    state->changed.notify_all();
  }).detach();
  std::unique_lock lock(state->mutex);
  return state->changed.wait_for(lock, timeout, [&] { return state->done; });
}

/// Memory for messages that all ranks have registered with each other, if the library can do that.
struct NcclBuffer {
  void* data = nullptr;
  int64_t bytes = 0;
  nccl::Window window = nullptr;
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
    return make(api, rank, size, options, "init", [=](nccl::Comm* comm) {
      nccl::Config config;
      return api.CommInitRankConfig(comm, size, id, rank, &config);
    });
  }

  /// Every rank calls this; those with the same `color` become a group, ordered by `key`. Null for a negative color.
  std::unique_ptr<NcclCommunicator> split(int color, int key) {
    const std::lock_guard guard(mutex_);
    require_open();
    const auto new_comm = [this, color, key](nccl::Comm* comm) {
      nccl::Config config;
      return api_.CommSplit(comm_, color < 0 ? -1 : color, key, comm, &config);
    };
    return make(api_, rank_, size_, {options_.device, options_.timeout_seconds, 0}, "split", new_comm);
  }

  ~NcclCommunicator() { abandon(); }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int device() const { return options_.device; }
  const NcclBuffer& buffer() const { return buffer_; }
  bool is_open() const { return comm_ != nullptr && !watchdog_->has_failed(); }

  /// Through the buffer if the tensor fits: its addresses are known to all ranks, which saves NCCL copies of its own.
  void all_reduce(TensorView tensor, nccl::RedOp op) {
    const auto message = message_of("tensor", tensor);
    const auto type = reducible(tensor);
    if (message.bytes == 0) return;
    run("all_reduce", [&](cudaStream_t stream) {
      const auto reduce = [&](void* data) {
        check(api_.AllReduce(data, data, tensor.num_elements(), type, op, comm_, stream));
      };
      if (in_group_ || message.bytes > buffer_.bytes || message.data == buffer_.data) return reduce(message.data);
      copy(buffer_.data, message.data, message.bytes, stream);
      reduce(buffer_.data);
      copy(message.data, buffer_.data, message.bytes, stream);
    });
  }

  void all_gather(TensorView output, TensorView input) {
    const auto from = message_of("input", input), to = message_of("output", output);
    require_same_dtype("output", output, input);
    require_elements("output", output, input.num_elements() * size_);
    if (from.bytes == 0) return;
    run("all_gather", [&](cudaStream_t stream) {
      check(api_.AllGather(from.data, to.data, from.bytes, nccl::kUint8, comm_, stream));
    });
  }

  void reduce_scatter(TensorView output, TensorView input, nccl::RedOp op) {
    const auto from = message_of("input", input), to = message_of("output", output);
    require_same_dtype("output", output, input);
    require_elements("input", input, output.num_elements() * size_);
    const auto type = reducible(input);
    if (from.bytes == 0) return;
    run("reduce_scatter", [&](cudaStream_t stream) {
      check(api_.ReduceScatter(from.data, to.data, output.num_elements(), type, op, comm_, stream));
    });
  }

  void broadcast(TensorView tensor, int64_t root) {
    const auto message = message_of("tensor", tensor);
    require_rank("root", root);
    if (message.bytes == 0) return;
    run("broadcast", [&](cudaStream_t stream) {
      const auto peer = static_cast<int>(root);
      check(api_.Broadcast(message.data, message.data, message.bytes, nccl::kUint8, peer, comm_, stream));
    });
  }

  void send(TensorView tensor, int64_t peer) {
    const auto message = message_of("tensor", tensor);
    require_peer(peer);
    if (message.bytes == 0) return;
    run("send", [&](cudaStream_t stream) {
      check(api_.Send(message.data, message.bytes, nccl::kUint8, static_cast<int>(peer), comm_, stream));
    });
  }

  void recv(TensorView tensor, int64_t peer) {
    const auto message = message_of("tensor", tensor);
    require_peer(peer);
    if (message.bytes == 0) return;
    run("recv", [&](cudaStream_t stream) {
      check(api_.Recv(message.data, message.bytes, nccl::kUint8, static_cast<int>(peer), comm_, stream));
    });
  }

  /// What is called until `end_group` becomes one operation, so that sends and receives can wait for each other.
  void start_group() {
    const std::lock_guard guard(mutex_);
    require_open();
    require(!in_group_, "RuntimeError", "the group before has not ended");
    check(api_.GroupStart());
    in_group_ = true;
  }

  void end_group() {
    const std::lock_guard guard(mutex_);
    require(in_group_, "RuntimeError", "no group has been started");
    in_group_ = false;
    require_open();
    const auto device = DLDevice{kDeviceType, options_.device};
    const DeviceGuard device_guard(device);
    watchdog_->run("group", current_stream(device), [&] { check(api_.GroupEnd()); });
  }

  /// Throw if an operation has failed.
  void require_healthy() const {
    require_open();
    watchdog_->check();
  }

  /// Give everything back, together with the other ranks. A second call does nothing.
  void close() {
    const std::lock_guard guard(mutex_);
    if (comm_ == nullptr) return;
    const bool failed = watchdog_->has_failed();
    watchdog_.reset();
    auto* const comm = std::exchange(comm_, nullptr);
    if (failed) return release_buffer(nullptr);
    release_buffer(comm);
    const auto destroy = [api = api_, comm] {
      static_cast<void>(api.CommFinalize(comm));
      static_cast<void>(api.CommDestroy(comm));
    };
    if (!returns_within(timeout(), destroy)) static_cast<void>(api_.CommAbort(comm));
  }

  /// Leave without the other ranks, which may be gone.
  void abandon() {
    const std::lock_guard guard(mutex_);
    if (comm_ == nullptr) return;
    const bool failed = watchdog_->has_failed();
    watchdog_.reset();
    if (!failed) static_cast<void>(api_.CommAbort(comm_));
    comm_ = nullptr;
    release_buffer(nullptr);
  }

 private:
  using NewComm = std::function<nccl::Result(nccl::Comm*)>;

  NcclCommunicator(const nccl::Api& api, nccl::Comm comm, Options options) : api_(api), comm_(comm), options_(options) {
    check(api_.CommUserRank(comm, &rank_));
    check(api_.CommCount(comm, &size_));
    const auto find_error = [this]() -> std::string {
      auto error = nccl::kSuccess;
      const auto result = api_.CommGetAsyncError(comm_, &error);
      if (result != nccl::kSuccess) error = result;
      return error == nccl::kSuccess || error == nccl::kInProgress ? "" : error_text(error);
    };
    watchdog_.emplace(owner(), timeout(), find_error, [this] { static_cast<void>(api_.CommAbort(comm_)); });
  }

  static std::unique_ptr<NcclCommunicator> make(const nccl::Api& api, int rank, int size, Options options,
                                                const char* name, NewComm new_comm) {
    struct Outcome {
      nccl::Comm comm = nullptr;
      nccl::Result result = nccl::kSuccess;
    };
    const auto outcome = std::make_shared<Outcome>();
    const auto prefix = owner_text(rank, size) + ": " + name + ": ";
    const bool returned = returns_within(std::chrono::duration<double>(options.timeout_seconds), [=] {
      if (cudaSetDevice(options.device) == cudaSuccess) outcome->result = new_comm(&outcome->comm);
    });
    require(returned, "RuntimeError", prefix, "not done in time: did every rank call it?");
    require(outcome->result == nccl::kSuccess, "RuntimeError", prefix, "NCCL: ", api.GetErrorString(outcome->result));
    if (outcome->comm == nullptr) return nullptr;
    auto made = std::unique_ptr<NcclCommunicator>(new NcclCommunicator(api, outcome->comm, options));
    made->allocate_buffer();
    return made;
  }

  void allocate_buffer() {
    if (options_.buffer_bytes == 0) return;
    const DeviceGuard guard({kDeviceType, options_.device});
    if (!api_.has_windows()) {  // without a window it still takes messages, only not faster
      check_cuda(cudaMalloc(&buffer_.data, options_.buffer_bytes), "cudaMalloc");
    } else {
      check(api_.MemAlloc(&buffer_.data, options_.buffer_bytes));
      auto* const window = &buffer_.window;
      check(api_.CommWindowRegister(comm_, buffer_.data, options_.buffer_bytes, window, nccl::kWinCollSymmetric));
    }
    buffer_.bytes = options_.buffer_bytes;
  }

  /// `comm` is null if it is dead already.
  void release_buffer(nccl::Comm comm) {
    if (buffer_.window && comm) static_cast<void>(api_.CommWindowDeregister(comm, buffer_.window));
    if (buffer_.data && api_.has_windows()) static_cast<void>(api_.MemFree(buffer_.data));
    if (buffer_.data && !api_.has_windows()) static_cast<void>(cudaFree(buffer_.data));
    buffer_ = {};
  }

  template <class Enqueue>
  void run(const char* name, Enqueue enqueue) {
    const std::lock_guard guard(mutex_);
    require_open();
    const auto device = DLDevice{kDeviceType, options_.device};
    const DeviceGuard device_guard(device);
    const auto stream = current_stream(device);
    if (in_group_) return enqueue(stream);
    watchdog_->run(name, stream, [&] { enqueue(stream); });
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
            "ValueError", argument, ": expected a tensor on ", to_string(DLDevice{kDeviceType, options_.device}),
            ", got one on ", to_string(device));
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
  nccl::DataType reducible(const TensorView& tensor) const {
    const auto type = find_type(tensor.dtype());
    require(type.has_value(), "TypeError", "tensor: expected a dtype that NCCL ", nccl::version_text(api_.version),
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
    require(peer != rank_ || in_group_, "ValueError", "peer: expected another rank, got this one, ", peer,
            " (only a group can send to itself)");
  }

  void require_open() const { require(comm_ != nullptr, "RuntimeError", "the communicator is closed"); }

  void check(nccl::Result result) const {
    require(result == nccl::kSuccess, "RuntimeError", owner(), ": ", error_text(result));
  }

  std::string error_text(nccl::Result result) const {
    const auto* details = api_.GetLastError(nullptr);
    return std::string("NCCL: ") + api_.GetErrorString(result) +
           (details && *details ? std::string(": ") + details : "");
  }

  static std::string owner_text(int rank, int size) {
    return "rank " + std::to_string(rank) + " of " + std::to_string(size);
  }
  std::string owner() const { return owner_text(rank_, size_); }
  std::chrono::duration<double> timeout() const { return std::chrono::duration<double>(options_.timeout_seconds); }

  const nccl::Api api_;
  nccl::Comm comm_;
  const Options options_;
  int rank_ = 0;
  int size_ = 0;
  NcclBuffer buffer_;
  bool in_group_ = false;
  std::mutex mutex_;
  std::optional<Watchdog> watchdog_;
};

}  // namespace minisgl
