// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/attend_cost.hpp>
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
///        + (keys of the tile) * attend_cost::widening
///
/// where that of partly visible keys is no more than what they cost as scattered runs, if all queries see as many of
/// them as the one in the middle.
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
        std::int64_t const together = work(first, whole, false);
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

  /// one_piece: the queries are of one piece of the pattern, so that what one of them sees says what the others see.
  std::int64_t work(std::int32_t first, std::int32_t last, bool one_piece) const {
    std::int32_t const rows = (last - first) * group_, blocks = (rows + block_lanes - 1) / block_lanes;
    auto const bound = [&](std::int32_t row) {
      return std::int64_t{last_visible(pattern_, q_.batch.positions[first + row / group_])} + 1;
    };
    auto const keys = [](std::int64_t end, std::int32_t k_first, std::int32_t k_last) {
      std::int64_t const seen = (end <= k_last ? end : std::int64_t{k_last} + 1) - k_first;
      return seen > 0 ? seen : 0;
    };
    // One cut serves all KV heads. Their work differs only if the pattern tells them apart.
    std::int64_t all = 0;
    for (std::int32_t h = 0; h < (has_runs_by_head<P>() ? q_.rows.heads : group_); h += group_) {
      std::int64_t full = 0, partial = 0, full_of_one = 0, of_one = 0;
      std::int32_t const one = (last - first) / 2;
      runs_of(pattern_, h, h + group_ - 1, q_.batch.positions[first], q_.batch.positions[last - 1],
              [&](std::int32_t k_first, std::int32_t k_last, bool whole) {
                std::int64_t sum = keys(bound(rows - 1), k_first, k_last) * attend_cost::widening;
                for (std::int32_t b = 0; b < blocks; ++b)
                  sum += keys(bound(smaller((b + 1) * block_lanes, rows) - 1), k_first, k_last) * block_lanes;
                (whole ? full : partial) += sum;
                if (whole) full_of_one += keys(bound(one * group_), k_first, k_last);
              });
      if (masks_known<P>() && one_piece && partial > 0) {
        std::int32_t const at = q_.batch.positions[first + one];
        runs_of(pattern_, h, h + group_ - 1, at, at, [&](std::int32_t k_first, std::int32_t k_last, bool) {
          of_one += keys(bound(one * group_), k_first, k_last);
        });
        std::int64_t const pairs = of_one > full_of_one ? (of_one - full_of_one) * (last - first) : 0;
        std::int64_t const apart =
            attend_cost::scattered(pairs, group_) + attend_cost::scattering(last - first, group_);
        if (apart < partial) partial = apart;
      }
      all += full + partial;
    }
    return all;
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
    cut const one{work(first + from * step, smaller(last, first + to * step), true), std::uint32_t{1} << from};
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
