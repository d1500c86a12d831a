// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/primitive.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// score(r, t) = E(r, t) * ||v(h, t)||_2 with the value of the row's KV head h: what a token can contribute to the
/// output. A NaN in a value makes the score NaN, which ranks last. VATP, arXiv 2406.12335, with the L2 norm.
template <class E> struct value_weighted : detail::wrapper<E> {
  static_assert(!has_signed_scores<E>(),
                "value_weighted: the scores of the estimator can be negative, and a larger value would lower them");

  [[no_unique_address]] E estimator{};

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) { return E::scratch(shape); }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    estimator.score(team, in, out, scratch);
    std::int32_t const per_kv_head = E::rows == score_rows::heads ? in.group() : 1;
    detail::for_each_score<score_rows::kv_heads>(team, in, [&](std::int32_t, std::int32_t h, std::int32_t t) {
      float const size = norm(in.value(h, t), in.value_dim());
      for (std::int32_t r = h * per_kv_head; r < (h + 1) * per_kv_head; ++r) out.row(r)[t] *= size;
    });
    team.sync();
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
