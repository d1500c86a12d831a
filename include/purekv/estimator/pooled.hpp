// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1 {

enum class pooling : std::int32_t { average, maximum };

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// average: score(r, t) = 1 / width * sum of E(r, u) over t - following <= u <= t + width - 1 - following, absent
///          neighbours counting as 0
/// maximum: score(r, t) = largest of the same E(r, u); a NaN loses against every number
///
/// So a peak lends its score to the `following` tokens after it and the width - 1 - following before it; in the middle
/// unless said otherwise. Attention peaks on the words of a question, what answers them follows.
/// Neighbours are neighbours in the cache. A NaN spreads through an average; for scores that can be negative take the
/// maximum, because a 0 beyond the ends would be a good one. From SnapKV, arXiv 2404.14469, in the middle there.
template <class E, std::int32_t Width, pooling Kind = pooling::average, std::int32_t Following = Width / 2>
struct pooled : detail::wrapper<E> {
  static_assert(Width > 0 && Width % 2 == 1, "pooled: the width must be odd");
  static_assert(Following >= 0 && Following < Width, "pooled: no more tokens can follow a peak than the width holds");

  [[no_unique_address]] E estimator{};

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) {
    return detail::score_count(E::rows, shape) + E::scratch(shape);
  }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    std::int32_t const inner_rows = E::rows == score_rows::heads ? in.heads : in.kv_heads();
    score_out const inner{scratch, detail::longest_head(in)};
    estimator.score(team, in, inner, scratch + inner_rows * inner.stride);
    detail::for_each_score<E::rows>(team, in, [&](std::int32_t row, std::int32_t head, std::int32_t t) {
      constexpr std::int32_t ahead = Width - 1 - Following;
      std::int32_t const end = in.tokens(head);
      std::int32_t const first = t > Following ? t - Following : 0, last = end - t > ahead ? t + ahead : end - 1;
      float const* const from = inner.row(row);
      float result = from[first];
      for (std::int32_t u = first + 1; u <= last; ++u)
        result = Kind == pooling::average ? result + from[u] : detail::larger_score(result, from[u]);
      out.row(row)[t] = Kind == pooling::average ? result / static_cast<float>(Width) : result;
    });
    team.sync();
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
