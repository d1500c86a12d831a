// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/estimator.hpp>
#include <purekv/detail/lane_vectors.hpp>
#include <purekv/detail/pin_best.hpp>
#include <purekv/detail/top_k.hpp>
#include <purekv/primitive.hpp>

namespace purekv::inline v0_1 {

/// The output projection of a layer, y = W o for o : [heads * dim], dim that of the values, the heads' outputs one
/// after another. weight : [hidden, heads * dim], rows row_stride elements apart (a linear layer's weight in PyTorch
/// and in GGUF).
template <class T> struct output_projection {
  T const* weight = nullptr;
  std::int32_t hidden = 0, heads = 0, dim = 0;
  std::ptrdiff_t row_stride = 0;

  /// Row `row` of the columns of one query head: [dim].
  PUREKV_INLINE T const* row(std::int32_t head, std::int32_t row_index) const {
    return weight + row_index * row_stride + std::ptrdiff_t{head} * dim;
  }
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Two stages, so that what moves the layer's output is not lost among what is merely attended to:
///
///   score(h, t) = FLT_MAX                                      for the n best tokens by E(h, t)
///   score(h, t) = (E(h, t) + epsilon) * mean_g ||W_g v(h, t)||_1   for the others
///
/// with n = floor(share * B's keep), W_g the columns of query head g of the output projection, g the query heads that
/// share KV head h. budget : the same as the compressor's, or that of a head where heads share it. Pinned tokens count
/// among the n best if they are. A NaN in a value shows in the second stage only. E must score KV heads and not be
/// negative, and should not weight by values itself. Costs hidden * dim per (query head, token).
/// projection is the caller's memory, read by every call. CriticalKV, arXiv 2502.03805: share 1/2, epsilon 1e-4.
template <class E, class B, Element T = float> struct critical {
  static_assert(Estimator<E>,
                "critical: it wraps something that is not a purekv::Estimator (docs/concepts/estimator.md)");
  static_assert(Budget<B>, "critical: the second argument is not a purekv::Budget (docs/concepts/budget.md)");
  static_assert(E::rows == score_rows::kv_heads,
                "critical: the estimator scores query heads, but values belong to KV heads; wrap it in group_mean, "
                "group_max, head_mean or head_max");
  static_assert(!has_signed_scores<E>(),
                "critical: the scores of the estimator can be negative, and a larger value would lower them");
  static_assert(
      !requires { B::heads_share; } && !requires { B::varies_by_layer; },
      "critical: the first stage needs the budget of one head, the same in every layer");

  static constexpr score_rows rows = E::rows;
  static constexpr std::int32_t mass_queries = E::mass_queries;
  static constexpr purekv::mass_reduction mass_by = detail::mass_by<E>();
  static constexpr bool needs_equal_heads = detail::needs_equal_heads<E>();
  static constexpr bool needs_source = detail::needs_source<E>();

  [[no_unique_address]] E estimator{};
  [[no_unique_address]] B budget{};
  output_projection<T> projection{};
  std::int32_t share_numerator = 1, share_denominator = 2;
  float epsilon = 1e-4f;

  status check(layer_shape const& shape, std::int32_t) const {
    if (projection.weight == nullptr) return {errc::null_data, "critical: the output projection's weight is null"};
    if (projection.heads != shape.heads || projection.dim != shape.value_dim)
      return {errc::mismatch,
              "critical: the output projection differs from the layer in heads or in the dim of values"};
    if (projection.hidden <= 0 || projection.row_stride < std::int64_t{shape.heads} * shape.value_dim)
      return {errc::bad_shape, "critical: hidden must be positive, and rows of the projection must not overlap"};
    if (share_numerator < 0 || share_denominator <= 0 || share_numerator > share_denominator)
      return {errc::bad_policy, "critical: the share of the first stage must lie in [0, 1]"};
    if (!(epsilon >= 0 && epsilon - epsilon == 0))
      return {errc::bad_policy, "critical: epsilon is negative or not finite"};
    return budget.check();
  }

  PUREKV_HD static constexpr std::int64_t scratch(layer_shape shape) {
    return detail::score_count(score_rows::kv_heads, shape) + detail::pin_best_words(shape.kv_heads, shape.tokens) +
           E::scratch(shape);
  }

  template <Team G, Cache C>
  PUREKV_HD void score(G const& team, layer_input<C> const& in, score_out out, float* scratch) const {
    std::ptrdiff_t const longest = detail::longest_head(in);
    auto* const keys = reinterpret_cast<std::uint32_t*>(scratch);  // a token of the first stage: pinned_key
    auto* const lent = keys + in.kv_heads() * longest;
    estimator.score(team, in, out, scratch + in.kv_heads() * longest + detail::pin_best_words(in.kv_heads(), longest));
    detail::for_each_score<rows>(team, in, [&](std::int32_t row, std::int32_t h, std::int32_t t) {
      keys[h * longest + t] = detail::rank_key(out.row(row)[t]);
    });
    team.sync();
    detail::pin_best(
        team, keys, longest, in.kv_heads(), [&](std::int32_t h) { return in.tokens(h); },
        [&](std::int32_t h) { return first_stage(in.tokens(h)); }, lent);

    each_tile(team, in, [&](std::int32_t h, std::int32_t first, std::int32_t end) {
      std::uint32_t const* const key = keys + h * longest;
      std::int32_t token[tile<G>], count = 0;
      for (std::int32_t t = first; t < end; ++t) {
        if (key[t] == detail::pinned_key)
          out.row(h)[t] = detail::largest_score;
        else
          token[count++] = t;
      }
      if (count > 0) second_stage<tile<G>>(in, h, token, count, out.row(h));
    });
    team.sync();
  }

 private:
  /// Tokens that share a pass over the projection. The ranks of a GPU share it anyway, through its caches.
  template <Team G> static constexpr std::int32_t tile = is_interleaved<G>() ? 1 : detail::lane_vectors;

  /// Calls f(kv_head, first, end) for this rank's share of the tiles of all heads.
  PUREKV_CALLS template <Team G, Cache C, class F>
  PUREKV_HD static void each_tile(G const& team, layer_input<C> const& in, F const& f) {
    if constexpr (is_interleaved<G>()) {
      detail::for_each_score<rows>(team, in, [&](std::int32_t, std::int32_t h, std::int32_t t) { f(h, t, t + 1); });
    } else {
      for (std::int32_t h = 0; h < in.kv_heads(); ++h)
        for_share(team, (in.tokens(h) + tile<G> - 1) / tile<G>, [&](std::int32_t i) {
          std::int32_t const first = i * tile<G>;
          f(h, first, in.tokens(h) - first < tile<G> ? in.tokens(h) : first + tile<G>);
        });
    }
  }

  /// How many of a head's tokens the first stage takes.
  PUREKV_HD std::int64_t first_stage(std::int32_t tokens) const {
    if (tokens == 0) return 0;
    std::int32_t const keep = budget.keep(budget_input{tokens});
    return std::int64_t{keep < tokens ? keep : tokens} * share_numerator / share_denominator;
  }

  PUREKV_CALLS template <std::int32_t Tile, Cache C>
  PUREKV_HD void second_stage(layer_input<C> const& in, std::int32_t h, std::int32_t const* token, std::int32_t count,
                              float* scores) const {
    double sum[Tile] = {};
    for (std::int32_t g = h * in.group(); g < (h + 1) * in.group(); ++g) {
      if constexpr (Tile > 1)
        if (in.value_dim() <= detail::lane_dims) {
          detail::add_projected_norms(
              count, in.value_dim(), [&](std::int32_t i) { return in.value(h, token[i]); }, projection.hidden,
              [&](std::int32_t r) { return projection.row(g, r); }, sum);
          continue;
        }
      for (std::int32_t r = 0; r < projection.hidden; ++r)
        for (std::int32_t i = 0; i < count; ++i)
          sum[i] +=
              static_cast<double>(__builtin_fabsf(dot(projection.row(g, r), in.value(h, token[i]), in.value_dim())));
    }
    for (std::int32_t i = 0; i < count; ++i)
      scores[token[i]] = (scores[token[i]] + epsilon) * static_cast<float>(sum[i] / in.group());
  }
};

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
