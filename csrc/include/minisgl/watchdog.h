// Exported from notebooks/08_nccl.md by "minisgl book export"; edit it there. sha256:28ab50c1cc83

#pragma once

#include <cuda_runtime.h>
#include <minisgl/utils.cuh>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace minisgl {

/// Watches operations that a GPU works on after the call has returned. Each has to end before its deadline, and
/// `find_error` has to find nothing meanwhile; else `abort` is called, once, and every later `run` throws the reason.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  Watchdog(std::string owner, std::chrono::duration<double> timeout, std::function<std::string()> find_error,
           std::function<void()> abort)
      : owner_(std::move(owner)),
        timeout_(timeout),
        find_error_(std::move(find_error)),
        abort_(std::move(abort)),
        thread_([this] { watch(); }) {}

  ~Watchdog() {
    {
      const std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    stop_.notify_all();
    thread_.join();
    for (const auto& operation : running_) static_cast<void>(cudaEventDestroy(operation.done));
    for (const auto event : idle_events_) static_cast<void>(cudaEventDestroy(event));
  }

  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Throw if an earlier operation has failed.
  void check() const {
    const std::lock_guard guard(mutex_);
    require(failure_.empty(), "RuntimeError", failure_);
  }

  /// Call `enqueue`, which puts work on `stream`. The call and the work together have until the deadline.
  template <class Enqueue>
  void run(const char* name, cudaStream_t stream, Enqueue enqueue) {
    auto capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    const auto done = begin(name);
    try {
      enqueue();
      // What is captured runs later, as part of a graph: then nothing tells its end.
      if (capture == cudaStreamCaptureStatusNone) check_cuda(cudaEventRecord(done, stream), "cudaEventRecord");
    } catch (...) {
      end(/*is_enqueued=*/false);
      check();  // if it was aborted, the reason for that comes first
      throw;
    }
    end(/*is_enqueued=*/capture == cudaStreamCaptureStatusNone);
    check();
  }

  bool has_failed() const {
    const std::lock_guard guard(mutex_);
    return !failure_.empty();
  }

 private:
  static constexpr std::chrono::milliseconds kPeriod{10};

  struct Operation {
    const char* name;
    Clock::time_point deadline;
    cudaEvent_t done;
    bool is_enqueued;
  };

  cudaEvent_t begin(const char* name) {
    const std::lock_guard guard(mutex_);
    require(failure_.empty(), "RuntimeError", failure_);
    if (idle_events_.empty()) {
      cudaEvent_t event;
      check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      idle_events_.push_back(event);
    }
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout_);
    running_.push_back({name, deadline, idle_events_.back(), /*is_enqueued=*/false});
    idle_events_.pop_back();
    return running_.back().done;
  }

  void end(bool is_enqueued) {
    const std::lock_guard guard(mutex_);
    if (is_enqueued) {
      running_.back().is_enqueued = true;
    } else {
      idle_events_.push_back(running_.back().done);
      running_.pop_back();
    }
  }

  void watch() {
    // A capture in another thread does not mind what this one asks.
    auto mode = cudaStreamCaptureModeRelaxed;
    static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode));
    std::unique_lock lock(mutex_);
    while (!stop_.wait_for(lock, kPeriod, [this] { return stopping_; })) {
      forget_finished();
      if (running_.empty()) continue;
      const auto& oldest = running_.front();
      auto error = find_error_();
      if (error.empty() && Clock::now() > oldest.deadline) error = late();
      if (error.empty()) continue;
      failure_ = owner_ + ": " + oldest.name + ": " + error;
      lock.unlock();  // whoever waits inside `enqueue` is set free by this, and then wants the mutex
      abort_();
      return;
    }
  }

  void forget_finished() {
    while (!running_.empty() && running_.front().is_enqueued &&
           cudaEventQuery(running_.front().done) != cudaErrorNotReady) {
      idle_events_.push_back(running_.front().done);
      running_.pop_front();
    }
  }

  std::string late() const {
    const auto seconds = std::to_string(timeout_.count());
    return "not done after " + seconds.substr(0, seconds.find('.') + 2) +
           " s: did every rank call it, with equal sizes?";
  }

  const std::string owner_;
  const std::chrono::duration<double> timeout_;
  const std::function<std::string()> find_error_;
  const std::function<void()> abort_;
  mutable std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::string failure_;
  std::deque<Operation> running_;  // one stream finishes them in order; several streams nearly so
  std::vector<cudaEvent_t> idle_events_;
  std::thread thread_;
};

}  // namespace minisgl
