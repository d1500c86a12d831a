// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/gemm.hpp>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Cuts the queries of a batch into tiles: into those that are predicted to be the least work, if a pattern says where
/// its keys lie. Looks at positions only, as if all of them were cached, so that a prompt is cut in the same way
/// whatever has been evicted.
///
///   work = sum over blocks of block_lanes rows of (keys that the block computes) * block_lanes
///        + (keys of the tile) * widening_lanes
///
/// Tiles of dense_tile_rows that end nowhere but with the sequence are among the choices, so a pattern that hides
/// little, or a layout of tiny frames, is no more work than dense attention.
template <Pattern P, class TQ> class query_tiles {
 public:
  query_tiles(P const& pattern, query_view<TQ> const& q, std::int32_t kv_heads)
      : pattern_(pattern), q_(q), group_(q.rows.heads / kv_heads) {}

  /// Calls f(sequence, first, count) for the tiles of every sequence's queries in `range`.
  template <class F> void for_each(query_range const& range, F const& f) const {
    for (std::int32_t s = 0; s < q_.batch.sequences; ++s) {
      auto const emit = [&](std::int32_t first, std::int32_t last) { f(s, first, last - first); };
      std::int32_t first = q_.begin(s) + range.first(q_.count(s));
      std::int32_t const end = q_.begin(s) + range.last(q_.count(s));
      while (first < end) first = next(first, end, emit);
    }
  }

 private:
  /// What it costs to widen a key and its value once for all rows of a tile, in lanes that use them: tiles of 64 rows
  /// lose a tenth against tiles of 256 (bench/attend.cpp).
  static constexpr std::int32_t widening_lanes = 7;
  static constexpr std::int32_t smallest_rows = 64;

  static constexpr bool chooses = tile_rows<P>() == 0 && has_runs<P>();

  std::int32_t queries_of(std::int32_t rows) const { return larger(1, rows / group_); }
  std::int32_t largest() const { return queries_of(tile_rows<P>() > 0 ? tile_rows<P>() : dense_tile_rows); }

  /// Where the piece of the pattern that begins with query `first` ends, at `end` at the latest.
  std::int32_t piece(std::int32_t first, std::int32_t end) const {
    if constexpr (requires { pattern_.tile_end(std::int32_t{}); }) {
      std::int32_t const stop = pattern_.tile_end(q_.batch.positions[first]);
      std::int32_t next = first + 1;
      while (next < end && q_.batch.positions[next] < stop) ++next;
      return next;
    }
    return end;
  }

  /// Emits the next tile or tiles and says where they end.
  template <class F> std::int32_t next(std::int32_t first, std::int32_t end, F const& emit) const {
    std::int32_t const whole = smaller(end - first, largest()) + first;
    std::int32_t last = piece(first, whole);
    if constexpr (!chooses) {
      emit(first, last);
      return last;
    } else {
      if (last < whole) {
        std::int64_t const together = work(first, whole);
        std::int64_t apart = best(first, last).work;
        for (std::int32_t p = last; p < whole && apart < together; p = last) {
          last = piece(p, whole);
          apart += best(p, last).work;
        }
        if (apart >= together) {
          emit(first, whole);
          return whole;
        }
      }
      // The pieces, but for the last one if it goes on beyond this stretch: it is cut anew with what follows.
      std::int32_t p = first;
      while (p < whole) {
        last = piece(p, whole);
        if (p > first && last == whole && whole < end && piece(p, whole + 1) > whole) break;
        emit_best(p, last, emit);
        p = last;
      }
      return p;
    }
  }

  std::int64_t work(std::int32_t first, std::int32_t last) const {
    std::int32_t const rows = (last - first) * group_, blocks = (rows + block_lanes - 1) / block_lanes;
    std::int64_t sum = 0;
    auto const bound = [&](std::int32_t row) {
      return std::int64_t{last_visible(pattern_, q_.batch.positions[first + row / group_])} + 1;
    };
    auto const add = [&](std::int32_t k_first, std::int32_t k_last, bool) {
      auto const keys = [&](std::int64_t end) {
        std::int64_t const seen = (end <= k_last ? end : std::int64_t{k_last} + 1) - k_first;
        return seen > 0 ? seen : 0;
      };
      for (std::int32_t b = 0; b < blocks; ++b)
        sum += keys(bound(smaller((b + 1) * block_lanes, rows) - 1)) * block_lanes;
      sum += keys(bound(rows - 1)) * widening_lanes;
    };
    // One cut serves all KV heads. Their work differs only if the pattern tells them apart.
    for (std::int32_t h = 0; h < (has_runs_by_head<P>() ? q_.rows.heads : group_); h += group_)
      runs_of(pattern_, h, h + group_ - 1, q_.batch.positions[first], q_.batch.positions[last - 1], add);
    return sum;
  }

  /// The least work for a piece, and at which of its smallest tiles the tiles begin, a bit each.
  struct cut {
    std::int64_t work;
    std::uint32_t starts;
  };

  cut best(std::int32_t first, std::int32_t last) const {
    std::int32_t const step = queries_of(smallest_rows);
    return best(first, last, 0, (last - first + step - 1) / step);
  }
  cut best(std::int32_t first, std::int32_t last, std::int32_t from, std::int32_t to) const {
    std::int32_t const step = queries_of(smallest_rows);
    cut const one{work(first + from * step, smaller(last, first + to * step)), std::uint32_t{1} << from};
    if (to - from == 1) return one;
    std::int32_t const middle = to - (to - from) / 2;
    cut const left = best(first, last, from, middle), right = best(first, last, middle, to);
    return left.work + right.work < one.work ? cut{left.work + right.work, left.starts | right.starts} : one;
  }

  template <class F> void emit_best(std::int32_t first, std::int32_t last, F const& emit) const {
    std::int32_t const step = queries_of(smallest_rows);
    std::uint32_t const starts = best(first, last).starts;
    for (std::int32_t begin = first, i = 1; begin < last; ++i) {
      std::int32_t const end = smaller(last, first + i * step);
      if (end < last && (starts >> i & 1) == 0) continue;
      emit(begin, end);
      begin = end;
    }
  }

  P const& pattern_;
  query_view<TQ> const& q_;
  std::int32_t group_;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
