// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:48cde546ad99

#pragma once

#include <cuda_runtime.h>
#include <minisgl/utils.cuh>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace minisgl {

inline cudaEvent_t new_event() {
  cudaEvent_t event;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return event;
}

/// Whether what is put on `stream` is kept for a CUDA graph.
inline bool is_capturing(cudaStream_t stream) {
  auto capture = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
  return capture != cudaStreamCaptureStatusNone;
}

/// Watches operations that a GPU works on after the call has returned. Each has to end before its deadline, and
/// `find_error` has to find nothing meanwhile. Else `abort` is called, once, and every later call throws the reason.
/// Only one thread at a time may be in `run` or `call`.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  Watchdog(std::string owner, int device, std::chrono::duration<double> timeout,
           std::function<std::string()> find_error, std::function<void()> abort)
      : owner_(std::move(owner)),
        device_(device),
        timeout_(timeout),
        find_error_(std::move(find_error)),
        abort_(std::move(abort)),
        thread_([this] { watch(); }) {}

  ~Watchdog() {
    stop();
    for (const auto& operation : running_) static_cast<void>(cudaEventDestroy(operation.done));
    for (const auto event : idle_events_) static_cast<void>(cudaEventDestroy(event));
  }

  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Call `enqueue`, which puts work on `stream`. The call and the work together have until the deadline.
  template <class Enqueue>
  void run(const char* name, cudaStream_t stream, Enqueue enqueue) {
    // What is captured runs later, as part of a graph: then nothing tells its end.
    if (is_capturing(stream)) return call(name, enqueue);
    watched(name, /*goes_on=*/true, [&](cudaEvent_t done) {
      enqueue();
      check_cuda(cudaEventRecord(done, stream), "cudaEventRecord");
    });
  }

  /// Call `function`, which has until the deadline, and leaves no work behind.
  template <class Function>
  void call(const char* name, Function function) {
    watched(name, /*goes_on=*/false, [&](cudaEvent_t) { function(); });
  }

  /// Throw if an operation has failed.
  void check() {
    const std::lock_guard guard(mutex_);
    throw_failure();
  }

  bool is_idle() {
    const std::lock_guard guard(mutex_);
    forget_finished();
    return running_.empty();
  }

  /// Wait until nothing runs. Throws if something fails before.
  void wait_until_idle() {
    std::unique_lock lock(mutex_);
    forget_finished();
    changed_.wait(lock, [this] { return running_.empty() || !failure_.empty(); });
    throw_failure();
  }

  /// Whether somebody has been told of a failure.
  bool has_thrown() const {
    const std::lock_guard guard(mutex_);
    return has_thrown_;
  }

  /// Abort for this reason, unless there was another before, or the end. Returns after the abort.
  void fail(const std::string& reason) {
    std::unique_lock lock(mutex_);
    set_failure(reason);
    changed_.notify_all();
    changed_.wait(lock, [this] { return has_ended_; });
  }

  /// Watch no longer. Returns whether all went well; if not, `abort` has been called.
  bool stop() {
    {
      const std::lock_guard guard(mutex_);
      is_stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
    return failure_.empty();
  }

  /// What a call was guilty of that has not ended in time.
  static std::string late(double timeout_seconds) {
    const auto seconds = std::to_string(timeout_seconds);
    return "not done after " + seconds.substr(0, seconds.find('.') + 2) +
           " s: did every rank call it, with equal sizes?";
  }

 private:
  static constexpr std::chrono::milliseconds kPeriod{10};
  static constexpr std::chrono::milliseconds kTimeToLeave{200};

  struct Operation {
    const char* name;
    Clock::time_point deadline;
    cudaEvent_t done;
    bool is_enqueued;
  };

  template <class Function>
  void watched(const char* name, bool goes_on, Function function) {
    const auto done = begin(name);
    try {
      function(done);
    } catch (const std::exception& error) {
      end(/*goes_on=*/false);
      fail(std::string(name) + ": " + error.what());  // the other ranks wait for what was not sent
      return check();
    }
    end(goes_on);
    check();
  }

  cudaEvent_t begin(const char* name) {
    const std::lock_guard guard(mutex_);
    throw_failure();
    if (idle_events_.empty()) idle_events_.push_back(new_event());
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout_);
    running_.push_back({name, deadline, idle_events_.back(), /*is_enqueued=*/false});
    idle_events_.pop_back();
    return running_.back().done;
  }

  void end(bool goes_on) {
    const std::lock_guard guard(mutex_);
    running_.back().is_enqueued = true;
    if (!goes_on) {
      idle_events_.push_back(running_.back().done);
      running_.pop_back();
    }
    if (!failure_.empty()) changed_.notify_all();  // the abort waits for this
  }

  void watch() {
    static_cast<void>(cudaSetDevice(device_));  // else what it asks would wake up device 0 as well
    // A capture in another thread does not mind what this one asks.
    auto mode = cudaStreamCaptureModeRelaxed;
    static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode));
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kPeriod, [this] { return is_stopping_ || !failure_.empty(); })) {
      forget_finished();
      // What a CUDA graph runs is in no list, but its errors are found.
      const std::string name = running_.empty() ? "NCCL" : running_.front().name;
      if (const auto error = find_error_(); !error.empty()) set_failure(name + ": " + error);
      if (!running_.empty() && Clock::now() > running_.front().deadline) {
        set_failure(name + ": " + late(timeout_.count()));
      }
    }
    if (!failure_.empty()) {
      // A call that is not blocked gets the time to leave: the abort frees what it uses.
      const auto is_outside = [this] { return running_.empty() || running_.back().is_enqueued; };
      const auto soon = Clock::now() + kTimeToLeave;
      changed_.wait_until(lock, is_outside() ? soon : std::min(soon, running_.back().deadline), is_outside);
      lock.unlock();  // a call that is blocked is set free by this, and then wants the mutex
      abort_();
      lock.lock();
    }
    has_ended_ = true;
    changed_.notify_all();
  }

  void throw_failure() {
    has_thrown_ = has_thrown_ || !failure_.empty();
    require(failure_.empty(), "RuntimeError", failure_);
  }

  void set_failure(const std::string& reason) {
    if (failure_.empty() && !has_ended_) failure_ = owner_ + ": " + reason;
  }

  /// What ends in the last tenth of its time may have ended because another rank, a little earlier, gave it up: then
  /// its result is garbage.
  void forget_finished() {
    while (!running_.empty() && running_.front().is_enqueued) {
      const auto& oldest = running_.front();
      const auto status = cudaEventQuery(oldest.done);
      if (status == cudaErrorNotReady) break;
      if (status != cudaSuccess) set_failure(oldest.name + (": " + std::string(cudaGetErrorString(status))));
      if (Clock::now() > oldest.deadline - std::chrono::duration_cast<Clock::duration>(timeout_ / 10)) {
        set_failure(oldest.name + std::string(": ended when other ranks may have given it up"));
      }
      idle_events_.push_back(running_.front().done);
      running_.pop_front();
    }
    if (running_.empty()) changed_.notify_all();
  }

  const std::string owner_;
  const int device_;
  const std::chrono::duration<double> timeout_;
  const std::function<std::string()> find_error_;
  const std::function<void()> abort_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool is_stopping_ = false, has_ended_ = false, has_thrown_ = false;
  std::string failure_;
  std::deque<Operation> running_;  // one stream finishes them in order; several streams nearly so
  std::vector<cudaEvent_t> idle_events_;
  std::thread thread_;
};

}  // namespace minisgl
