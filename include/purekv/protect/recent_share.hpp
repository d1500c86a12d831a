// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// pinned = position > last - floor((last + 1) * numerator / denominator): the newest share of all positions so far.
/// 0 <= numerator / denominator <= 1. H2O, arXiv 2306.14048, gives half of its budget to it.
struct recent_share {
  std::int32_t numerator = 1, denominator = 10;

  PUREKV_HD constexpr bool pinned(std::int32_t position, std::int32_t last) const {
    return std::int64_t{last} - position < (std::int64_t{last} + 1) * numerator / denominator;
  }

  PUREKV_HD constexpr status check(std::int32_t) const {
    if (numerator < 0 || denominator <= 0 || numerator > denominator)
      return {errc::bad_policy, "recent_share: numerator / denominator must lie in [0, 1]"};
    return {};
  }
};

static_assert(Protect<recent_share>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
