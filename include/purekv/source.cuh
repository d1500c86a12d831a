// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/positions.hpp>
#include <purekv/detail/token_bound.cuh>
#include <purekv/simt/barrier.hpp>
#include <purekv/simt/shared.hpp>
#include <purekv/source.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// sums[row] of the free scores of a layer: a block per row, a thread per lane.
template <Protect P> struct sum_free_scores {
  static constexpr std::int32_t threads = free_lanes;
  static constexpr std::size_t shared_bytes = threads * sizeof(double);
  P protect;
  score_view scores;
  source_view source;
  std::int32_t tokens;
  double* sums;  // [sequences, kv_heads]

  PUREKV_DEVICE void operator()() const {
    std::int32_t const row = simt::block_index().x, s = row / scores.rows, lane = simt::thread_index();
    auto const sum = simt::shared_memory<double>();
    float const* const from = scores.row(s, row % scores.rows);
    std::int32_t const* const positions = source.positions + s * source.positions_stride;
    std::int32_t const count = smaller(source.tokens[s], tokens);
    double own = 0;
    for (std::int64_t t = lane; t < count; t += threads)
      own += free_score(protect, from[t], positions[t], positions[count - 1]);
    for (std::int32_t half = threads / 2; half > 0; half /= 2) {
      if (lane < 2 * half) sum.store(lane, own);
      simt::sync();
      if (lane < half) own += sum.load(lane + half);
      simt::sync();
    }
    if (lane == 0) sums[row] = own;
  }
};

/// Block (x, y) has `threads` tokens of row x, and every one `at_once` further on.
template <combine How> struct fold_scores {
  static constexpr std::int32_t threads = 256, most_blocks = 64, at_once = threads * most_blocks;  // of a row
  score_view scores;
  source_view source;
  std::int32_t tokens;
  double const* sums;
  bool first;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const row = simt::block_index().x, s = row / scores.rows, h = row % scores.rows;
    std::int32_t const count = smaller(source.tokens[s], tokens);
    double const factor =
        How == combine::mean ? source_factor(sums + std::ptrdiff_t{s} * scores.rows, scores.rows) : 0.0;
    float const* const from = scores.row(s, h);
    float* const to = source.scores.row(s, h);
    for (std::int64_t t = simt::block_index().y * threads + simt::thread_index(); t < count; t += at_once)
      to[t] = fold_score<How>(first ? 0.0f : to[t], from[t], first, factor);
  }
};

template <Cache C>
status check_accumulate(gpu const& exec, score_view const& scores, C const& cache, source_view const& source) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (status const s = check_accumulate_view(scores, cache, source); !s.ok()) return s;
  return check_reachable(exec, scores.data, source.scores.data, source.positions, source.tokens);
}

}  // namespace detail

/// As on the CPU.
template <CrossLayerEstimator E, Cache C>
std::size_t accumulate_source_workspace(gpu const&, E const& estimator, C const& cache) {
  return accumulate_source_workspace(cpu{}, estimator, cache);
}

/// As on the CPU, to the bit. Preconditions: the layer holds the tokens of the source, no more than its scores have
/// room for, and `protect` is defined for them.
template <CrossLayerEstimator E, Protect P, Cache C>
status accumulate_source(gpu const& exec, E const&, P const& protect, score_view const& scores, C const& cache,
                         bool first, source_view const& source, workspace const& work) {
  if (status const s = detail::check_accumulate(exec, scores, cache, source); !s.ok()) return s;
  detail::carve carved(work);
  constexpr bool mean = E::combination == combine::mean;
  std::int32_t const rows = cache.sequences * cache.kv_heads;
  double* const sums = carved.take<double>(mean ? std::int64_t{rows} : 0);
  if (!carved.fits())
    return {errc::workspace_too_small,
            "accumulate_source: workspace smaller than accumulate_source_workspace(), or not aligned to 64 bytes"};
  if (status const s = detail::check_reachable(exec, work.data); !s.ok()) return s;

  std::int32_t const tokens = detail::token_bound(cache, detail::smaller(scores.tokens, source.scores.tokens));
  if (tokens == 0) return {};
  if constexpr (mean) {
    using sum = detail::sum_free_scores<P>;
    status const s =
        simt::launch({.x = rows}, sum::shared_bytes, exec.stream, sum{protect, scores, source, tokens, sums});
    if (!s.ok()) return s;
  }
  using fold = detail::fold_scores<E::combination>;
  simt::grid const blocks = {.x = rows, .y = detail::smaller((tokens - 1) / fold::threads + 1, fold::most_blocks)};
  return simt::launch(blocks, 0, exec.stream, fold{scores, source, tokens, sums, first});
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
