// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Passes ascending ranges of key positions on to emit(first, last, full), neighbours of the same kind as one. Empty
/// ranges (last < first) are dropped.
template <class F> class merged_runs {
 public:
  PUREKV_HD explicit merged_runs(F const& emit) : emit_(emit) {}

  PUREKV_CALLS PUREKV_HD void add(std::int32_t first, std::int32_t last, bool full) {
    if (last < first) return;
    if (first_ <= last_ && first == last_ + 1 && full == full_) {
      last_ = last;
      return;
    }
    flush();
    first_ = first;
    last_ = last;
    full_ = full;
  }
  PUREKV_CALLS PUREKV_HD void flush() {
    if (first_ <= last_) emit_(first_, last_, full_);
    last_ = first_ - 1;
  }

 private:
  F const& emit_;
  std::int32_t first_ = 0, last_ = -1;
  bool full_ = false;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
