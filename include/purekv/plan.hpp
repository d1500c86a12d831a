// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/check.hpp>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/tile_plan.hpp>

#include <bit>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <class TQ, Cache C> status check_plan_view(tile_plan const& plan, query_view<TQ> const& q, C const& cache) {
  if (plan.sequences != cache.sequences || plan.heads != q.rows.heads || plan.kv_heads != cache.kv_heads ||
      plan.queries != q.rows.tokens)
    return {errc::mismatch, "tile_plan: it was made for other sequences, heads, kv_heads or queries"};
  return {};
}

/// Whether a plan can be one of these queries over this cache.
template <class TQ, Cache C> status check_plan(tile_plan const& plan, query_view<TQ> const& q, C const& cache) {
  if (status const s = check_plan_view(plan, q, cache); !s.ok()) return s;
  if (plan.order != nullptr) return {errc::mismatch, "tile_plan: one with an order of queries is for a GPU"};
  for (std::int32_t h = 0; h < cache.kv_heads; ++h)
    for (std::int32_t t = 0; t < plan.tiles_per_head; ++t) {
      query_tile const& tile = plan.tile(h, t);
      if (tile.runs == 0) continue;
      key_run const& last = plan.runs[tile.runs_begin + tile.runs - 1];
      if (last.begin + last.count > cache.length(tile.sequence, h))
        return {errc::mismatch, "tile_plan: it names tokens that the cache does not hold"};
    }
  return {};
}

}  // namespace detail

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

/// (query head, key) pairs that a kernel of this grain computes for a plan of `pattern`, what it throws away included:
///
///   sum over KV heads, tiles and blocks of grain.rows rows of grain.rows * (keys up to the last that its last row
///   sees, every full run of them, and all partly visible runs together, rounded up to grain.keys)
///   + if grain.scattered, for scattered runs instead: sum over queries of group * (keys that some of its heads sees)
///
/// As it stands, that of this library on the CPU, where a block with few rows computes less. With {1, 1}, what the plan
/// lists: every row as far as causality.
template <Pattern P, class TQ, Cache C>
double executed_pairs(P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
                      tile_grain const& grain = {detail::block_lanes, 1, true}) {
  double pairs = 0;
  std::int32_t const group = q.rows.heads / cache.kv_heads;
  auto const rounded = [&](std::int64_t keys) { return (keys + grain.keys - 1) / grain.keys * grain.keys; };
  for (std::int32_t h = 0; h < (plan.per_kv_head ? cache.kv_heads : 1); ++h)
    for (std::int32_t t = 0; t < plan.tiles_per_head; ++t) {
      query_tile const& tile = plan.tile(h, t);
      auto const apart = [&](key_run const& run) {
        return detail::masks_known<P>() && grain.scattered && run.scattered != 0;
      };
      for (std::int32_t r = 0; r < tile.runs; ++r) {
        key_run const& run = plan.runs[tile.runs_begin + r];
        if (!apart(run)) continue;
        std::int64_t keys = 0;
        for (std::int32_t i = 0, heads = detail::is_per_head<P>() ? group : 1; i < tile.count; ++i)
          for (std::int32_t w = 0; w < run.words(); ++w)
            keys += std::popcount(detail::seen_by_any(plan.masks, run, i * heads, heads, w));
        pairs += static_cast<double>(keys * group);
      }
      std::int32_t seen = 0;
      for (std::int32_t row = 0, rows = tile.count * group; row < rows; row += grain.rows) {
        std::int32_t const last = tile.first + (detail::smaller(row + grain.rows, rows) - 1) / group;
        seen =
            detail::tokens_until(cache, tile.sequence, h, detail::last_visible(pattern, q.batch.positions[last]), seen);
        std::int64_t full = 0, partial = 0;
        for (std::int32_t r = 0; r < tile.runs; ++r) {
          key_run const& run = plan.runs[tile.runs_begin + r];
          if (apart(run)) continue;
          std::int32_t const keys = detail::larger(0, detail::smaller(seen - run.begin, run.count));
          (run.full != 0 ? full : partial) += run.full != 0 ? rounded(keys) : keys;
        }
        pairs += static_cast<double>(grain.rows) * static_cast<double>(full + rounded(partial));
      }
    }
  return plan.per_kv_head ? pairs : pairs * cache.kv_heads;
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

/// What attention with this plan computes on the CPU as a share of what causality alone allows. A dense pattern
/// executes slightly more than 1.
template <Pattern P, class TQ, Cache C>
double executed_density(P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache) {
  double const all = causal_pairs(q, cache);
  return all > 0 ? executed_pairs(pattern, plan, q, cache) / all : 0;
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
