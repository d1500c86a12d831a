// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/plan_tiles.cuh>
#include <purekv/detail/token_bound.cuh>
#include <purekv/plan.hpp>

namespace purekv::inline v0_1 {

/// What the caller knows of the KV heads of a cache, and the host of a GPU cannot see.
enum class heads_hold : std::int32_t {
  anything,
  the_same,  // positions, in every sequence: one plan can serve all heads
};

}  // namespace purekv::inline v0_1

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How much memory each copy of a plan has for what nobody knows beforehand. A prompt of 32768 tokens with 28 query and
/// 4 KV heads: 21 MiB of runs and 8 MiB of masks.
struct plan_budget {
  // Runs for each full tile: one for every 64 keys, as where each frame of a video has one. A pattern without runs can
  // have one for every granule.
  static constexpr std::int32_t keys_per_run = 64, most_runs_per_tile = 512, runs_at_least = 8192;
  // Words of masks for each query, and twice as many where heads differ: half of what so many runs, each shorter than
  // 64 keys, would need on average.
  static constexpr std::int32_t words_per_query = 32, words_at_least = 8192;
};

/// The memory of a plan and of what making it needs.
struct device_plan_memory {
  query_tile* tiles;
  std::int32_t* tiles_used;
  key_run* runs;
  std::uint64_t* masks;
  looked_at* looked;
  std::int32_t* joined;
  std::int32_t* tile_ends;
  chunk_exit *exits, *entries;
  std::int32_t tile_queries, tiles_per_head, copies, chunks;
  std::int64_t run_capacity, mask_capacity;

  template <Pattern P, class TQ, Cache C>
  static device_plan_memory take(carve& memory, query_view<TQ> const& q, C const& cache, heads_hold heads) {
    using plan = device_plan<P, C>;
    using budget = plan_budget;
    std::int32_t const group = q.rows.heads / cache.kv_heads;
    std::int64_t const tokens = token_bound(cache, INT32_MAX);
    device_plan_memory m{};
    m.tile_queries = most_tile_queries<P>(group);
    m.tiles_per_head = query_cut<P>::most_tiles(q.rows.tokens, q.batch.sequences, m.tile_queries);
    m.copies = cache.kv_heads > 1 && (is_per_head<P>() || heads == heads_hold::anything) ? cache.kv_heads : 1;
    m.chunks = q.rows.tokens / cut_chunk + (q.rows.tokens % cut_chunk != 0);
    auto const fewer = [](std::int64_t a, std::int64_t b) { return a < b ? a : b; };
    auto const more = [](std::int64_t a, std::int64_t b) { return a < b ? b : a; };

    constexpr std::int32_t granule = plan::tile_keys::granule;
    std::int64_t const per_tile =
        fewer(budget::most_runs_per_tile, has_runs<P>() ? tokens / budget::keys_per_run + 16 : tokens / granule + 1);
    std::int64_t const full_tiles = q.rows.tokens / m.tile_queries + q.batch.sequences;
    m.run_capacity = m.copies * more(m.tiles_per_head, fewer(more(budget::runs_at_least, full_tiles * per_tile),
                                                             tokens * m.tiles_per_head));
    std::int64_t const per_query = (is_per_head<P>() ? 2 : 1) * budget::words_per_query;
    m.mask_capacity = plan::has_masks ? m.copies * more(budget::words_at_least, q.rows.tokens * per_query) : 0;

    std::int64_t const tiles = std::int64_t{m.copies} * m.tiles_per_head;
    m.tiles = memory.take<query_tile>(tiles);
    m.tiles_used = memory.take<std::int32_t>(m.copies);
    m.runs = memory.take<key_run>(m.run_capacity);
    m.masks = memory.take<std::uint64_t>(m.mask_capacity);
    m.looked = memory.take<looked_at>(has_runs<P>() ? 0 : tiles * plan::looked_words);
    m.joined = memory.take<std::int32_t>(1);
    m.tile_ends = memory.take<std::int32_t>(q.rows.tokens);
    m.exits = memory.take<chunk_exit>(std::int64_t{m.chunks} * m.tile_queries);
    m.entries = memory.take<chunk_exit>(m.chunks + 1);
    return m;
  }
};

template <Pattern P, class TQ, Cache C>
status check_plan_input_view(P const& pattern, query_view<TQ> const& q, C const& cache) {
  if (status const s = cache.check_view(); !s.ok()) return s;
  if (status const s = check_shapes_view(q, cache); !s.ok()) return s;
  return check_pattern_view(pattern, q);
}

template <Pattern P, class TQ, Cache C>
status make_plan(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                 device_plan_memory const& m) {
  std::int32_t const n = q.rows.tokens, group = q.rows.heads / cache.kv_heads;
  query_cut<P> const cut{pattern, q.batch, n, q.rows.heads, group, m.tile_queries};
  query_view<char> const positions{{nullptr, q.rows.heads, n, q.rows.dim, 0, 0}, q.batch};
  device_plan<P, C> const plan{pattern,  positions,      cache,          m.tiles,  m.tiles_used,
                               m.runs,   m.masks,        m.looked,       m.joined, m.tiles_per_head,
                               m.copies, m.run_capacity, m.mask_capacity};
  std::int64_t const tiles = std::int64_t{m.copies} * m.tiles_per_head;
  if (tiles > INT32_MAX) return {errc::bad_shape, "plan: more than 2^31 - 1 tiles"};
  std::int32_t const warps = static_cast<std::int32_t>((tiles - 1) / walk_runs<P, C>::warps + 1);
  std::int32_t const blocks = static_cast<std::int32_t>(tiles);
  status s;
  auto const run = [&](std::int32_t count, std::size_t shared_bytes, auto const& kernel) {
    if (s.ok()) s = simt::launch({.x = count}, shared_bytes, exec.stream, kernel);
  };
  using cut_all = cut_chunks<query_cut<P>>;
  run(m.chunks, cut_all::shared_bytes, cut_all{cut, m.tile_ends, m.exits});
  run(1, 0, enter_chunks{m.exits, m.entries, m.chunks, m.tile_queries, m.tiles_per_head, m.copies, m.tiles_used});
  run(m.chunks, list_tiles::shared_bytes,
      list_tiles{q.batch, n, m.tile_ends, m.entries, m.tiles, m.tiles_per_head, m.copies});
  if constexpr (!has_runs<P>()) run(blocks, 0, look_at_tiles<P, C>{plan});
  run(warps, 0, walk_runs<P, C>{plan, false});
  run(1, place_runs::shared_bytes, place_runs{m.tiles, tiles, m.run_capacity, m.joined});
  run(warps, 0, walk_runs<P, C>{plan, true});
  if constexpr (device_plan<P, C>::has_masks) {
    run(1, place_masks::shared_bytes, place_masks{m.tiles, tiles, m.mask_capacity});
    run(blocks, 0, fill_masks<P, C>{plan});
  }
  return s;
}

}  // namespace detail

/// Bytes that `plan` wants, whatever lies in the cache.
template <Pattern P, class TQ, Cache C>
std::size_t plan_workspace(gpu const&, P const& pattern, query_view<TQ> const& q, C const& cache,
                           heads_hold heads = heads_hold::anything) {
  if (!detail::check_plan_input_view(pattern, q, cache).ok()) return 0;
  detail::carve memory;
  detail::device_plan_memory::take<P>(memory, q, cache, heads);
  return memory.bytes();
}

/// As on the CPU, but for how queries are cut, which the kernels of a GPU want otherwise (detail/cut_queries.cuh), and
/// where the memory does not suffice for what the host cannot know: neighbouring runs become one that is partly
/// visible, or are left without masks. `out` says how many tiles there may be, and where the device will have written
/// how many there are. Positions that ascend, offsets and lengths that are in order, and a pattern that passes its
/// `check`, are preconditions, and so is what `heads` says.
template <Pattern P, class TQ, Cache C>
status plan(gpu const& exec, P const& pattern, query_view<TQ> const& q, C const& cache, workspace const& memory,
            tile_plan& out, heads_hold heads = heads_hold::anything) {
  if (status const s = detail::check_gpu(exec); !s.ok()) return s;
  if (status const s = detail::check_plan_input_view(pattern, q, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable_cache(exec, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, q.batch.offset, q.batch.positions, memory.data); !s.ok()) return s;
  detail::carve carved(memory);
  auto const m = detail::device_plan_memory::take<P>(carved, q, cache, heads);
  if (!carved.fits())
    return {errc::workspace_too_small, "plan: workspace smaller than plan_workspace(), or not aligned to 64 bytes"};
  if (q.rows.tokens > 0)
    if (status const s = detail::make_plan(exec, pattern, q, cache, m); !s.ok()) return s;
  out = {m.tiles,
         m.runs,
         m.masks,
         m.tiles_per_head,
         m.copies > 1,
         m.tile_queries,
         cache.sequences,
         q.rows.heads,
         cache.kv_heads,
         q.rows.tokens,
         q.rows.tokens > 0 ? m.tiles_used : nullptr};
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
