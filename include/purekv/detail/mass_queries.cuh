// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/simt/shared.hpp>
#include <purekv/taps.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Keys [first, first + count) of one KV head, and their positions.
struct mass_key_block {
  std::int32_t sequence, kv_head, first, count;
  simt::shared<std::int32_t> positions;

  PUREKV_DEVICE std::int32_t first_position() const { return positions.load(0); }
  PUREKV_DEVICE std::int32_t last_position() const { return positions.load(count - 1); }
};

/// Queries [first, first + count) of the packed batch, of one tile if there is a plan. run: the first run of the tile
/// that meets the block of keys (0 without a plan), or `all`: every query sees every key of the block.
struct alignas(16) mass_piece {
  static constexpr std::int32_t all = -1;
  std::int32_t first, count, tile, run;
};

/// Which queries see the keys of a block: by the tiles of a plan, or by the pattern itself.
template <Pattern P, class TQ, Cache C> struct mass_queries {
  static constexpr std::int32_t piece_queries = 64;

  P pattern;
  query_view<TQ> q;
  query_range range;
  tile_plan plan;
  bool planned;
  std::int32_t group;
  /// [sequences] or null: queries of each sequence that are not in `q` but belong to those that `range` counts, behind
  /// them.
  std::int32_t const* to_come = nullptr;

  /// Those of `range` in a sequence, and the tiles of the plan that have some of them.
  struct selected {
    std::int32_t first, last, first_tile, tiles;
  };

  PUREKV_DEVICE selected select(mass_key_block const& keys) const {
    std::int32_t const begin = q.begin(keys.sequence), count = q.count(keys.sequence);
    std::int32_t const all = count + (to_come != nullptr ? to_come[keys.sequence] : 0);
    selected s{begin + smaller(range.first(all), count), begin + smaller(range.last(all), count), 0, 0};
    if (!planned || s.first >= s.last) return s;
    s.first_tile = first_tile(keys.kv_head, [&](query_tile const& tile) { return tile.first + tile.count > s.first; });
    s.tiles = first_tile(keys.kv_head, [&](query_tile const& tile) { return tile.first >= s.last; }) - s.first_tile;
    return s;
  }

  /// How many pieces there may be; every one is worth a look.
  PUREKV_DEVICE std::int32_t candidates(selected const& s) const {
    return planned ? s.tiles * pieces(plan.tile_queries) : pieces(s.last - s.first);
  }

  /// One of them; count 0: none of its queries sees a key of the block.
  PUREKV_DEVICE mass_piece piece(selected const& s, std::int32_t candidate, mass_key_block const& keys) const {
    return planned ? piece_of_plan(s, candidate, keys) : piece_of_pattern(s, candidate, keys);
  }

  /// Which of the 32 keys from number `from` of the block on one query of a piece sees, a bit each.
  PUREKV_DEVICE std::uint32_t seen(mass_piece const& piece, std::int32_t query, std::int32_t query_head,
                                   mass_key_block const& keys, std::int32_t from) const {
    std::int32_t const position = q.batch.positions[query], furthest = last_visible(pattern, position);
    std::int32_t const count = smaller(32, keys.count - from);
    auto const ask = [&](std::int32_t begin, std::int32_t end) {
      std::uint32_t bits = 0;
      for (std::int32_t k = begin; k < end; ++k) {
        std::int32_t const at = keys.positions.load(from + k);
        if (at > furthest) break;
        if (pattern.visible(query_head, position, at)) bits |= std::uint32_t{1} << k;
      }
      return bits;
    };
    if (!planned) return ask(0, count);
    query_tile const& tile = plan.tile(keys.kv_head, piece.tile);
    std::int32_t const in_tile = query - tile.first,
                       mask_row = is_per_head<P>() ? in_tile * group + query_head % group : in_tile;
    std::int32_t visible = 0;  // keys of these that causality allows
    for (std::int32_t beyond = count; visible < beyond;) {
      std::int32_t const middle = visible + (beyond - visible) / 2;
      if (keys.positions.load(from + middle) <= furthest)
        visible = middle + 1;
      else
        beyond = middle;
    }
    std::int32_t const first = keys.first + from, last = first + visible;
    std::uint32_t bits = 0;
    for (std::int32_t r = piece.run; r < tile.runs; ++r) {
      key_run const& run = plan.runs[tile.runs_begin + r];
      if (run.begin >= last) break;
      std::int32_t const begin = larger(run.begin, first), end = smaller(run.begin + run.count, last);
      if (begin >= end) continue;
      if (run.full != 0)
        bits |= (~std::uint32_t{0} >> (32 - (end - begin))) << (begin - first);
      else if (run.masks >= 0)
        bits |= static_cast<std::uint32_t>(plan.seen(run, mask_row, begin - run.begin, end - begin)) << (begin - first);
      else
        bits |= ask(begin - first, end - first);
    }
    return bits;
  }

 private:
  PUREKV_DEVICE static std::int32_t pieces(std::int32_t queries) {
    return (queries + piece_queries - 1) / piece_queries;
  }

  template <class F> PUREKV_DEVICE std::int32_t first_tile(std::int32_t kv_head, F const& reached) const {
    std::int32_t low = 0, high = plan.tile_count(kv_head);
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (reached(plan.tile(kv_head, middle)))
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  /// What causality leaves of a piece: none of it where its last query sees no key, `all` where its first sees all.
  PUREKV_DEVICE void cut(mass_piece& piece, mass_key_block const& keys) const {
    auto const furthest = [&](std::int32_t query) { return last_visible(pattern, q.batch.positions[query]); };
    if (furthest(piece.first + piece.count - 1) < keys.first_position())
      piece.count = 0;
    else if (furthest(piece.first) >= keys.last_position())
      piece.run = mass_piece::all;
  }

  PUREKV_DEVICE mass_piece piece_of_pattern(selected const& s, std::int32_t candidate,
                                            mass_key_block const& keys) const {
    std::int32_t const first = s.first + candidate * piece_queries;
    mass_piece piece{first, smaller(piece_queries, s.last - first), 0, 0};
    cut(piece, keys);
    if (piece.count == 0) return piece;
    bool some = true, full = false;
    if constexpr (has_runs<P>()) {
      std::int32_t const begin = keys.first_position(), end = keys.last_position(), head = keys.kv_head * group;
      some = false;
      runs_of(pattern, head, head + group - 1, q.batch.positions[first], q.batch.positions[first + piece.count - 1],
              [&](std::int32_t k_first, std::int32_t k_last, bool all) {
                some = some || (k_first <= end && k_last >= begin);
                full = full || (all && k_first <= begin && k_last >= end);
              });
    }
    if (!some) piece.count = 0;
    if (!full) piece.run = 0;
    return piece;
  }

  PUREKV_DEVICE mass_piece piece_of_plan(selected const& s, std::int32_t candidate, mass_key_block const& keys) const {
    std::int32_t const per_tile = pieces(plan.tile_queries), index = s.first_tile + candidate / per_tile;
    query_tile const& tile = plan.tile(keys.kv_head, index);
    std::int32_t const first = larger(tile.first, s.first) + candidate % per_tile * piece_queries;
    mass_piece piece{first, smaller(piece_queries, smaller(tile.first + tile.count, s.last) - first), index, 0};
    if (piece.count <= 0) return {first, 0, index, 0};
    key_run const* const runs = plan.runs + tile.runs_begin;
    std::int32_t low = 0, high = tile.runs;
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (runs[middle].begin + runs[middle].count <= keys.first)
        low = middle + 1;
      else
        high = middle;
    }
    std::int32_t const end = keys.first + keys.count;
    if (low == tile.runs || runs[low].begin >= end) return {first, 0, index, 0};
    cut(piece, keys);
    bool const full = runs[low].full != 0 && runs[low].begin <= keys.first && runs[low].begin + runs[low].count >= end;
    if (!full || piece.run != mass_piece::all) piece.run = low;
    return piece;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
