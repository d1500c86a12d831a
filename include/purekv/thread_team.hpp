// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// A barrier for `ranks` threads that spins briefly and then yields, for engines that have none to lend.
class spin_barrier {
 public:
  explicit spin_barrier(std::int32_t ranks) : ranks_(ranks) {}

  void wait() {
    std::uint32_t const round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > 4096) std::this_thread::yield();
  }

  static void wait(void* self) { static_cast<spin_barrier*>(self)->wait(); }

 private:
  std::int32_t ranks_;
  std::atomic<std::int32_t> arrived_{0};
  std::atomic<std::uint32_t> round_{0};
};

/// Threads for programs that have none of their own: run(f) calls f(cpu) once on each of them, the caller's included,
/// and returns when all are done. Owns its threads and is the one part of the library that allocates.
class thread_team {
 public:
  explicit thread_team(std::int32_t ranks) : ranks_(ranks < 1 ? 1 : ranks), barrier_(ranks_) {
    for (std::int32_t i = 1; i < ranks_; ++i) threads_.emplace_back([this, i] { serve(i); });
  }
  thread_team(thread_team const&) = delete;
  thread_team& operator=(thread_team const&) = delete;
  ~thread_team() {
    {
      std::lock_guard lock(mutex_);
      job_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::int32_t ranks() const { return ranks_; }

  template <class F> void run(F&& f) {
    {
      std::lock_guard lock(mutex_);
      context_ = const_cast<void*>(static_cast<void const*>(&f));
      job_ = [](void* context, cpu exec) { (*static_cast<std::remove_reference_t<F>*>(context))(exec); };
      ++generation_;
    }
    wake_.notify_all();
    job_(context_, executor(0));
    barrier_.wait();
  }

 private:
  cpu executor(std::int32_t index) { return {index, ranks_, &spin_barrier::wait, &barrier_}; }

  void serve(std::int32_t index) {
    for (std::uint64_t seen = 0;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
      }
      if (job_ == nullptr) return;
      job_(context_, executor(index));
      barrier_.wait();
    }
  }

  std::int32_t ranks_;
  spin_barrier barrier_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::uint64_t generation_ = 0;
  void (*job_)(void*, cpu) = nullptr;
  void* context_ = nullptr;
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
