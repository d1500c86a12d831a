// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/primitive.hpp>

namespace purekv::inline v0_1 {

/// How the layers of a source band become one score.
enum class combine : std::int32_t {
  maximum,  // the largest that any layer says
  mean,     // the mean, each layer normalised first
};

/// What a source's score is multiplied by in the layer that is scored.
enum class weigh_by : std::int32_t {
  value_norm,  // L2
  nothing,     // to see what the norm is worth
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// CLIE, cross-layer importance estimation (PureKV, arXiv 2510.25600):
///
///   score(h, t) = source(h, t) * ||v(h, t)||_2
///
/// source: E evaluated at another layer, or at a band of layers combined by How; v: the values of the layer that is
/// scored. Needs neither queries, keys nor attention of this layer, so it can evict before it attends. Tokens are
/// matched by position; what the source has not seen scores 0. A NaN in a value makes the score NaN, which ranks last.
/// The paper takes the accumulated attention of a lower layer for E; any non-negative estimator will do.
template <class E, combine How = combine::maximum, weigh_by Weight = weigh_by::value_norm> struct cross_layer {
  static_assert(Estimator<E>, "cross_layer: the source is not a purekv::Estimator (docs/concepts/estimator.md)");
  static_assert(E::rows == score_rows::kv_heads,
                "cross_layer: the source scores query heads, but values belong to KV heads; wrap it in group_mean, "
                "group_max, head_mean or head_max");
  static_assert(!has_signed_scores<E>(),
                "cross_layer: the scores of the source can be negative, and a larger value would lower them");
  static_assert(!detail::needs_source<E>(), "cross_layer: a source cannot have a source itself");

  using source_estimator = E;
  static constexpr combine combination = How;
  static constexpr score_rows rows = score_rows::kv_heads;
  static constexpr std::int32_t mass_queries = 0;
  static constexpr bool needs_source = true;

  [[no_unique_address]] E source{};  // read where the source is scored, by a pipeline

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape) { return 0; }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float*) const {
    detail::for_each_score<rows>(team, in, [&](std::int32_t, std::int32_t h, std::int32_t t) {
      std::int32_t const at = find(in, in.position(h, t), t);
      float const weight = Weight == weigh_by::value_norm ? norm(in.value(h, t), in.value_dim()) : 1.0f;
      out.row(h)[t] = at < 0 ? 0.0f : in.source[h * in.source_stride + at] * weight;
    });
    team.sync();
  }

 private:
  /// Where the source has `position`, or -1. `guess` is right while nothing has been evicted.
  template <Cache C>
  PUREKV_HD static std::int32_t find(layer_input<C> const& in, std::int32_t position, std::int32_t guess) {
    if (guess < in.source_tokens && in.source_positions[guess] == position) return guess;
    std::int32_t low = 0, high = in.source_tokens;
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (in.source_positions[middle] < position)
        low = middle + 1;
      else
        high = middle;
    }
    return low < in.source_tokens && in.source_positions[low] == position ? low : -1;
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
