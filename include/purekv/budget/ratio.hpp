// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// keep = floor(tokens * numerator / denominator), at least 1, in integers. 0 < numerator / denominator <= 1.
struct ratio {
  std::int32_t numerator = 1, denominator = 1;

  /// The budget of a cache `times` smaller.
  PUREKV_HD static constexpr ratio compression(std::int32_t times) { return {1, times}; }

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const {
    std::int64_t const share = std::int64_t{in.tokens} * numerator / denominator;
    return share > 0 || in.tokens == 0 ? static_cast<std::int32_t>(share) : 1;
  }

  PUREKV_HD constexpr status check() const {
    if (numerator <= 0 || numerator > denominator)
      return {errc::bad_policy, "ratio: numerator / denominator must lie in (0, 1]"};
    return {};
  }
};

static_assert(Budget<ratio>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
