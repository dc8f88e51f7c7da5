// Exported from notebooks/10_cuda_on_a_cpu.md by "minisgl book export"; edit it there. sha256:38181ccde284

#pragma once

// A stackful context: a stack of its own, on which a thread can stop in the middle of a function and go on later.

#include <runtime.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(MINISGL_PORTABLE_FIBERS)

/// Save what a called function must preserve on the running stack, leave its address in `*from`, and go on where `to`
/// was left. ucontext does the same, and ten times slower: it also saves the signal mask, with a system call.
extern "C" void minisgl_switch_context(void** from, void* to);

#if defined(__x86_64__)
// The processor predicts where a `ret` goes from the calls that it has seen. It is right although the stack is another
// one: all switches are calls from one and the same place. (An indirect jump instead cost 8 ns more per switch.)
asm(R"(
.text
.globl minisgl_switch_context
.hidden minisgl_switch_context
.type minisgl_switch_context, @function
minisgl_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size minisgl_switch_context, . - minisgl_switch_context
)");

#else
asm(R"(
.text
.globl minisgl_switch_context
.hidden minisgl_switch_context
.type minisgl_switch_context, %function
minisgl_switch_context:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
.size minisgl_switch_context, . - minisgl_switch_context
)");
#endif

namespace minisgl::host {

inline void switch_context(void** from, void* to) { minisgl_switch_context(from, to); }

/// A context that will call `entry`, which must never return, on the stack that ends at `top`.
inline void* new_context(std::byte* top, std::size_t, void (*entry)()) {
  auto words = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
#if defined(__x86_64__)
  *--words = nullptr;  // where a return address would be: the stack is aligned as after a call
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
#else
  words -= 20;
  for (int i = 0; i < 20; ++i) words[i] = nullptr;
  words[1] = reinterpret_cast<void*>(entry);  // x30, the link register
#endif
  return words;
}

}  // namespace minisgl::host

#else

#include <ucontext.h>

namespace minisgl::host {

inline void switch_context(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

inline void* new_context(std::byte* top, std::size_t bytes, void (*entry)()) {
  auto place = (reinterpret_cast<uintptr_t>(top) - sizeof(ucontext_t)) & ~uintptr_t{63};
  auto context = new (reinterpret_cast<void*>(place)) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = top - bytes;
  context->uc_stack.ss_size = bytes - static_cast<std::size_t>(top - reinterpret_cast<std::byte*>(place));
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

}  // namespace minisgl::host

#endif

namespace minisgl::host {

/// Memory for a stack, with a page below it that nobody may touch: an overflow ends there.
class Stack {
 public:
  static constexpr std::size_t kBytes = 1024 * 1024;  // addresses, not memory; CUDA allows a thread 512 KiB

  /// `index` tells stacks apart: each starts some cache lines away from the last, or they would all compete for the
  /// same few lines of the cache.
  explicit Stack(unsigned index) {
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
    void* memory = mmap(nullptr, kBytes + page_, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    if (mprotect(memory, page_, PROT_NONE) != 0) {
      munmap(memory, kBytes + page_);
      throw std::bad_alloc();
    }
    bottom_ = static_cast<std::byte*>(memory) + page_;
    bytes_ = kBytes - (index * 7 % 64) * 64;
  }
  ~Stack() {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(bottom_, kBytes);  // others will get this memory
#endif
    munmap(bottom_ - page_, kBytes + page_);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  std::byte* bottom() const { return bottom_; }
  std::size_t bytes() const { return bytes_; }
  std::byte* top() const { return bottom_ + bytes_; }

 private:
  std::size_t page_, bytes_;
  std::byte* bottom_;
};

}  // namespace minisgl::host
