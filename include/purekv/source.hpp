// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/estimator.hpp>
#include <purekv/estimator/cross_layer.hpp>

namespace purekv::inline v0_1 {

/// What a source layer or band said of the tokens it held: scores [sequences, kv_heads, tokens]; token i of sequence s
/// has position positions[s * positions_stride + i], ascending; sequence s has tokens[s] of them.
struct source_view {
  score_view scores;
  std::int32_t const* positions = nullptr;
  std::ptrdiff_t positions_stride = 0;
  std::int32_t const* tokens = nullptr;  // [sequences]
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <Cache C> status check_accumulate_view(score_view const& scores, C const& cache, source_view const& source) {
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (status const s = check_scores_view(scores, cache, cache.kv_heads); !s.ok()) return s;
  if (source.scores.data == nullptr || source.positions == nullptr || source.tokens == nullptr)
    return {errc::null_data, "accumulate_source: the source's scores, positions or tokens are null"};
  return check_scores_view(source.scores, cache, cache.kv_heads);
}

template <class P, Cache C>
status check_accumulate(P const& protect, score_view const& scores, C const& cache, source_view const& source) {
  if (status const s = check_accumulate_view(scores, cache, source); !s.ok()) return s;
  if (status const s = cache.check(); !s.ok()) return s;
  if (status const s = check_scores(scores, cache, cache.kv_heads); !s.ok()) return s;
  if (status const s = check_scores(source.scores, cache, cache.kv_heads); !s.ok()) return s;
  for (std::int32_t s = 0; s < cache.sequences; ++s) {
    std::int32_t const* const positions = source.positions + s * source.positions_stride;
    for (std::int32_t h = 0; h < cache.kv_heads; ++h) {
      bool same = cache.length(s, h) == source.tokens[s];
      for (std::int32_t t = 0; same && t < source.tokens[s]; ++t) same = *cache.run(s, h, t).positions == positions[t];
      if (!same)
        return {errc::mismatch, "accumulate_source: a layer of the band does not hold the tokens of the source"};
    }
    if (source.tokens[s] > 0)
      if (status const r = protect.check(positions[source.tokens[s] - 1]); !r.ok()) return r;
  }
  return {};
}

/// Sums of scores have a fixed order, so that every executor finds the same: score t goes to lane t % free_lanes, and
/// lanes are added in halves.
inline constexpr std::int32_t free_lanes = 128;

/// A score as it counts there: 0 if its token is pinned, or if it is NaN or inf.
template <class P>
PUREKV_HD double free_score(P const& protect, float score, std::int32_t position, std::int32_t last) {
  return score - score == 0 && !protect.pinned(position, last) ? static_cast<double>(score) : 0.0;
}

/// Sum of the free scores of a row.
template <class P>
double free_sum(P const& protect, float const* scores, std::int32_t const* positions, std::int32_t tokens) {
  double sum[free_lanes] = {};
  for (std::int32_t t = 0; t < tokens; ++t)
    sum[t % free_lanes] += free_score(protect, scores[t], positions[t], positions[tokens - 1]);
  for (std::int32_t half = free_lanes / 2; half > 0; half /= 2)
    for (std::int32_t i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

/// What the scores of a sequence are multiplied by: 1 / c. sums : [kv_heads], of the free scores.
PUREKV_HD inline double source_factor(double const* sums, std::int32_t kv_heads) {
  double sum = 0;
  for (std::int32_t h = 0; h < kv_heads; ++h) sum += sums[h];
  return sum > 0 ? kv_heads / sum : 0.0;
}

/// One score of the source with that of another layer folded in.
template <combine How> PUREKV_HD float fold_score(float source, float score, bool first, double factor) {
  if constexpr (How == combine::mean)
    return (first ? 0.0f : source) + (score == score ? static_cast<float>(score * factor) : 0.0f);
  else
    return first ? score : larger_score(source, score);
}

template <combine How, Team G>
PUREKV_HD void fold_row(G const& team, float* to, float const* from, std::int32_t tokens, bool first, double factor) {
  for_share(team, tokens,
            [&](std::int32_t t) { to[t] = fold_score<How>(first ? 0.0f : to[t], from[t], first, factor); });
}

}  // namespace detail

/// Bytes that `accumulate_source` wants.
template <CrossLayerEstimator E, Cache C> std::size_t accumulate_source_workspace(cpu, E const&, C const& cache) {
  if (cache.sequences <= 0 || cache.kv_heads <= 0) return 0;
  detail::carve memory;
  memory.take<double>(E::combination == combine::mean ? std::int64_t{cache.sequences} * cache.kv_heads : 0);
  return memory.bytes();
}

/// Folds one layer's scores into those of its band.
///
///   maximum: source(h, t) = max(source(h, t), scores(h, t)); a NaN loses against every number
///   mean:    source(h, t) = source(h, t) + scores(h, t) / c, with c the mean over the KV heads of the sum of their
///            scores over the tokens that are not pinned; a NaN counts as 0
///
/// The mean is kept as a sum, its divisor being the same for all tokens. first: what the source held counts for
/// nothing. scores : [sequences, kv_heads, tokens], what the wrapped estimator said of `cache`. The layers of a band
/// must hold the same tokens, and source.positions and source.tokens must already say which.
template <CrossLayerEstimator E, Protect P, Cache C>
status accumulate_source(cpu exec, E const&, P const& protect, score_view const& scores, C const& cache, bool first,
                         source_view const& source, workspace const& work) {
  if (status const s = detail::check_accumulate(protect, scores, cache, source); !s.ok()) return s;
  detail::carve carved(work);
  constexpr bool mean = E::combination == combine::mean;
  double* const sums = carved.take<double>(mean ? std::int64_t{cache.sequences} * cache.kv_heads : 0);
  if (!carved.fits())
    return {errc::workspace_too_small,
            "accumulate_source: workspace smaller than accumulate_source_workspace(), or not aligned to 64 bytes"};

  if (mean)
    for (std::int32_t r = exec.rank(); r < cache.sequences * cache.kv_heads; r += exec.size()) {
      std::int32_t const s = r / cache.kv_heads;
      sums[r] = detail::free_sum(protect, scores.row(s, r % cache.kv_heads),
                                 source.positions + s * source.positions_stride, source.tokens[s]);
    }
  exec.sync();
  for (std::int32_t s = 0; s < cache.sequences; ++s) {
    double const factor = mean ? detail::source_factor(sums + std::ptrdiff_t{s} * cache.kv_heads, cache.kv_heads) : 0;
    for (std::int32_t h = 0; h < cache.kv_heads; ++h)
      detail::fold_row<E::combination>(exec, source.scores.row(s, h), scores.row(s, h), source.tokens[s], first,
                                       factor);
  }
  exec.sync();
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
