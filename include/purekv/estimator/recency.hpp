// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(kv_head, t) = position of t: newer is better. Exact to 2^24; beyond, up to 2^7 neighbours tie.
/// StreamingLLM, arXiv 2309.17453, together with `sinks`.
struct recency {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t head, std::int32_t t) {
      out.row(row)[t] = static_cast<float>(in.position(head, t));
    });
    team.sync();
  }
};

static_assert(Estimator<recency>);

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
