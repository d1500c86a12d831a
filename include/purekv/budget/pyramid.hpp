// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Budgets that fall with depth and add up to what B would give all layers. With K = B's keep, T = cached tokens and
/// layers l = 0 .. L - 1:
///
///   low  = max(floor(K / steepness), least), but at most K; more where 2 K - low would exceed T
///   high = 2 K - low
///   keep = high - l * (high - low) / (L - 1), rounded to nearest; the upper half of the stack gets what is missing to
///          2 K per pair of opposite layers, so that the total is L * K exactly
///
/// PyramidKV, arXiv 2406.02069, whose steepness is 20. least: the tokens that are pinned in every layer; where fewer
/// are kept, pins exceed the budget and the total. Where that binds, kvpress falls back to equal budgets; here the
/// pyramid becomes flatter.
template <class B> struct pyramid {
  static_assert(Budget<B>, "pyramid: it wraps something that is not a purekv::Budget (docs/concepts/budget.md)");
  static_assert(
      !requires { B::heads_share; }, "pyramid: the heads share what the layer gets: across_heads<pyramid<B>>");
  static_assert(
      !requires { B::varies_by_layer; }, "pyramid: the wrapped budget must be the same in every layer");
  static constexpr bool varies_by_layer = true;

  [[no_unique_address]] B budget{};
  std::int32_t steepness = 20, least = 1;

  PUREKV_HD constexpr std::int32_t keep(budget_input in) const {
    std::int64_t const mean = budget.keep(in), steps = in.layers - 1;
    if (mean >= in.tokens || steps <= 0) return static_cast<std::int32_t>(mean);
    std::int64_t low = mean / steepness > least ? mean / steepness : least;
    low = low < mean ? low : mean;
    low = 2 * mean - low > in.tokens ? 2 * mean - in.tokens : low;
    bool const upper_half = in.layer > steps - in.layer;
    std::int64_t const from_end = upper_half ? steps - in.layer : in.layer, high = 2 * mean - low;
    std::int64_t const lost = (2 * from_end * (high - low) + steps - 1) / (2 * steps);
    return static_cast<std::int32_t>(upper_half ? low + lost : high - lost);
  }

  PUREKV_HD constexpr status check() const {
    if (steepness < 1) return {errc::bad_policy, "pyramid: steepness must be at least 1"};
    if (least < 1) return {errc::bad_policy, "pyramid: least must be at least 1"};
    return budget.check();
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
