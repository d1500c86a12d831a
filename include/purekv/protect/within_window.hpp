// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/compressor.hpp>

#include <purekv/protect/none.hpp>

#include <limits>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// For a layer with a sliding window, whose later queries see nothing older:
///   evicted = position <= last - window, whatever the score, the budget and P say
///   pinned  = P pins it
/// One token more than the next query sees, so that the newest may be taken back and asked again.
template <Protect P = none> struct within_window {
  static constexpr std::int32_t unlimited = std::numeric_limits<std::int32_t>::max();
  std::int32_t window = unlimited;
  [[no_unique_address]] P protect{};

  PUREKV_HD constexpr bool evicted(std::int32_t position, std::int32_t last) const { return last - position >= window; }
  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t last) const {
    return protect.pinned(position, last);
  }
  PUREKV_HD constexpr status check(std::int32_t last) const {
    if (window <= 0) return {errc::bad_policy, "within_window: the window must be at least 1"};
    return protect.check(last);
  }
};

static_assert(EvictingProtect<within_window<>>);

/// The same compressor for a layer with a sliding window of so many tokens.
template <class E, class B, class P, selection_scope Scope>
constexpr compressor<E, B, within_window<P>, Scope> windowed(compressor<E, B, P, Scope> const& c, std::int32_t window) {
  return {c.estimator, c.budget, {window, c.protect}};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
