// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = max_i A(i, t): the largest attention probability that any query gives token t, per query head.
/// For queries i that repeat the context it says how much the context's words need t to be told again, whatever will be
/// asked. Score the context's tokens only, with the repeated queries and their lse as evidence, and fold the chunks of
/// a repetition by maximum: see reconstruct.hpp. Scores are probabilities, so they compare between layers and heads;
/// one budget for the whole model (across_model) is what makes them work. KVzip, arXiv 2505.23416.
struct reconstruction {
  static constexpr score_rows rows = score_rows::heads;
  static constexpr std::int32_t mass_queries = all_queries;
  static constexpr mass_reduction mass_by = mass_reduction::maximum;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t, std::int32_t t) {
      out.row(row)[t] = in.mass[row * in.mass_stride + t];
    });
    team.sync();
  }
};

static_assert(Estimator<reconstruction>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
