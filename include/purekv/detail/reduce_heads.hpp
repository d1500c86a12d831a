// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

struct take_mean {
  PUREKV_HD static float fold(float a, float b) { return a + b; }
  PUREKV_HD static float finish(float sum, std::int32_t rows) { return sum / static_cast<float>(rows); }
};

struct take_max {
  PUREKV_HD static float fold(float a, float b) { return larger_score(a, b); }
  PUREKV_HD static float finish(float most, std::int32_t) { return most; }
};

/// to[t] = the reduction of rows [first, first + count) of `from`, for this rank's share of the tokens. Row after row,
/// so that memory is read in order.
template <class Take, Team G>
PUREKV_HD void reduce_rows(G const& team, score_out from, std::int32_t first, std::int32_t count, std::int32_t tokens,
                           float* to) {
  for (std::int32_t r = 0; r < count; ++r) {
    float const* const row = from.row(first + r);
    for_share(team, tokens, [&](std::int32_t t) { to[t] = r == 0 ? row[t] : Take::fold(to[t], row[t]); });
  }
  for_share(team, tokens, [&](std::int32_t t) { to[t] = Take::finish(to[t], count); });
}

/// One score per KV head: that of the query heads which share it.
template <class E, class Take> struct over_group : wrapper<E> {
  static_assert(E::rows == score_rows::heads,
                "group_mean, group_max: the estimator has no query heads to reduce, it scores KV heads already");
  static constexpr score_rows rows = score_rows::kv_heads;

  [[no_unique_address]] E estimator{};

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) {
    return score_count(E::rows, shape) + E::scratch(shape);
  }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    score_out const inner{scratch, longest_head(in)};
    estimator.score(team, in, inner, scratch + in.heads * inner.stride);
    for (std::int32_t h = 0; h < in.kv_heads(); ++h)
      reduce_rows<Take>(team, inner, h * in.group(), in.group(), in.tokens(h), out.row(h));
    team.sync();
  }
};

/// One score for all KV heads: that of all rows of the layer. They must hold the same tokens.
template <class E, class Take> struct over_heads : wrapper<E> {
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr bool needs_equal_heads = true;

  [[no_unique_address]] E estimator{};

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) {
    return score_count(E::rows, shape) + E::scratch(shape);
  }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    std::int32_t const tokens = in.tokens(0), inner_rows = E::rows == score_rows::heads ? in.heads : in.kv_heads();
    score_out const inner{scratch, tokens};
    estimator.score(team, in, inner, scratch + inner_rows * inner.stride);
    reduce_rows<Take>(team, inner, 0, inner_rows, tokens, out.row(0));
    for (std::int32_t h = 1; h < in.kv_heads(); ++h)
      for_share(team, tokens, [&](std::int32_t t) { out.row(h)[t] = out.row(0)[t]; });
    team.sync();
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
