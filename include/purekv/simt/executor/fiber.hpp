// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
// Where nobody has written how to switch stacks, the C library does it: six times slower, by two system calls.
// PUREKV_UCONTEXT asks for that, for tests.
#if !defined(__x86_64__) || defined(PUREKV_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define PUREKV_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PUREKV_ASAN
#endif
#endif
#if defined(PUREKV_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail {

/// Memory for the stacks of many fibers. Pages that are never touched cost nothing; one below each stack may not be.
class stacks {
 public:
  static constexpr std::size_t size = 256 * 1024;

  stacks() = default;
  stacks(stacks const&) = delete;
  stacks& operator=(stacks const&) = delete;
  ~stacks() { release(); }

  void reserve(std::size_t count) {
    if (count <= count_) return;
    release();
    std::size_t const page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    stride_ = size + page;
    void* memory = mmap(nullptr, count * stride_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    memory_ = static_cast<char*>(memory);
    count_ = count;
    for (std::size_t i = 0; i < count; ++i)
      if (mprotect(memory_ + i * stride_, page, PROT_NONE) != 0) std::abort();
  }

  /// The lowest byte of stack i. A fiber that was abandoned there leaves nothing behind.
  void* fresh(std::size_t i) {
    char* const bottom = memory_ + (i + 1) * stride_ - size;
#if defined(PUREKV_ASAN)
    __asan_unpoison_memory_region(bottom, size);
#endif
    return bottom;
  }

 private:
  void release() {
    if (memory_ != nullptr) munmap(memory_, count_ * stride_);
    memory_ = nullptr;
    count_ = 0;
  }

  char* memory_ = nullptr;
  std::size_t count_ = 0, stride_ = 0;
};

#if defined(__x86_64__) && !defined(PUREKV_UCONTEXT)
/// Pushes what a callee preserves, stores the stack pointer in *from and goes on where `to` did the same.
__attribute__((naked)) inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}
#endif

/// One flow of control: a stack and where it stopped. The default is the one that is running.
class fiber {
 public:
  /// Will call entry() when first switched to; entry must not return but leave().
  void start(void* bottom, void (*entry)()) {
    bottom_ = bottom;
    size_ = stacks::size;
    fake_stack_ = nullptr;
#if defined(__x86_64__) && !defined(PUREKV_UCONTEXT)
    // As if entry had been called: a return address, null, lies on an aligned stack. Below it what switch_stack pops.
    void** const top = reinterpret_cast<void**>(static_cast<char*>(bottom) + size_) - 2;
    top[1] = nullptr;
    top[0] = reinterpret_cast<void*>(entry);
    top_ = top - 6;
    for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom;
    context_.uc_stack.ss_size = size_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  /// Stops here, goes on in `to`, and returns when somebody switches back.
  void switch_to(fiber& to) { go(to, &fake_stack_); }

  /// Goes on in `to` for good.
  [[noreturn]] void leave(fiber& to) {
    go(to, nullptr);
    std::abort();
  }

  /// The first thing to be called by an entry: learns the bounds of the stack it was started from.
  static void entered([[maybe_unused]] fiber& from) {
#if defined(PUREKV_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom_, &from.size_);
#endif
  }

 private:
  void go(fiber& to, [[maybe_unused]] void** fake_stack) {
#if defined(PUREKV_ASAN)
    __sanitizer_start_switch_fiber(fake_stack, to.bottom_, to.size_);
#endif
#if defined(__x86_64__) && !defined(PUREKV_UCONTEXT)
    switch_stack(&top_, to.top_);
#else
    swapcontext(&context_, &to.context_);
#endif
#if defined(PUREKV_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

#if defined(__x86_64__) && !defined(PUREKV_UCONTEXT)
  void* top_ = nullptr;
#else
  ucontext_t context_ = {};
#endif
  void const* bottom_ = nullptr;
  std::size_t size_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA::simt::detail
#undef PUREKV_ASAN
