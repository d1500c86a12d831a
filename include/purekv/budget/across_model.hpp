// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// All layers and KV heads of a model share the sum of B's keeps: it goes to the largest scores over all of them, after
/// each head has got its floor(keep) = floor(keep * numerator / denominator) best. Without a floor, as here, a head may
/// keep nothing but what is pinned. Scores must be comparable between layers. For `select` over a model
/// (select_model.hpp) only. KVzip, arXiv 2505.23416.
template <class B> struct across_model {
  static_assert(Budget<B>, "across_model: it wraps something that is not a purekv::Budget (docs/concepts/budget.md)");
  static constexpr bool heads_share = true, layers_share = true;

  [[no_unique_address]] B budget{};
  std::int32_t floor_numerator = 0, floor_denominator = 1;

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const { return budget.keep(in); }
  PUREKV_HD constexpr std::int32_t floor(std::int32_t keep) const {
    return static_cast<std::int32_t>(std::int64_t{keep} * floor_numerator / floor_denominator);
  }

  PUREKV_HD constexpr status check() const {
    if (floor_numerator < 0 || floor_denominator <= 0 || floor_numerator > floor_denominator)
      return {errc::bad_policy, "across_model: the floor must lie in [0, 1]"};
    return budget.check();
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
