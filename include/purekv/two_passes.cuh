// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/attend.cuh>
#include <purekv/detail/plan_columns.cuh>
#include <purekv/two_passes.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How much memory a plan of columns has for what nobody knows beforehand: as many keys for each full tile as if one in
/// 64 cached tokens, or one frame in 64 tokens, had its place; times the places that are near one, 9 at most.
struct column_budget {
  static constexpr std::int32_t tokens_per_key = 64, more_keys = 128, most_near = 9;
  static constexpr std::int64_t words_at_least = 8192;
};

/// The memory of a plan of columns and of what making it needs.
struct column_plan_memory {
  query_tile* tiles;
  std::int32_t* tiles_used;
  key_run* runs;
  std::uint64_t* masks;
  std::int32_t *order, *positions, *tile_ends;
  chunk_exit *exits, *entries;
  std::int32_t tile_queries, tiles_per_head, copies, chunks;
  std::int64_t mask_capacity;

  template <class TQ, Cache C>
  static column_plan_memory take(carve& memory, spatial_temporal const& pattern, query_view<TQ> const& q,
                                 C const& cache, heads_hold heads) {
    using budget = column_budget;
    column_plan_memory m{};
    std::int32_t const n = q.rows.tokens;
    m.tile_queries = most_tile_queries<spatial_temporal>(q.rows.heads / cache.kv_heads);
    m.tiles_per_head = column_cut::most_tiles(n, q.batch.sequences, pattern.layout.count, m.tile_queries);
    m.copies = cache.kv_heads > 1 && heads == heads_hold::anything ? cache.kv_heads : 1;
    m.chunks = n / cut_chunk + (n % cut_chunk != 0);

    std::int64_t const tokens = token_bound(cache, INT32_MAX), side = 2 * std::int64_t{pattern.temporal_radius} + 1;
    std::int64_t const near = side > budget::most_near / side ? budget::most_near : side * side;
    std::int64_t keys = near * (tokens / budget::tokens_per_key + budget::more_keys);
    if (keys > tokens) keys = tokens;
    std::int64_t const per_tile = m.tile_queries * ((keys + 63) / 64) + (keys + 1) / 2;
    std::int64_t const full_tiles = n / m.tile_queries + q.batch.sequences;
    std::int64_t const wanted = full_tiles * per_tile;
    m.mask_capacity = m.copies * (wanted > budget::words_at_least ? wanted : budget::words_at_least);

    std::int64_t const tiles = std::int64_t{m.copies} * m.tiles_per_head;
    m.tiles = memory.take<query_tile>(tiles);
    m.tiles_used = memory.take<std::int32_t>(m.copies);
    m.runs = memory.take<key_run>(tiles);
    m.masks = memory.take<std::uint64_t>(m.mask_capacity);
    m.order = memory.take<std::int32_t>(n);
    m.positions = memory.take<std::int32_t>(n);
    m.tile_ends = memory.take<std::int32_t>(n);
    m.exits = memory.take<chunk_exit>(std::int64_t{m.chunks} * m.tile_queries);
    m.entries = memory.take<chunk_exit>(m.chunks + 1);
    return m;
  }
};

template <class TQ, Cache C>
status make_column_plan(gpu const& exec, spatial_temporal const& pattern, query_view<TQ> const& q, C const& cache,
                        column_plan_memory const& m) {
  std::int32_t const n = q.rows.tokens;
  std::int64_t const tiles = std::int64_t{m.copies} * m.tiles_per_head;
  batch_view ordered = q.batch;
  ordered.positions = m.positions;
  layout_columns const columns{pattern.layout};
  query_view<char> const positions{{nullptr, q.rows.heads, n, q.rows.dim, 0, 0}, ordered};
  device_plan<spatial_temporal, C> const plan{pattern,  positions, cache,           m.tiles, m.tiles_used,
                                              m.runs,   m.masks,   nullptr,         nullptr, m.tiles_per_head,
                                              m.copies, tiles,     m.mask_capacity, true};
  status s;
  auto const run = [&](std::int64_t count, std::size_t shared_bytes, auto const& kernel) {
    if (s.ok()) s = simt::launch({.x = static_cast<std::int32_t>(count)}, shared_bytes, exec.stream, kernel);
  };
  auto const blocks = [](std::int64_t count, std::int32_t each) { return (count - 1) / each + 1; };
  using cut = cut_chunks<column_cut>;
  run(blocks(n, order_queries::threads), 0, order_queries{columns, q.batch, n, m.order, m.positions});
  run(m.chunks, cut::shared_bytes, cut{{columns, ordered, n, m.tile_queries}, m.tile_ends, m.exits});
  run(1, 0, enter_chunks{m.exits, m.entries, m.chunks, m.tile_queries, m.tiles_per_head, m.copies, m.tiles_used});
  run(m.chunks, list_tiles::shared_bytes,
      list_tiles{q.batch, n, m.tile_ends, m.entries, m.tiles, m.tiles_per_head, m.copies});
  run(blocks(m.tiles_per_head, sort_tiles::warps), 0, sort_tiles{m.tiles, m.tiles_used, m.order, m.positions});
  run(blocks(tiles, list_keys<C>::warps), 0, list_keys<C>{plan, false});
  run(1, place_masks::shared_bytes, place_masks{m.tiles, tiles, m.mask_capacity});
  run(blocks(tiles, list_keys<C>::warps), 0, list_keys<C>{plan, true});
  run(tiles, 0, fill_masks<spatial_temporal, C>{plan});
  return s;
}

/// The memory of attention in two passes besides its plans.
struct two_pass_memory {
  passed_row* rows;  // [heads, queries]
  attend_memory_gpu taps;

  template <class T>
  static two_pass_memory take(carve& memory, gpu const& exec, query_view<T> const& q, std::int32_t kv_heads,
                              attend_taps const& taps) {
    two_pass_memory m{};
    m.rows = memory.take<passed_row>(std::int64_t{q.rows.heads} * q.rows.tokens);
    m.taps = attend_memory_gpu::take(memory, exec, q, kv_heads, taps);
    return m;
  }
};

inline status check_passes(two_passes const& passes) {
  if (passes.pattern.temporal != temporal_part::included)
    return {errc::bad_policy, "two_passes: of a pattern that is a part of one already"};
  return {};
}

}  // namespace detail

/// Bytes that `plan` for two passes wants, whatever lies in the cache.
template <class TQ, Cache C>
std::size_t plan_workspace(gpu const& exec, two_passes const& passes, query_view<TQ> const& q, C const& cache,
                           heads_hold heads = heads_hold::anything) {
  if (!detail::check_plan_input_view(passes.pattern, q, cache).ok()) return 0;
  detail::carve memory;
  detail::column_plan_memory::take(memory, passes.pattern, q, cache, heads);
  std::size_t const second = plan_workspace(exec, passes.second(), q, cache, heads);
  memory.take<std::byte>(second <= INT64_MAX ? static_cast<std::int64_t>(second) : -1);
  return memory.bytes();
}

/// The plans of both passes: as `plan` for one. Its queries are all in the first one too, in tiles of the same places
/// of all frames, with a list of keys for each tile; where lists do not fit in memory, a tile is looked at pair by
/// pair.
template <class TQ, Cache C>
status plan(gpu const& exec, two_passes const& passes, query_view<TQ> const& q, C const& cache, workspace const& memory,
            two_pass_plan& out, heads_hold heads = heads_hold::anything) {
  if (status const s = detail::check_passes(passes); !s.ok()) return s;
  if (status const s = detail::check_gpu(exec); !s.ok()) return s;
  if (status const s = detail::check_plan_input_view(passes.pattern, q, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable_cache(exec, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, q.batch.offset, q.batch.positions, memory.data); !s.ok()) return s;
  detail::carve carved(memory);
  auto const m = detail::column_plan_memory::take(carved, passes.pattern, q, cache, heads);
  if (std::int64_t{m.copies} * m.tiles_per_head > INT32_MAX) return {errc::bad_shape, "plan: more than 2^31 - 1 tiles"};
  tile_plan second;
  if (status const s = plan(exec, passes.second(), q, cache, carved.rest(), second, heads); !s.ok()) return s;
  if (q.rows.tokens > 0)
    if (status const s = detail::make_column_plan(exec, passes.first(), q, cache, m); !s.ok()) return s;
  out.second = second;
  out.first = {m.tiles,
               m.runs,
               m.masks,
               m.tiles_per_head,
               m.copies > 1,
               m.tile_queries,
               cache.sequences,
               q.rows.heads,
               cache.kv_heads,
               q.rows.tokens,
               q.rows.tokens > 0 ? m.tiles_used : nullptr,
               m.order};
  return {};
}

/// Bytes that `attend` in two passes wants.
template <class T, Cache C>
std::size_t attend_workspace(gpu const& exec, two_pass_plan const&, query_view<T> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!detail::check_shapes_view(q, cache).ok()) return 0;
  detail::carve memory;
  detail::two_pass_memory::take(memory, exec, q, cache.kv_heads, taps);
  return memory.bytes();
}

/// As `attend` with passes.pattern, but that results of the first pass are rounded to TO on their way to the second:
/// they lie in `out` meanwhile. The mass taps make no use of the plans.
template <class T, Cache C, class TO>
status attend(gpu const& exec, two_passes const& passes, two_pass_plan const& plan, query_view<T> const& q,
              C const& cache, rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_passes(passes); !s.ok()) return s;
  if (status const s = detail::check_attention(exec, passes.pattern, q, cache, out, taps); !s.ok()) return s;
  for (tile_plan const* p : {&plan.first, &plan.second}) {
    if (status const s = detail::check_plan_view(*p, q, cache); !s.ok()) return s;
    if (status const s = detail::check_reachable(exec, p->tiles, p->runs, p->masks, p->tiles_used, p->order); !s.ok())
      return s;
  }
  detail::carve memory(work);
  auto const m = detail::two_pass_memory::take(memory, exec, q, cache.kv_heads, taps);
  if (!memory.fits()) return detail::attend_workspace_too_small();
  float* const lse = taps.lse != nullptr ? taps.lse : m.taps.lse;
  std::ptrdiff_t const lse_stride = taps.lse != nullptr ? taps.lse_stride : q.rows.tokens;
  auto const run = [&](spatial_temporal const& pattern, tile_plan const& of_pass, bool second) {
    return detail::attend_tiles(exec, pattern, &of_pass, q, cache, self_view<T>{}, out, second ? lse : nullptr,
                                lse_stride, {m.rows, second});
  };
  if (status const s = run(passes.first(), plan.first, false); !s.ok()) return s;
  if (status const s = run(passes.second(), plan.second, true); !s.ok()) return s;
  return detail::run_mass_taps(exec, passes.pattern, nullptr, q, cache, lse, lse_stride, taps, m.taps);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
