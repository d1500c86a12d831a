// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/primitive.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(h, t) = -||k(h, t)||_2: tokens with short keys tend to draw attention. Never positive, so it cannot be
/// weighted by values. A NaN in a key makes the score NaN, which ranks last. arXiv 2406.11430.
struct key_norm {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr bool signed_scores = true;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t h, std::int32_t t) {
      out.row(row)[t] = -norm(in.key(h, t), in.dim());
    });
    team.sync();
  }
};

static_assert(Estimator<key_norm>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
