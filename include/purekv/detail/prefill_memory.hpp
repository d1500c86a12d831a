// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/attend.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/chunk_mass.hpp>
#include <purekv/detail/one_set.hpp>
#include <purekv/score.hpp>
#include <purekv/select.hpp>
#include <purekv/source.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What a prefill call works in, beside the operations' own workspaces.
struct prefill_memory {
  float* lse = nullptr;         // [heads, queries]
  float* scores = nullptr;      // [sequences, kv_heads, longest]
  float* own_source = nullptr;  // the same, for a cross_layer that is its own source
  float* mass = nullptr;        // [heads, longest], what a chunk adds to the mass
  selection kept;
  workspace rest;  // lent to one operation after the other
  bool fits = false;
  std::size_t bytes = 0;  // of all

  /// seen: the pattern, its plan if there is one, and the queries, whose tokens are in `cache` already, and the mass if
  /// it is put together chunk by chunk: then range(s) says which queries of sequence s count.
  template <class Compressor, Pattern P, class TQ, Cache C, class Range>
  static prefill_memory take(cpu exec, Compressor const& c, evidence<P, TQ> const& seen, C const& cache, bool collects,
                             Range const& range, carve memory) {
    constexpr bool cross_layer = CrossLayerEstimator<typename Compressor::estimator_type>;
    std::int32_t longest = 0;
    std::int64_t tokens = 0;
    for (std::int32_t s = 0; s < cache.sequences; ++s) {
      longest = cache.length(s, 0) > longest ? cache.length(s, 0) : longest;
      tokens += std::int64_t{cache.kv_heads} * cache.length(s, 0);
    }
    std::int64_t const rows = std::int64_t{cache.sequences} * cache.kv_heads, heads = seen.q.rows.heads;
    std::int64_t const queries = seen.q.rows.tokens;
    prefill_memory m;
    m.lse = memory.take<float>(heads * queries);
    m.scores = memory.take<float>(rows * longest);
    m.own_source = memory.take<float>(cross_layer ? rows * longest : 0);
    m.mass = memory.take<float>(collects ? heads * longest : 0);
    m.kept = {.offset = memory.take<std::int64_t>(rows + 1),
              .token = memory.take<std::int32_t>(tokens),
              .capacity = tokens,
              .rows = selection_rows<Compressor>(cache),
              .scope = Compressor::scope};

    attend_taps const taps{.lse = m.lse, .lse_stride = queries};
    std::size_t most = seen.plan != nullptr ? attend_workspace(exec, *seen.plan, seen.q, cache, taps)
                                            : attend_workspace(exec, seen.pattern, seen.q, cache, taps);
    auto const cover = [&](std::size_t wanted) { most = wanted > most ? wanted : most; };
    for (std::int32_t s = 0; collects && s < cache.sequences; ++s)
      cover(chunk_mass_workspace(exec, seen, cache, s, range(s)));
    cover(score_workspace(exec, c.estimator, seen, cache));
    if constexpr (cross_layer) {
      cover(score_workspace(exec, c.estimator.source, seen, cache));
      cover(accumulate_source_workspace(exec, c.estimator, cache));
    }
    cover(select_workspace(exec, c, cache));
    cover(select_workspace(exec, one_set(c), cache));
    m.rest = {memory.take<std::byte>(static_cast<std::int64_t>(most)), most};
    m.fits = memory.fits();
    m.bytes = memory.bytes();
    return m;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
