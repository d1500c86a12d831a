// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// The heads of a layer share the sum of B's keeps: it goes to the largest scores over all of them, after each head has
/// got its floor(keep) = floor(keep * numerator / denominator) best, at least 1. AdaKV, arXiv 2407.11550.
template <class B> struct across_heads {
  static_assert(Budget<B>, "across_heads: it wraps something that is not a purekv::Budget (docs/concepts/budget.md)");
  static constexpr bool heads_share = true;

  [[no_unique_address]] B budget{};
  std::int32_t floor_numerator = 1, floor_denominator = 5;

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const { return budget.keep(in); }
  PUREKV_HD constexpr std::int32_t floor(std::int32_t keep) const {
    std::int64_t const share = std::int64_t{keep} * floor_numerator / floor_denominator;
    return share > 0 || keep == 0 ? static_cast<std::int32_t>(share) : 1;
  }

  PUREKV_HD constexpr status check() const {
    if (floor_numerator < 0 || floor_denominator <= 0 || floor_numerator > floor_denominator)
      return {errc::bad_policy, "across_heads: the floor must lie in [0, 1]"};
    return budget.check();
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
