// Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:f660313f190f

#include <fiber.h>
#include <runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace minisgl::host {

Observer* observer = nullptr;

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kNobody = kMaxThreads;

/// The order in which blocks, and threads of a block, are started: MINISGL_HOST_ORDER.
struct Order {
  enum class Kind { kForward, kReverse, kShuffle } kind = Kind::kForward;
  uint64_t seed = 0;
};

Order read_order() {
  const char* text = std::getenv("MINISGL_HOST_ORDER");
  const std::string order = text ? text : "";
  if (order.empty() || order == "forward") return {};
  if (order == "reverse") return {Order::Kind::kReverse};
  if (order == "shuffle") return {Order::Kind::kShuffle};
  if (order.starts_with("shuffle:") && order.size() > 8 && order.size() < 28 &&
      order.find_first_not_of("0123456789", 8) == order.npos)
    return {Order::Kind::kShuffle, std::strtoull(order.c_str() + 8, nullptr, 10)};
  throw std::runtime_error("MINISGL_HOST_ORDER: expected forward, reverse, shuffle or shuffle:SEED, got " + order);
}

/// The next of a sequence of well-mixed numbers (splitmix64, Steele, Lea and Flood 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::string hex(uint32_t mask) {
  char text[11];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

/// `file:line` as a reader knows it: from the repository on, and with the chapter that the file is exported from.
std::string place(const Request& request) {
  std::string path = request.file, chapter;
  std::ifstream file(path);
  constexpr const char* kExported = "// Exported from ";
  if (std::string line; std::getline(file, line) && line.starts_with(kExported)) {
    const auto begin = std::strlen(kExported);
    chapter = ", chapter " + line.substr(begin, line.find(' ', begin) - begin);
  }
  for (const char* root : {"/csrc/", "/notebooks/", "/tests/"})
    if (const auto at = path.rfind(root); at != path.npos) path = path.substr(at + 1);
  return path + ":" + std::to_string(request.line) + chapter;
}

/// Whether two threads came to one and the same call in the source.
inline bool same_call(const Request& a, const Request& b) {
  return a.wait == b.wait && a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

/// "3 threads (0-1, 7)", with at most four ranges.
std::string list(const std::vector<unsigned>& threads, const char* noun) {
  std::string text;
  unsigned ranges = 0;
  for (std::size_t i = 0; i < threads.size();) {
    std::size_t last = i;
    while (last + 1 < threads.size() && threads[last + 1] == threads[last] + 1) ++last;
    if (++ranges > 4) {
      text += ", ...";
      break;
    }
    text += (ranges == 1 ? "" : ", ") + std::to_string(threads[i]);
    if (last > i) text += "-" + std::to_string(threads[last]);
    i = last + 1;
  }
  return std::to_string(threads.size()) + " " + noun + (threads.size() == 1 ? "" : "s") + " (" + text + ")";
}

/// A context that runs threads of a block. The first one is the stack that the launch itself was called on.
struct Fiber {
  void* context = nullptr;
  std::unique_ptr<Stack> stack;
  unsigned first = 0;          ///< threads from this one on have been started here; all but the last have returned
  void* fake_stack = nullptr;  ///< AddressSanitizer's
  const void* bottom = nullptr;
  std::size_t bytes = 0;
};

struct Thread {
  const Request* request = nullptr;  ///< what it waits for; null while it runs, or may
  uint64_t result = 0;
  Fiber* fiber = nullptr;
};

/// Lanes of a warp that wait for each other, found by the mask that all of them named.
struct Group {
  uint32_t mask, arrived;
  bool mixed;  ///< the lanes called different functions: they will never meet
};

struct Warp {
  uint32_t returned = 0;  ///< lanes that have returned, or do not exist
  unsigned num_groups = 0;
  Group groups[kWarpSize];
};

/// Runs the threads of one block at a time, on one OS thread.
///
/// Threads start one after the other on one stack, as plain calls, until one must wait. That stack is then set aside
/// with the waiting thread on it, and another stack starts the threads that come next. When the last thread of a
/// rendezvous arrives, the others become ready; whoever waits or returns next switches to the first ready one.
class Scheduler {
 public:
  static Scheduler& of_this_os_thread() {
    static thread_local Scheduler scheduler;
    return scheduler;
  }

  void begin_launch(const Kernel& kernel, Loop& loop, Order order);
  void run_block(uint64_t block);
  void finish_block();
  uint64_t wait(unsigned thread, const Request& request);
  [[noreturn]] void fail(const std::string& message);
  [[noreturn]] void throw_failure();

 private:
  bool is_forward() const { return order_.kind == Order::Kind::kForward; }
  bool is_starting() const { return loop_->thread_limit != 0; }  ///< as opposed to going on with a thread
  unsigned end_of_warp(unsigned thread) const { return std::min(num_threads_, (thread / kWarpSize + 1) * kWarpSize); }

  // Meeting.
  void arrive(unsigned thread);
  void arrive_at_barrier(unsigned thread);
  void arrive_in_warp(unsigned thread);
  bool complete_if_all_arrived(unsigned warp, Group& group);
  void complete_group(unsigned warp, uint32_t lanes);
  uint64_t shuffled(unsigned warp, unsigned lane, uint32_t lanes);
  bool complete_active_masks();
  void release(unsigned thread, uint64_t result);

  // Who runs next.
  void go_on();
  Fiber* next_fiber();
  Fiber* idle_fiber();
  void switch_to(Fiber& fiber);
  void finish_switch(Fiber& fiber);
  void reset_fibers();

  // Starting.
  void begin_block();
  static void run_fiber();
  void start_threads();
  void note_started(unsigned thread);
  void retire_from(Fiber& fiber);
  void retire(unsigned thread);

  // Naming what went wrong.
  std::string block_name() const;
  std::string waiting() const;
  std::string deadlock() const;

  const Kernel* kernel_ = nullptr;
  Loop* loop_ = nullptr;
  unsigned num_threads_ = 0;
  Order order_;
  std::vector<unsigned> starts_;  ///< the threads in the order of their start; unused in forward order
  unsigned next_start_ = 0;       ///< how many have been started

  Thread threads_[kMaxThreads];
  unsigned arriving_ = kNobody;
  Warp warps_[kMaxThreads / kWarpSize];
  unsigned num_returned_ = 0;
  unsigned num_at_barrier_ = 0;
  bool barrier_is_mixed_ = false;
  const Request* barrier_ = nullptr;  ///< that of the first thread at the barrier

  uint16_t ready_[kMaxThreads];  ///< a ring of threads that may go on
  unsigned ready_head_ = 0, ready_count_ = 0;

  Fiber main_;
  Fiber* current_ = &main_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::string error_;
};

// ---- Meeting ----

uint64_t Scheduler::wait(unsigned thread, const Request& request) {
  if (!loop_->waited) begin_block();
  if (is_starting()) note_started(thread);
  Thread& me = threads_[thread];
  me.request = &request;
  me.fiber = current_;
  arrive(thread);
  if (me.request) {
    go_on();
    if (!error_.empty()) fail(std::string(error_));  // this is the launch's own stack: nobody else is woken then
  }
  return me.result;
}

inline void Scheduler::arrive(unsigned thread) {
  const Request& request = *threads_[thread].request;
  if (observer) observer->arrive(thread, request);
  if (request.wait == Wait::kTrap)
    fail(block_name() + "thread " + std::to_string(thread) + " calls __trap (" + place(request) + ")");
  arriving_ = thread;
  if (waits_for_block(request.wait)) {
    arrive_at_barrier(thread);
  } else if (request.wait != Wait::kActiveMask) {
    arrive_in_warp(thread);
  }
  arriving_ = kNobody;
}

void Scheduler::arrive_at_barrier(unsigned thread) {
  const Request& request = *threads_[thread].request;
  if (num_at_barrier_++ == 0) {
    barrier_ = &request;
    barrier_is_mixed_ = false;
  }
  barrier_is_mixed_ |= !same_call(request, *barrier_);
  if (num_at_barrier_ < num_threads_ || barrier_is_mixed_) return;

  uint64_t result = 0;
  if (request.wait != Wait::kSyncThreads) {
    for (unsigned i = 0; i < num_threads_; ++i) result += threads_[i].request->value != 0;
    if (request.wait == Wait::kSyncThreadsAnd) result = result == num_threads_;
    if (request.wait == Wait::kSyncThreadsOr) result = result != 0;
  }
  num_at_barrier_ = 0;
  if (observer) observer->sync_block();
  for (unsigned i = 0; i < num_threads_; ++i) release(is_forward() ? i : starts_[i], result);
}

/// Let a thread go on. The one that arrives at the moment runs anyway.
void Scheduler::release(unsigned thread, uint64_t result) {
  threads_[thread].request = nullptr;
  threads_[thread].result = result;
  if (thread != arriving_) ready_[(ready_head_ + ready_count_++) % kMaxThreads] = static_cast<uint16_t>(thread);
}

void Scheduler::arrive_in_warp(unsigned thread) {
  const Request& request = *threads_[thread].request;
  Warp& warp = warps_[thread / kWarpSize];
  const uint32_t lane_bit = 1u << thread % kWarpSize;
  if (request.width < 1 || request.width > 32 || (request.width & (request.width - 1)) != 0)
    fail(block_name() + "thread " + std::to_string(thread) + " calls " + request.function + " (" + place(request) +
         ") with width " + std::to_string(request.width) + ", which is none of 1, 2, 4, 8, 16 and 32");
  if (!(request.mask & lane_bit))
    fail(block_name() + "thread " + std::to_string(thread) + " (lane " + std::to_string(thread % kWarpSize) +
         ") calls " + request.function + " (" + place(request) + ") with mask " + hex(request.mask) +
         ", which does not name it");
  for (unsigned i = 0; i < warp.num_groups; ++i) {
    Group& group = warp.groups[i];
    if (group.mask != request.mask) continue;
    const unsigned other = thread / kWarpSize * kWarpSize + static_cast<unsigned>(__builtin_ctz(group.arrived));
    group.mixed |= threads_[other].request->wait != request.wait;
    group.arrived |= lane_bit;
    complete_if_all_arrived(thread / kWarpSize, group);
    return;
  }
  warp.groups[warp.num_groups] = {request.mask, lane_bit, false};
  complete_if_all_arrived(thread / kWarpSize, warp.groups[warp.num_groups++]);
}

bool Scheduler::complete_if_all_arrived(unsigned index, Group& group) {
  Warp& warp = warps_[index];
  if (group.arrived != (group.mask & ~warp.returned) || group.mixed) return false;
  const uint32_t lanes = group.arrived;
  group = warp.groups[--warp.num_groups];
  complete_group(index, lanes);
  return true;
}

/// Give each of `lanes`, who have all arrived, its result.
void Scheduler::complete_group(unsigned warp, uint32_t lanes) {
  Thread* threads = threads_ + warp * kWarpSize;
  const Request& any = *threads[__builtin_ctz(lanes)].request;
  const auto each = [lanes](auto body) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) body(static_cast<unsigned>(__builtin_ctz(rest)));
  };
  if (observer && any.wait == Wait::kSyncWarp) observer->sync_warp(warp, lanes);

  uint64_t results[kWarpSize];
  const auto votes = [&] {
    uint32_t bits = 0;
    each([&](unsigned lane) { bits |= (threads[lane].request->value != 0 ? 1u : 0u) << lane; });
    return bits;
  };
  const auto all_get = [&](uint64_t result) { each([&](unsigned lane) { results[lane] = result; }); };
  const auto reduce = [&](auto combine) {
    auto total = static_cast<uint32_t>(any.value);
    for (uint32_t rest = lanes & (lanes - 1); rest; rest &= rest - 1)
      total = combine(total, static_cast<uint32_t>(threads[__builtin_ctz(rest)].request->value));
    all_get(total);
  };
  const auto as_signed = [](uint32_t bits) { return static_cast<int32_t>(bits); };
  switch (any.wait) {
    case Wait::kShfl:
    case Wait::kShflUp:
    case Wait::kShflDown:
    case Wait::kShflXor: each([&](unsigned lane) { results[lane] = shuffled(warp, lane, lanes); }); break;
    case Wait::kBallot: all_get(votes()); break;
    case Wait::kAny: all_get(votes() != 0); break;
    case Wait::kAll: all_get(votes() == lanes); break;
    case Wait::kMatchAny:
    case Wait::kMatchAll: {
      const bool all = any.wait == Wait::kMatchAll;
      each([&](unsigned lane) {
        uint32_t same = 0;
        each([&](unsigned other) {
          same |= (threads[other].request->value == threads[lane].request->value ? 1u : 0u) << other;
        });
        results[lane] = all && same != lanes ? 0 : same;
      });
      break;
    }
    case Wait::kReduceAdd: reduce([](uint32_t a, uint32_t b) { return a + b; }); break;
    case Wait::kReduceMinUnsigned: reduce([](uint32_t a, uint32_t b) { return std::min(a, b); }); break;
    case Wait::kReduceMaxUnsigned: reduce([](uint32_t a, uint32_t b) { return std::max(a, b); }); break;
    case Wait::kReduceMinSigned:
      reduce([=](uint32_t a, uint32_t b) { return as_signed(a) < as_signed(b) ? a : b; });
      break;
    case Wait::kReduceMaxSigned:
      reduce([=](uint32_t a, uint32_t b) { return as_signed(a) > as_signed(b) ? a : b; });
      break;
    case Wait::kReduceAnd: reduce([](uint32_t a, uint32_t b) { return a & b; }); break;
    case Wait::kReduceOr: reduce([](uint32_t a, uint32_t b) { return a | b; }); break;
    case Wait::kReduceXor: reduce([](uint32_t a, uint32_t b) { return a ^ b; }); break;
    default: all_get(0);
  }
  each([&](unsigned lane) { release(warp * kWarpSize + lane, results[lane]); });
}

/// What a lane gets from a shuffle, as the PTX manual defines `shfl.sync`.
uint64_t Scheduler::shuffled(unsigned warp, unsigned lane, uint32_t lanes) {
  const Request& request = *threads_[warp * kWarpSize + lane].request;
  const unsigned same_segment = kWarpSize - static_cast<unsigned>(request.width);  // these bits name the segment
  const unsigned operand = static_cast<unsigned>(request.operand) % kWarpSize;
  const unsigned first = lane & same_segment, last = first | (kWarpSize - 1 - same_segment);
  unsigned source = lane;
  switch (request.wait) {
    case Wait::kShflUp: source = lane >= first + operand ? lane - operand : lane; break;
    case Wait::kShflDown: source = lane + operand <= last ? lane + operand : lane; break;
    case Wait::kShflXor: source = (lane ^ operand) <= last ? lane ^ operand : lane; break;
    default: source = first | (operand & ~same_segment);
  }
  if (!(lanes >> source & 1)) {
    const char* why = "has returned";
    const std::string mask = "mask " + hex(request.mask) + " does not name";
    if (!(request.mask >> source & 1)) why = mask.c_str();
    if (warp * kWarpSize + source >= num_threads_) why = "the block does not have";
    fail(block_name() + "thread " + std::to_string(warp * kWarpSize + lane) + " (lane " + std::to_string(lane) +
         ") reads lane " + std::to_string(source) + " in " + request.function + " (" + place(request) + "), which " +
         why);
  }
  return threads_[warp * kWarpSize + source].request->value;
}

/// __activemask: the lanes that came to one and the same call, once the warp can do nothing else.
bool Scheduler::complete_active_masks() {
  bool any = false;
  for (unsigned first = 0; first < num_threads_; first += kWarpSize) {
    const unsigned end = std::min(first + kWarpSize, num_threads_);
    for (unsigned thread = first; thread < end; ++thread) {
      const Request* request = threads_[thread].request;
      if (!request || request->wait != Wait::kActiveMask) continue;
      uint32_t mask = 0;
      for (unsigned other = thread; other < end; ++other)
        if (threads_[other].request && same_call(*threads_[other].request, *request)) mask |= 1u << other % kWarpSize;
      for (uint32_t rest = mask; rest; rest &= rest - 1)
        release(first + static_cast<unsigned>(__builtin_ctz(rest)), mask);
      any = true;
    }
  }
  return any;
}

// ---- Who runs next ----

/// Leave the current fiber until somebody switches back to it.
void Scheduler::go_on() {
  Fiber* next = next_fiber();
  if (!next) next = idle_fiber();
  if (next != current_) switch_to(*next);
}

/// Who runs next: a fiber with a ready thread, the launch if all is done, or null if it is time to start more threads.
Fiber* Scheduler::next_fiber() {
  for (;;) {
    const bool more = next_start_ < num_threads_;
    if (more && next_start_ % kWarpSize != 0) return nullptr;  // finish starting a warp: most meetings are inside one
    if (ready_count_ > 0) {
      loop_->thread_limit = loop_->row_limit = 0;  // the loop of a fiber that goes on must not start threads of its own
      const unsigned thread = ready_[ready_head_];
      ready_head_ = (ready_head_ + 1) % kMaxThreads;
      --ready_count_;
      return threads_[thread].fiber;
    }
    if (more) return nullptr;
    if (num_returned_ == num_threads_) return &main_;
    if (!complete_active_masks()) fail(deadlock());
  }
}

void Scheduler::switch_to(Fiber& to) {
  Fiber& from = *current_;
  current_ = &to;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
  switch_context(&from.context, to.context);
  finish_switch(from);
}

void Scheduler::finish_switch([[maybe_unused]] Fiber& now) {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(now.fake_stack, &bottom, &bytes);
  if (!main_.bottom) main_.bottom = bottom, main_.bytes = bytes;  // the first switch comes from there
#endif
}

Fiber* Scheduler::idle_fiber() {
  if (idle_.empty()) {
    auto fiber = std::make_unique<Fiber>();
    try {
      fiber->stack = std::make_unique<Stack>(static_cast<unsigned>(fibers_.size()));
    } catch (const std::bad_alloc&) {  // it must not leave a fiber: nobody would catch it
      fail("no memory for the stack of another waiting thread: " + std::to_string(fibers_.size()) +
           " have one; many OS threads at once may need a larger vm.max_map_count");
    }
    fiber->bottom = fiber->stack->bottom();
    fiber->bytes = fiber->stack->bytes();
    fiber->context = new_context(fiber->stack->top(), fiber->stack->bytes(), &Scheduler::run_fiber);
    idle_.push_back(fiber.get());
    fibers_.push_back(std::move(fiber));
  }
  Fiber* fiber = idle_.back();
  idle_.pop_back();
  return fiber;
}

// ---- Starting ----

/// What every fiber but the launch's own does, for ever.
void Scheduler::run_fiber() {
  Scheduler& self = of_this_os_thread();
  self.finish_switch(*self.current_);
  for (;;) {
    self.start_threads();
    if (Fiber* next = self.next_fiber()) {
      self.idle_.push_back(self.current_);
      self.switch_to(*next);
    }
  }
}

/// Start threads on the current stack: a whole warp in forward order, else one thread.
void Scheduler::start_threads() {
  const unsigned first = is_forward() ? next_start_ : starts_[next_start_];
  loop_->thread_limit = is_forward() ? end_of_warp(first) : first + 1;
  next_start_ = is_forward() ? loop_->thread_limit : next_start_ + 1;
  current_->first = first;
  kernel_->run(*kernel_, first);
  retire_from(*current_);
}

/// A thread that this stack has started waits for the first time; those that it started before have returned.
inline void Scheduler::note_started(unsigned thread) {
  for (unsigned t = current_->first; t < thread; ++t) retire(t);
  current_->first = thread;
  if (!is_forward()) return;
  next_start_ = thread + 1;
  loop_->thread_limit = end_of_warp(thread);
  loop_->row_limit = std::min(loop_->row_limit, loop_->thread_limit);
}

/// Note that all threads of a fiber have returned, when its loop has.
void Scheduler::retire_from(Fiber& fiber) {
  const unsigned end = is_starting() ? loop_->thread_limit : std::min(fiber.first + 1, num_threads_);
  if (is_starting() && is_forward()) next_start_ = end;
  for (unsigned thread = fiber.first; thread < end; ++thread) retire(thread);
  fiber.first = end;
}

void Scheduler::retire(unsigned thread) {
  Warp& warp = warps_[thread / kWarpSize];
  warp.returned |= 1u << thread % kWarpSize;
  ++num_returned_;
  for (unsigned i = warp.num_groups; i-- > 0;) complete_if_all_arrived(thread / kWarpSize, warp.groups[i]);
}

void Scheduler::begin_launch(const Kernel& kernel, Loop& loop, Order order) {
  kernel_ = &kernel;
  loop_ = &loop;
  order_ = order;
  num_threads_ = kernel.num_threads();
  loop.scheduler = this;
  loop.waited = false;
  main_.first = 0;
  error_.clear();
}

void Scheduler::run_block(uint64_t block) {
  const auto [nx, ny, nz] = kernel_->launch.grid;
  static_cast<void>(nz);
  loop_ = kernel_->enter_block(*kernel_, static_cast<unsigned>(block % nx), static_cast<unsigned>(block / nx % ny),
                               static_cast<unsigned>(block / nx / ny));
  begin_launch(*kernel_, *loop_, order_);
  loop_->thread_limit = num_threads_;
  jmp_buf escape;
  loop_->escape = &escape;
  if (_setjmp(escape) != 0) throw_failure();
  if (is_forward() && !observer) {
    kernel_->run(*kernel_, 0);
    if (loop_->waited) finish_block();
    return;
  }
  if (!is_forward()) {
    starts_.resize(num_threads_);
    std::iota(starts_.begin(), starts_.end(), 0u);
    if (order_.kind == Order::Kind::kReverse) std::reverse(starts_.begin(), starts_.end());
    uint64_t random = order_.seed * 0x10001 + block;
    if (order_.kind == Order::Kind::kShuffle)
      for (unsigned i = num_threads_; i > 1; --i) std::swap(starts_[i - 1], starts_[next_random(random) % i]);
  }
  if (observer) observer->begin_block(block);
  begin_block();
  loop_->thread_limit = 0;
  main_.first = num_threads_;  // no thread runs on this stack
  finish_block();
  if (observer) observer->end_block();
}

void Scheduler::begin_block() {
  loop_->waited = true;
  next_start_ = num_returned_ = num_at_barrier_ = ready_head_ = ready_count_ = 0;
  barrier_is_mixed_ = false;
  for (unsigned i = 0; i < num_threads_; ++i) threads_[i].request = nullptr;
  for (unsigned first = 0; first < num_threads_; first += kWarpSize) {
    Warp& warp = warps_[first / kWarpSize];
    const unsigned lanes = std::min(kWarpSize, num_threads_ - first);
    warp.returned = lanes == kWarpSize ? 0 : ~uint32_t{0} << lanes;
    warp.num_groups = 0;
  }
}

void Scheduler::finish_block() {
  retire_from(main_);
  while (num_returned_ < num_threads_) {
    go_on();
    if (!error_.empty()) break;
  }
  if (!error_.empty()) throw_failure();
  loop_->waited = false;
  main_.first = 0;
}

// ---- Failing ----

/// End the launch from inside a thread of it. Its stack is left as it is: an exception would have to pass through the
/// kernel, and ends the process at the first function that is noexcept, as every destructor is.
void Scheduler::fail(const std::string& message) {
  error_ = message;
  arriving_ = kNobody;
  if (current_ != &main_) switch_to(main_);
  _longjmp(*loop_->escape, 1);
}

void Scheduler::throw_failure() {
  loop_->waited = false;
  reset_fibers();
  throw std::runtime_error(std::exchange(error_, {}));
}

/// Forget what the fibers were doing: a launch has failed in the middle.
void Scheduler::reset_fibers() {
  idle_.clear();
  for (auto& fiber : fibers_) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber->stack->bottom(), Stack::kBytes);
    fiber->fake_stack = nullptr;
#endif
    fiber->context = new_context(fiber->stack->top(), fiber->stack->bytes(), &Scheduler::run_fiber);
    idle_.push_back(fiber.get());
  }
}

// ---- Naming what went wrong ----

std::string Scheduler::block_name() const {
  const unsigned* b = loop_->block_idx;
  return "in block (" + std::to_string(b[0]) + ", " + std::to_string(b[1]) + ", " + std::to_string(b[2]) + "), ";
}

/// Who waits where, and who has returned.
std::string Scheduler::waiting() const {
  std::vector<std::pair<const Request*, std::vector<unsigned>>> places;
  std::vector<unsigned> returned;
  for (unsigned thread = 0; thread < num_threads_; ++thread) {
    const Request* request = threads_[thread].request;
    if (!request) {
      returned.push_back(thread);
      continue;
    }
    const auto same = [&](const auto& entry) {
      return same_call(*entry.first, *request) && entry.first->mask == request->mask;
    };
    auto found = std::find_if(places.begin(), places.end(), same);
    if (found == places.end()) found = places.insert(places.end(), {request, {}});
    found->second.push_back(thread);
  }
  std::string text;
  constexpr std::size_t kMaxPlaces = 8;
  if (places.size() > kMaxPlaces) places.resize(kMaxPlaces), text = "among others, ";
  for (const auto& [request, threads] : places) {
    text += (text.empty() || text.ends_with(", ") ? "" : "; ") + list(threads, "thread") +
            (threads.size() == 1 ? " waits" : " wait") + " at " + request->function + " (" + place(*request) + ")";
    if (!waits_for_block(request->wait)) text += " for lanes " + hex(request->mask);
  }
  if (!returned.empty())
    text += "; " + list(returned, "thread") + (returned.size() == 1 ? " has" : " have") + " returned";
  return text;
}

std::string Scheduler::deadlock() const {
  const char* kind = "deadlock";
  if (num_at_barrier_ > 0) kind = "divergent barrier";
  for (unsigned warp = 0; warp * kWarpSize < num_threads_; ++warp)
    for (unsigned i = 0; i < warps_[warp].num_groups; ++i)
      if (warps_[warp].groups[i].mixed) kind = "mismatched collectives";
  return std::string(kind) + ": " + block_name() + waiting();
}

// ---- The interface ----

uint64_t wait(const Loop& loop, unsigned thread, const Request& request) {
  return loop.scheduler->wait(thread, request);
}

void abandon(const char* message) { Scheduler::of_this_os_thread().fail(message); }

bool is_plain() { return !observer && read_order().kind == Order::Kind::kForward; }

void begin_plain(const Kernel& kernel, Loop& loop) { Scheduler::of_this_os_thread().begin_launch(kernel, loop, {}); }

void finish_block(const Loop& loop) { loop.scheduler->finish_block(); }

void throw_failure(const Loop& loop) { loop.scheduler->throw_failure(); }

namespace {

unsigned num_os_threads() {
  const char* text = std::getenv("MINISGL_HOST_THREADS");
  const long threads = text ? std::strtol(text, nullptr, 10) : 1;
  return static_cast<unsigned>(std::clamp(threads, 1L, 1024L));
}

/// The place of each block in the order: forward, reverse, or i -> a * i + b modulo the number of blocks.
class BlockOrder {
 public:
  BlockOrder(Order order, uint64_t num_blocks) : num_blocks_(num_blocks) {
    if (order.kind == Order::Kind::kReverse) factor_ = num_blocks - 1, offset_ = num_blocks - 1;
    if (order.kind != Order::Kind::kShuffle) return;
    uint64_t random = order.seed;
    offset_ = next_random(random) % num_blocks;
    do factor_ = next_random(random) % num_blocks;
    while (std::gcd(factor_, num_blocks) != 1);
  }
  uint64_t operator[](uint64_t i) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(factor_) * i + offset_) % num_blocks_);
  }

 private:
  uint64_t num_blocks_, factor_ = 1, offset_ = 0;
};

}  // namespace

void run_grid(const Kernel& kernel) {
  const Order order = read_order();
  const auto [nx, ny, nz] = kernel.launch.grid;
  const uint64_t num_blocks = uint64_t{nx} * ny * nz;
  const BlockOrder blocks(order, num_blocks);
  if (observer) observer->begin_launch(kernel.launch);
  std::atomic<uint64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto work = [&] {
    try {
      Scheduler& scheduler = Scheduler::of_this_os_thread();
      Loop loop{};
      scheduler.begin_launch(kernel, loop, order);
      for (uint64_t i; (i = next++) < num_blocks;) scheduler.run_block(blocks[i]);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      next = num_blocks;
    }
  };
  const auto num_workers = kernel.parallel ? std::min<uint64_t>(num_os_threads(), num_blocks) : 1;
  std::vector<std::thread> workers;
  try {
    for (uint64_t i = 1; i < num_workers; ++i) workers.emplace_back(work);
  } catch (const std::system_error&) {  // the system gives no more threads: those that there are do the work
  }
  work();
  for (auto& worker : workers) worker.join();
  if (observer) observer->end_launch();
  if (error) std::rethrow_exception(error);
}

}  // namespace minisgl::host
