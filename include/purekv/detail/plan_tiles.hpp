// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/cpu.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/detail/query_tiles.hpp>
#include <purekv/taps.hpp>
#include <purekv/tile_plan.hpp>

#include <bit>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Which of the keys from 64 * word on of a run with masks some of `count` rows of its masks sees, a bit each.
inline std::uint64_t seen_by_any(std::uint64_t const* masks, key_run const& run, std::int32_t row, std::int32_t count,
                                 std::int32_t word) {
  std::uint64_t seen = 0;
  for (std::int32_t i = row; i < row + count; ++i) seen |= masks[run.masks + std::int64_t{i} * run.words() + word];
  return seen;
}

template <Pattern P, Cache C> bool needs_plan_per_head(P const&, C const& cache) {
  return cache.kv_heads > 1 && (is_per_head<P>() || !same_positions(cache));
}

/// One tile as seen from one KV head.
template <Pattern P, class TQ, Cache C> struct planned_tile {
  P const& pattern;
  query_view<TQ> const& q;
  C const& cache;
  std::int32_t sequence, first, count, kv_head;

  // Keys that are looked at together when a pattern has no `runs`, and the most runs it may leave: beyond, keys are
  // looked at in larger granules.
  static constexpr std::int32_t granule = 16, most_runs = 512;

  PUREKV_HD std::int32_t position(std::int32_t i) const { return q.batch.positions[first + i]; }
  PUREKV_HD std::int32_t last_key(std::int32_t i) const { return last_visible(pattern, position(i)); }

  PUREKV_HD std::int32_t group() const { return q.rows.heads / cache.kv_heads; }
  PUREKV_HD std::int32_t first_head() const { return kv_head * group(); }

  /// Calls f(begin, end, full) for ranges of cached tokens.
  template <class F> void for_each_range(F const& f) const {
    if constexpr (has_runs<P>()) {
      for_each_run(first_head(), first_head() + group() - 1, 0, count - 1, f);
    } else {
      std::int32_t const end = tokens_until(cache, sequence, kv_head, last_key(count - 1));
      std::int32_t const step = granule * larger(1, (end + granule * most_runs - 1) / (granule * most_runs));
      for (std::int32_t begin = 0; begin < end; begin += step) {
        std::int32_t const stop = smaller(step, end - begin) + begin;
        auto const [some, all] = look(begin, stop);
        if (some) f(begin, stop, all);
      }
    }
  }

  /// The same for some of the heads and of its queries, of a pattern that has `runs`.
  template <class F>
  void for_each_run(std::int32_t h_first, std::int32_t h_last, std::int32_t i_first, std::int32_t i_last,
                    F const& f) const {
    std::int32_t const last = last_key(i_last);
    std::int32_t from = 0;
    runs_of(pattern, h_first, h_last, position(i_first), position(i_last),
            [&](std::int32_t k_first, std::int32_t k_last, bool full) {
              if (k_first > last || k_last < k_first) return;
              std::int32_t const begin = tokens_before(cache, sequence, kv_head, k_first, from);
              from = tokens_until(cache, sequence, kv_head, smaller(k_last, last), begin);
              if (begin < from) f(begin, from, full);
            });
  }

  // Masks are rows of a query, or of each of its heads.
  PUREKV_HD std::int32_t mask_rows() const { return is_per_head<P>() ? count * group() : count; }

  PUREKV_HD static std::int64_t words(std::int32_t keys) { return (keys + 63) / 64; }

  /// Upper bounds of what `fill` writes.
  struct size {
    std::int64_t runs = 0, masks = 0;
  };
  size bound() const {
    size most;
    if constexpr (has_runs<P>()) {
      for_each_range([&](std::int32_t begin, std::int32_t end, bool full) {
        ++most.runs;
        if (masks_known<P>() && !full) most.masks += mask_rows() * words(end - begin);
      });
    } else {
      std::int32_t const end = tokens_until(cache, sequence, kv_head, last_key(count - 1));
      most.runs = smaller(most_runs, (end + granule - 1) / granule);
    }
    return most;
  }

  struct seen {
    bool some, all;
  };

  /// Whether some, and whether all, of the pairs with these keys that causality allows are visible.
  PUREKV_HD seen look(std::int32_t begin, std::int32_t end) const {
    std::int32_t const heads = is_per_head<P>() ? group() : 1;
    seen result{false, true};
    while (begin < end) {
      auto const run = cache.run(sequence, kv_head, begin);
      std::int32_t const keys = smaller(run.tokens, end - begin);
      for (std::int32_t k = 0; k < keys; ++k)
        for (std::int32_t i = count - 1; i >= 0 && last_key(i) >= run.positions[k]; --i)
          for (std::int32_t h = 0; h < heads; ++h) {
            bool const visible = pattern.visible(first_head() + h, position(i), run.positions[k]);
            result.some = result.some || visible;
            result.all = result.all && visible;
            if (result.some && !result.all) return result;
          }
      begin += keys;
    }
    return result;
  }

  std::int32_t fill(key_run* runs, std::uint64_t* masks, std::int64_t masks_begin) const {
    std::int32_t written = 0;
    for_each_range([&](std::int32_t begin, std::int32_t end, bool full) {
      if (written > 0) {
        key_run& before = runs[written - 1];
        if (before.begin + before.count == begin && (before.full != 0) == full) {
          before.count += end - begin;
          return;
        }
      }
      runs[written++] = {begin, end - begin, full};
    });
    if constexpr (masks_known<P>()) fill_masks(runs, written, masks, masks_begin);
    return written;
  }

 private:
  void fill_masks(key_run* runs, std::int32_t run_count, std::uint64_t* masks, std::int64_t masks_begin) const {
    bool any = false;
    for (std::int32_t r = 0; r < run_count; ++r) {
      if (runs[r].full != 0) continue;
      any = true;
      runs[r].masks = masks_begin;
      std::int64_t const all = mask_rows() * words(runs[r].count);
      for (std::int64_t w = 0; w < all; ++w) masks[masks_begin + w] = 0;
      masks_begin += all;
    }
    for (std::int32_t m = 0; any && m < mask_rows(); ++m) {
      std::int32_t const i = is_per_head<P>() ? m / group() : m;
      std::int32_t const head = first_head() + (is_per_head<P>() ? m % group() : 0);
      std::int32_t r = 0;
      for_each_run(head, head, i, i, [&](std::int32_t begin, std::int32_t end, bool full) {
        while (r < run_count && runs[r].begin + runs[r].count <= begin) ++r;
        for (std::int32_t at = r; at < run_count && runs[at].begin < end; ++at) {
          key_run const& run = runs[at];
          if (run.full != 0) continue;
          std::int32_t const from = larger(begin, run.begin) - run.begin;
          std::int32_t const to = smaller(end, run.begin + run.count) - run.begin;
          std::uint64_t* const row = masks + run.masks + m * words(run.count);
          if (full)
            set_bits(row, from, to);
          else
            set_visible(row, head, i, run, from, to);
        }
      });
    }
    if (any) mark_scattered(runs, run_count, masks);
  }

  /// A run is scattered where its visible pairs are predicted to cost less than the blocks of lanes that meet its keys,
  /// if all such runs together are worth it.
  void mark_scattered(key_run* runs, std::int32_t run_count, std::uint64_t const* masks) const {
    std::int64_t saved = 0;
    for (std::int32_t r = 0; r < run_count; ++r) {
      key_run& run = runs[r];
      if (run.full != 0) continue;
      std::int64_t pairs = 0;
      for (std::int32_t i = 0, heads = mask_rows() / count; i < count; ++i)
        for (std::int32_t w = 0; w < run.words(); ++w)
          pairs += std::popcount(seen_by_any(masks, run, i * heads, heads, w));
      std::int64_t const apart = attend_cost::scattered(pairs, group()), together = cost_in_blocks(run);
      run.scattered = apart < together;
      if (apart < together) saved += together - apart;
    }
    if (saved < attend_cost::scattering(count, group()))
      for (std::int32_t r = 0; r < run_count; ++r) runs[r].scattered = 0;
  }

  std::int64_t cost_in_blocks(key_run const& run) const {
    std::int64_t cost = std::int64_t{run.count} * attend_cost::widening;
    for (std::int32_t row = 0, until = 0, rows = count * group(); row < rows; row += block_lanes) {
      until = tokens_until(cache, sequence, kv_head, last_key((smaller(row + block_lanes, rows) - 1) / group()), until);
      cost += std::int64_t{larger(0, smaller(until - run.begin, run.count))} * block_lanes;
    }
    return cost;
  }

  static void set_bits(std::uint64_t* row, std::int32_t from, std::int32_t to) {
    for (std::int32_t bit = from; bit < to;) {
      std::int32_t const bits = smaller(64 - bit % 64, to - bit);
      row[bit / 64] |= (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1) << bit % 64;
      bit += bits;
    }
  }

  void set_visible(std::uint64_t* row, std::int32_t head, std::int32_t i, key_run const& run, std::int32_t from,
                   std::int32_t to) const {
    for_each_stretch(cache, sequence, kv_head, run.begin + from, run.begin + to,
                     [&](auto const& tokens, std::int32_t ordinal, std::int32_t keys) {
                       for (std::int32_t k = 0; k < keys; ++k)
                         if (pattern.visible(head, position(i), tokens.positions[k]))
                           set_bits(row, ordinal - run.begin + k, ordinal - run.begin + k + 1);
                     });
  }
};

/// The memory of a plan and what a plan of it must be.
struct plan_memory {
  query_tile* tiles;
  key_run* runs;
  std::uint64_t* masks;
  std::int32_t tiles_per_head, tile_queries;
  bool per_kv_head;
};

/// per_kv_head may be said where it is not needed: the memory then serves both kinds of plan.
template <Pattern P, class TQ, Cache C>
plan_memory take_plan(carve& memory, P const& pattern, query_view<TQ> const& q, C const& cache, bool per_kv_head,
                      query_range const& range = {}) {
  plan_memory m{nullptr, nullptr, nullptr, 0, 0, per_kv_head};
  std::int64_t runs = 0, masks = 0;
  std::int32_t const copies = per_kv_head ? cache.kv_heads : 1;
  bool const alike = same_positions(cache) && !has_runs_by_head<P>();
  query_tiles(pattern, q, cache.kv_heads)
      .for_each(range, [&](std::int32_t sequence, std::int32_t first, std::int32_t count) {
        ++m.tiles_per_head;
        m.tile_queries = larger(m.tile_queries, count);
        for (std::int32_t h = 0; h < (alike ? 1 : copies); ++h) {
          auto const most = planned_tile<P, TQ, C>{pattern, q, cache, sequence, first, count, h}.bound();
          runs += most.runs * (alike ? copies : 1);
          masks += most.masks * (alike ? copies : 1);
        }
      });
  m.tiles = memory.take<query_tile>(std::int64_t{m.tiles_per_head} * copies);
  m.runs = memory.take<key_run>(runs);
  m.masks = memory.take<std::uint64_t>(masks);
  return m;
}

template <Pattern P, class TQ, Cache C>
tile_plan make_plan(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, plan_memory const& memory,
                    query_range const& range = {}) {
  std::int32_t const copies = memory.per_kv_head ? cache.kv_heads : 1;
  auto const seen_from = [&](query_tile const& tile, std::int32_t kv_head) {
    return planned_tile<P, TQ, C>{pattern, q, cache, tile.sequence, tile.first, tile.count, kv_head};
  };
  exec.sync();  // nobody writes before every rank has made its checks
  if (exec.rank() == 0) {
    std::int64_t runs = 0, masks = 0;
    for (std::int32_t h = 0; h < copies; ++h) {
      query_tile* next = memory.tiles + std::int64_t{h} * memory.tiles_per_head;
      query_tiles(pattern, q, cache.kv_heads)
          .for_each(range, [&](std::int32_t sequence, std::int32_t first, std::int32_t count) {
            *next = {sequence, first, count, 0, runs, masks};
            auto const most = seen_from(*next, h).bound();
            runs += most.runs;
            masks += most.masks;
            ++next;
          });
    }
  }
  exec.sync();
  std::int64_t const tiles = std::int64_t{memory.tiles_per_head} * copies;
  for (std::int64_t t = exec.rank(); t < tiles; t += exec.size()) {
    query_tile& tile = memory.tiles[t];
    tile.runs = seen_from(tile, static_cast<std::int32_t>(t / memory.tiles_per_head))
                    .fill(memory.runs + tile.runs_begin, memory.masks, tile.masks_begin);
  }
  exec.sync();
  return {memory.tiles,        memory.runs,     memory.masks, memory.tiles_per_head, memory.per_kv_head,
          memory.tile_queries, cache.sequences, q.rows.heads, cache.kv_heads,        q.rows.tokens};
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
