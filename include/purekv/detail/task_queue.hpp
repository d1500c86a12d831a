// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cpu.hpp>
#include <purekv/detail/carve.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Hands out the numbers 0 .. count - 1 to whichever rank is free. The counter lies in the workspace.
class task_queue {
 public:
  explicit task_queue(carve& memory) : next_(memory.take<std::int64_t>(1)) {}

  /// Calls f(task) once for every task, on any rank. All ranks call it and return together; what they wrote before it
  /// is visible to every task, and what the tasks wrote to every rank afterwards.
  template <class F> void run(cpu exec, std::int64_t count, F const& f) const {
    if (exec.rank() == 0) *next_ = 0;
    exec.sync();
    for (std::int64_t task; (task = __atomic_fetch_add(next_, std::int64_t{1}, __ATOMIC_RELAXED)) < count;) f(task);
    exec.sync();
  }

 private:
  std::int64_t* next_;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
