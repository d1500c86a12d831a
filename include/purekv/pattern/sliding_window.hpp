// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/merged_runs.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// visible(q, k) = q - window < k: a query sees itself and the window - 1 positions before it.
struct sliding_window {
  std::int32_t window = 0;

  PUREKV_HD bool visible(std::int32_t, std::int32_t q, std::int32_t k) const { return q - window < k; }

  PUREKV_CALLS template <class F> PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const {
    std::int32_t const some = q_first - window + 1, all = q_last - window + 1;
    detail::merged_runs<F> out(emit);
    out.add(some > 0 ? some : 0, all - 1, false);
    out.add(all > 0 ? all : 0, q_last, true);
    out.flush();
  }

  PUREKV_HD status check(std::int32_t) const {
    if (window <= 0) return {errc::bad_policy, "sliding_window: the window must be at least 1"};
    return {};
  }
};

static_assert(Pattern<sliding_window>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
