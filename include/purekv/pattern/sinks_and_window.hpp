// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/merged_runs.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// visible(q, k) = k < sinks or q - window < k: the first positions, which soak up attention that has nowhere else to
/// go, and the last ones. StreamingLLM, arXiv 2309.17453.
struct sinks_and_window {
  std::int32_t sinks = 4;
  std::int32_t window = 0;

  PUREKV_HD bool visible(std::int32_t, std::int32_t q, std::int32_t k) const { return k < sinks || q - window < k; }

  PUREKV_CALLS template <class F> PUREKV_HD void runs(std::int32_t q_first, std::int32_t q_last, F const& emit) const {
    std::int32_t const some = q_first - window + 1, all = q_last - window + 1;
    detail::merged_runs<F> out(emit);
    out.add(0, sinks <= q_last ? sinks - 1 : q_last, true);
    out.add(some > sinks ? some : sinks, all - 1, false);
    out.add(all > sinks ? all : sinks, q_last, true);
    out.flush();
  }

  PUREKV_HD status check(std::int32_t) const {
    if (sinks < 0) return {errc::bad_policy, "sinks_and_window: the number of sinks is negative"};
    if (window <= 0) return {errc::bad_policy, "sinks_and_window: the window must be at least 1"};
    return {};
  }
};

static_assert(Pattern<sinks_and_window>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
