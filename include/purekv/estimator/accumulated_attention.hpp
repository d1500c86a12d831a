// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(head, t) = sum_i A(i, t): the attention probability that token t got from all queries, per query head. A
/// column sum favours old tokens, which more queries could see. H2O, arXiv 2306.14048.
struct accumulated_attention {
  static constexpr score_rows rows = score_rows::heads;
  static constexpr std::int32_t mass_queries = all_queries;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t, std::int32_t t) {
      out.row(row)[t] = in.mass[row * in.mass_stride + t];
    });
    team.sync();
  }
};

static_assert(Estimator<accumulated_attention>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
