// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {

/// Bytes that `plan` wants; reads shapes and positions, no keys. SIZE_MAX when they overflow, 0 for arguments that
/// `plan` refuses.
template <Pattern P, class TQ, Cache C>
std::size_t plan_workspace(P const& pattern, query_view<TQ> const& q, C const& cache) {
  if (!detail::check_plan_input(pattern, q, cache).ok()) return 0;
  detail::carve memory;
  detail::take_plan(memory, pattern, q, cache, detail::needs_plan_per_head(pattern, cache));
  return memory.bytes();
}

/// Which keys each tile of queries needs: what attention with this pattern computes, and nothing else is read of q and
/// the cache than their positions. One plan serves all layers whose queries and cached positions are the same. All KV
/// heads share it if they hold the same positions and the pattern is the same for all heads.
/// `out` lies in `memory`, which must outlive it. Patterns without `runs` are looked at pair by pair.
template <Pattern P, class TQ, Cache C>
status plan(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, workspace const& memory,
            tile_plan& out) {
  if (status const s = detail::check_plan_input(pattern, q, cache); !s.ok()) return s;
  detail::carve carved(memory);
  auto const taken = detail::take_plan(carved, pattern, q, cache, detail::needs_plan_per_head(pattern, cache));
  if (!carved.fits())
    return {errc::workspace_too_small, "plan: workspace smaller than plan_workspace(), or not aligned to 64 bytes"};
  tile_plan const made = detail::make_plan(exec, pattern, q, cache, taken);
  out = made;
  return {};
}

/// (query head, key) pairs that attention with this plan of `pattern` computes. Partly visible runs count whole.
template <Pattern P, class TQ, Cache C>
double planned_pairs(P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache) {
  double pairs = 0;
  std::int32_t const group = q.rows.heads / cache.kv_heads;
  for (std::int32_t h = 0; h < cache.kv_heads; ++h)
    for (std::int32_t t = 0; t < plan.tiles_per_head; ++t) {
      query_tile const& tile = plan.tile(h, t);
      for (std::int32_t i = 0; i < tile.count; ++i) {
        std::int32_t const seen = detail::tokens_until(
            cache, tile.sequence, h, detail::last_visible(pattern, q.batch.positions[tile.first + i]));
        for (std::int32_t r = 0; r < tile.runs; ++r) {
          key_run const& run = plan.runs[tile.runs_begin + r];
          std::int32_t const keys = detail::smaller(seen - run.begin, run.count);
          if (keys > 0) pairs += static_cast<double>(keys) * group;
        }
      }
    }
  return pairs;
}

/// (query head, key) pairs that causality alone allows: what a dense pattern computes.
template <class TQ, Cache C> double causal_pairs(query_view<TQ> const& q, C const& cache) {
  double pairs = 0;
  std::int32_t const group = q.rows.heads / cache.kv_heads;
  for (std::int32_t h = 0; h < cache.kv_heads; ++h)
    for (std::int32_t s = 0; s < q.batch.sequences; ++s)
      for (std::int32_t i = q.begin(s); i < q.end(s); ++i)
        pairs += static_cast<double>(detail::tokens_until(cache, s, h, q.batch.positions[i])) * group;
  return pairs;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
