// A watchdog under a sanitizer: operations of many threads, on streams that finish when this file says so.

#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fake {

/// Some events are not done when they are asked first: nothing on the host target is unfinished otherwise.
struct Event {
  std::atomic<int> queries_left = 0;
};

std::atomic<int> live_events, records;
std::atomic<bool> is_stuck;

cudaError_t create(cudaEvent_t* event, unsigned) {
  ++live_events;
  *event = new Event;
  return cudaSuccess;
}
cudaError_t record(cudaEvent_t event, cudaStream_t) {
  static_cast<Event*>(event)->queries_left = ++records % 100 == 0 ? 3 : 0;
  return cudaSuccess;
}
cudaError_t query(cudaEvent_t event) {
  return is_stuck || static_cast<Event*>(event)->queries_left-- > 0 ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t destroy(cudaEvent_t event) {
  --live_events;
  delete static_cast<Event*>(event);
  return cudaSuccess;
}

}  // namespace fake

#define cudaEventCreateWithFlags fake::create
#define cudaEventRecord fake::record
#define cudaEventQuery fake::query
#define cudaEventDestroy fake::destroy
#include <minisgl/watchdog.h>

namespace {

using minisgl::Watchdog;
using namespace std::chrono_literals;

void check(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::_Exit(1);
}

template <class Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const minisgl::Error& error) {
    return error.what();
  }
  return "";
}

struct Scene {
  explicit Scene(std::chrono::duration<double> timeout)
      : dog(
            "rank 0 of 1", /*device=*/0, timeout,
            [this]() -> std::string {
              ++polls;
              return has_error ? "an error" : "";
            },
            [this] {
              ++aborts;
              is_free = true;
            }) {}
  ~Scene() { check(aborts <= 1, "aborted twice"); }

  std::atomic<int> polls = 0, aborts = 0;
  std::atomic<bool> has_error = false, is_free = false;
  std::mutex turn;  // one thread at a time may call
  Watchdog dog;

  std::string run(const char* name) {
    const std::lock_guard guard(turn);
    return message_of([&] { dog.run(name, nullptr, [] {}); });
  }

  /// A call that returns after the abort only.
  std::string run_blocked(const char* name) {
    return message_of([&] {
      dog.run(name, nullptr, [&] {
        while (!is_free) std::this_thread::yield();
      });
    });
  }
};

void many_threads() {
  Scene scene(60s);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 500; ++j) {
        check(scene.run("add").empty(), "an operation failed");
        scene.dog.check();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  scene.dog.wait_until_idle();
  check(scene.dog.stop(), "not well");
  check(scene.aborts == 0 && !scene.dog.has_thrown(), "an abort");
}

/// Nobody waits for the operation: the deadline passes, and the next call is told.
void late_work() {
  Scene scene(0.5s);
  fake::is_stuck = true;
  check(scene.run("first").empty(), "enqueued");
  const auto message = message_of([&] { scene.dog.wait_until_idle(); });
  fake::is_stuck = false;
  check(message == "rank 0 of 1: first: not done after 0.5 s: did every rank call it, with equal sizes?", message);
  check(scene.run("second") == message && scene.dog.has_thrown(), "another reason later");
  check(!scene.dog.stop() && scene.aborts == 1, "no abort");
}

void blocked_call() {
  Scene scene(0.1s);
  const auto message = scene.run_blocked("call");
  check(message == "rank 0 of 1: call: not done after 0.1 s: did every rank call it, with equal sizes?", message);
}

void error_meanwhile() {
  Scene scene(60s);
  std::thread blocked([&] { check(scene.run_blocked("call") == "rank 0 of 1: call: an error", "another error"); });
  while (scene.polls == 0) std::this_thread::yield();
  scene.has_error = true;
  blocked.join();
}

void exception_inside() {
  Scene scene(60s);
  const auto throws = [&] { scene.dog.call("call", [] { minisgl::fail("ValueError", "inside"); }); };
  check(message_of(throws) == "rank 0 of 1: call: inside", "another error");
  check(scene.aborts == 1, "no abort: the other ranks wait");
}

/// The reasons of several threads at once: one of them is kept, and each `fail` returns after the abort.
void several_failures() {
  Scene scene(60s);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      scene.dog.fail("reason " + std::to_string(i));
      check(scene.aborts == 1, "fail has returned before the abort");
    });
  }
  for (auto& thread : threads) thread.join();
  check(message_of([&] { scene.dog.check(); }).starts_with("rank 0 of 1: reason "), "no reason");
  scene.dog.stop();
  scene.dog.stop();
}

/// The abort frees what a call uses: one that is not blocked can leave first.
void abort_waits_for_a_call() {
  Scene scene(60s);
  std::atomic<bool> is_inside = false;
  std::thread caller([&] {
    message_of([&] {
      scene.dog.run("call", nullptr, [&] {
        is_inside = true;
        std::this_thread::sleep_for(5ms);
        check(scene.aborts == 0, "aborted while a call was inside");
      });
    });
  });
  while (!is_inside) std::this_thread::yield();
  scene.dog.fail("a reason");
  caller.join();
  check(scene.aborts == 1, "no abort");
}

void nothing_after_the_end() {
  Scene scene(60s);
  check(scene.run("add").empty() && scene.dog.stop(), "not well");
  scene.dog.fail("too late");
  check(scene.aborts == 0, "aborted after the end");
}

}  // namespace

int main() {
  many_threads();
  late_work();
  blocked_call();
  error_meanwhile();
  exception_inside();
  several_failures();
  abort_waits_for_a_call();
  nothing_after_the_end();
  check(fake::live_events == 0, "an event is left");
  std::puts("well");
}
