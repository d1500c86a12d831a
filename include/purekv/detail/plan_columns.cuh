// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/plan_tiles.cuh>
#include <purekv/pattern/spatial_temporal.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The columns of a layout: the tokens at one place of all frames of one size of one stream. What has no frames is one
/// column.
struct layout_columns {
  token_layout layout;

  PUREKV_HD bool alike(std::int32_t a, std::int32_t b) const {
    segment const &s = layout.segments[a], &t = layout.segments[b];
    if (!s.has_frames() || !t.has_frames()) return s.has_frames() == t.has_frames();
    return s.kind == t.kind && s.stream == t.stream && s.height == t.height && s.width == t.width;
  }

  /// The first segment that is like one. Columns stand in the order of these.
  PUREKV_HD std::int32_t first_like(std::int32_t segment, std::int32_t end) const {
    std::int32_t i = 0;
    while (i < end && !alike(i, segment)) ++i;
    return i;
  }

  PUREKV_HD std::int32_t place_of(coordinates const& at) const {
    segment const& s = layout.segments[at.segment];
    return s.has_frames() ? at.y * s.width + at.x : 0;
  }

  /// How many tokens stand before one that is at `at`, by column and then by position, where before(p) of them lie
  /// before position p.
  template <class Before> PUREKV_HD std::int32_t rank(std::int32_t position, Before const& before) const {
    coordinates const at = layout.at(position);
    std::int32_t const leader = first_like(at.segment, at.segment), place = place_of(at);
    std::int32_t rank = 0, none_before = before(0);
    for (std::int32_t i = 0; i < layout.count; ++i) {
      segment const& s = layout.segments[i];
      std::int32_t const here = before(s.begin), all = before(s.end()) - here;
      if (all == 0) continue;
      if (!alike(i, at.segment)) {
        if (first_like(i, leader) < leader) rank += all;
      } else if (!s.has_frames()) {
        rank += i < at.segment ? all : i == at.segment ? before(position) - here : 0;
      } else {
        for (std::int32_t t = 0, frame = s.begin; t < s.frames; ++t, frame += s.frame_tokens()) {
          bool const earlier = i < at.segment || (i == at.segment && t < at.t);
          rank += before(frame + place + (earlier ? 1 : 0)) - before(frame);
        }
      }
    }
    return rank + none_before;
  }
};

/// order[j], positions[j]: the query that stands at j, and where it lies, by sequence, column and position.
struct order_queries {
  static constexpr std::int32_t threads = 128;
  layout_columns columns;
  batch_view batch;
  std::int32_t queries;
  std::int32_t *order, *positions;  // [queries]

  PUREKV_DEVICE void operator()() const {
    std::int32_t const i = simt::block_index().x * threads + simt::thread_index();
    if (i >= queries) return;
    std::int32_t const s = sequence_of(batch, i), begin = begin_of(batch, s), end = end_of(batch, s, queries);
    std::int32_t const position = batch.positions[i], first = batch.positions[begin], last = batch.positions[end - 1];
    bool const in_row = last - first == end - 1 - begin;
    auto const before = [&](std::int32_t p) {
      if (p <= first) return 0;
      if (p > last) return end - begin;
      if (in_row) return p - first;
      std::int32_t low = begin, high = end;
      while (low < high) {
        std::int32_t const middle = low + (high - low) / 2;
        if (batch.positions[middle] < p)
          low = middle + 1;
        else
          high = middle;
      }
      return low - begin;
    };
    std::int32_t const to = begin + (columns.layout.covers(position) ? columns.rank(position, before) : i - begin);
    order[to] = i;
    positions[to] = position;
  }
};

/// Cuts queries that are in order of their columns into tiles of at most `most`, with whole columns of frames of one
/// size, as many as fit; a longer column is cut into full tiles behind one of what is left over.
struct column_cut {
  layout_columns columns;
  batch_view batch;  // positions in that order
  std::int32_t queries, most;

  /// An upper bound of the number of tiles.
  static std::int32_t most_tiles(std::int32_t queries, std::int32_t sequences, std::int32_t segments,
                                 std::int32_t most) {
    std::int64_t const tiles = std::int64_t{4} * queries / most + std::int64_t{sequences} * (segments + 1);
    return static_cast<std::int32_t>(tiles < queries ? tiles : queries);
  }

  /// Where the tile that begins with query i of a sequence [begin, end) ends.
  PUREKV_DEVICE std::int32_t tile_from(std::int32_t i, std::int32_t begin, std::int32_t end) const {
    std::int32_t last = column_end(i, end);
    if (last - i > most) return i + (last - i - 1) % most + 1;  // the shortest first, as it meets the fewest keys
    if (i > begin && same_column(i - 1, i)) return last;
    while (last < end && columns.alike(segment_of(i), segment_of(last))) {
      std::int32_t const next = column_end(last, end);
      if (next - i > most) break;
      last = next;
    }
    return last;
  }

 private:
  PUREKV_DEVICE std::int32_t segment_of(std::int32_t i) const {
    return smaller(columns.layout.segment_of(batch.positions[i]), columns.layout.count - 1);
  }
  PUREKV_DEVICE bool same_column(std::int32_t i, std::int32_t j) const {
    coordinates const a = columns.layout.at(batch.positions[i]), b = columns.layout.at(batch.positions[j]);
    return columns.alike(a.segment, b.segment) && columns.place_of(a) == columns.place_of(b);
  }
  PUREKV_DEVICE std::int32_t column_end(std::int32_t i, std::int32_t end) const {
    std::int32_t low = i + 1, high = end;
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (same_column(i, middle))
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

/// Puts the queries of each tile in order of their positions, a warp for each tile.
struct sort_tiles {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  static constexpr std::int32_t per_lane = device_tile_rows / simt::warp_threads;
  query_tile const* tiles;
  std::int32_t const* tiles_used;
  std::int32_t *order, *positions;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const tile = simt::block_index().x * warps + simt::warp_index();
    if (tile >= *tiles_used) return;
    std::int32_t const first = tiles[tile].first, count = tiles[tile].count;
    std::int32_t query[per_lane] = {}, position[per_lane] = {}, rank[per_lane] = {};
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < per_lane; ++n) {
      std::int32_t const i = n * simt::warp_threads + simt::lane_index();
      if (i >= count) continue;
      query[n] = order[first + i];
      position[n] = positions[first + i];
      for (std::int32_t j = 0; j < count; ++j) rank[n] += order[first + j] < query[n] ? 1 : 0;
    }
    simt::sync_warp();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < per_lane; ++n) {
      if (n * simt::warp_threads + simt::lane_index() >= count) continue;
      order[first + rank[n]] = query[n];
      positions[first + rank[n]] = position[n];
    }
  }
};

/// Gives tiles of columns their keys, a warp for each: counts them and the words that their list and their masks want,
/// then, `fill`, lists them behind the masks of the tile's only run. A tile whose list has no room has one run without
/// masks, of all that lies between its first and its last key.
template <Cache C> struct list_keys {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  device_plan<spatial_temporal, C> plan;
  bool fill;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const tile = std::int64_t{simt::block_index().x} * warps + simt::warp_index();
    if (!plan.used(tile)) return;
    query_tile& out = plan.tiles[tile];
    std::int32_t const lane = simt::lane_index();
    if (!fill) {
      std::int32_t keys = 0;
      for_each_range(tile, [&](std::int32_t begin, std::int32_t end) { keys += end - begin; });
      keys = static_cast<std::int32_t>(simt::reduce_add(static_cast<std::uint32_t>(keys)));
      if (lane != 0) return;
      out.runs = keys;
      out.masks_begin = std::int64_t{out.count} * key_run{0, keys, 0}.words() + (keys + 1) / 2;
      return;
    }
    std::int32_t const keys = out.runs;
    if (keys == 0) return;
    bool const fits = out.masks_begin >= 0;
    std::int32_t* const list =
        fits ? plan.list_of(out, {.begin = 0, .count = keys, .full = 0, .masks = out.masks_begin}) : nullptr;
    std::int32_t done = 0, first = INT32_MAX, last = 0;
    for_each_range(tile, [&](std::int32_t begin, std::int32_t end) {
      std::int32_t const mine = end - begin, until = simt::warp_scan(mine);
      for (std::int32_t k = 0; fits && k < mine; ++k) list[done + until - mine + k] = begin + k;
      done += simt::shuffle(until, simt::warp_threads - 1);
      if (mine > 0) {
        first = smaller(first, begin);
        last = larger(last, end);
      }
    });
    first = -simt::warp_max(-first);
    last = simt::warp_max(last);
    simt::sync_warp();  // every lane has read how many keys there are
    if (lane != 0) return;
    plan.runs[tile] = {first, fits ? keys : last - first, 0};
    out.runs = 1;
    out.runs_begin = tile;
  }

 private:
  /// Calls f(begin, end) for ranges of cached tokens, one for each lane at a time, empty where there are none left. All
  /// lanes call it.
  template <class F> PUREKV_DEVICE void for_each_range(std::int64_t index, F const& f) const {
    query_tile const& tile = plan.tiles[index];
    spatial_temporal const& pattern = plan.pattern;
    std::int32_t const* const positions = plan.q.batch.positions + tile.first;
    std::int32_t const kv_head = static_cast<std::int32_t>(index / plan.tiles_per_head), lane = simt::lane_index();
    layout_columns const columns{pattern.layout};
    if (!pattern.layout.covers(positions[tile.count - 1])) return;
    if (!pattern.layout.segments[pattern.layout.segment_of(positions[0])].has_frames()) return;
    std::int32_t lowest = INT32_MAX, highest = 0;
    for (std::int32_t i = lane; i < tile.count; i += simt::warp_threads) {
      std::int32_t const place = columns.place_of(pattern.layout.at(positions[i]));
      lowest = smaller(lowest, place);
      highest = larger(highest, place);
    }
    lowest = -simt::warp_max(-lowest);
    highest = simt::warp_max(highest);

    std::int32_t ranges = 0, k_first = 0, k_last = -1;
    auto const flush = [&] {
      std::int32_t begin = 0, end = 0;
      if (lane < ranges) {
        begin = tokens_before(plan.cache, tile.sequence, kv_head, k_first);
        end = tokens_until(plan.cache, tile.sequence, kv_head, k_last, begin);
      }
      f(begin, end);
      ranges = 0;
    };
    pattern.column_runs(positions[0], positions[tile.count - 1], lowest, highest,
                        [&](std::int32_t first_key, std::int32_t last_key, bool) {
                          if (ranges == lane) {
                            k_first = first_key;
                            k_last = last_key;
                          }
                          if (++ranges == simt::warp_threads) flush();
                        });
    flush();
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
