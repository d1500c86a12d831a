// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/bfloat16_dot.hpp>
#include <purekv/detail/carve.hpp>
#include <purekv/detail/pack.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Up to 64 cached tokens, gathered from the runs of a plan wherever they lie and widened to float.
struct key_tile {
  static constexpr std::int32_t capacity = 64;  // one bit each in `partial`; keys and values of 128 dims stay in L2

  float* keys;              // [capacity, dim]
  float* values;            // [capacity, value dim]
  std::int32_t* ordinals;   // [capacity], ascending
  std::int32_t* positions;  // [capacity]
  std::int32_t count = 0;
  std::uint64_t partial = 0;  // keys that the pattern must be asked about
  float largest_key = 0, largest_value = 0;

  /// Keys [slot, slot + count) of the tile are keys [first, first + count) of a partly visible run.
  struct piece {
    key_run const* run;
    std::int32_t first, slot, count;
  };
  piece pieces[capacity];
  std::int32_t piece_count = 0;

  static key_tile take(carve& memory, std::int32_t dim, std::int32_t value_dim) {
    float* const keys = memory.take<float>(std::int64_t{capacity} * dim);
    float* const values = memory.take<float>(std::int64_t{capacity} * value_dim);
    std::int32_t* const ordinals = memory.take<std::int32_t>(capacity);
    key_tile tile{};
    tile.keys = keys;
    tile.values = values;
    tile.ordinals = ordinals;
    tile.positions = memory.take<std::int32_t>(capacity);
    return tile;
  }

  /// How many of its keys have an ordinal below `bound`.
  std::int32_t below(std::int32_t bound) const {
    std::int32_t n = count;
    while (n > 0 && ordinals[n - 1] >= bound) --n;
    return n;
  }
};

/// Fills tiles with the tokens of `runs`, in order; keys as they are, in pairs, for queries that meet them so.
template <Cache C, class TQ> class key_walk {
  using key_magnitude = magnitude_of<in_pairs<TQ, typename C::element>>;

 public:
  key_walk(C const& cache, std::int32_t sequence, std::int32_t kv_head, key_run const* runs, std::int32_t count)
      : cache_(cache), sequence_(sequence), kv_head_(kv_head), run_(runs), end_(runs + count) {}

  /// skip_scattered: runs that are scattered are left out.
  bool next(key_tile& tile, bool skip_scattered) {
    tile.count = 0;
    tile.partial = 0;
    tile.piece_count = 0;
    key_magnitude keys;
    magnitude values;
    while (tile.count < key_tile::capacity && run_ != end_) {
      if (skip_scattered && run_->scattered != 0) {
        ++run_;
        continue;
      }
      std::int32_t const first = run_->begin + done_, slot = tile.count;
      std::int32_t const count = smaller(key_tile::capacity - tile.count, run_->count - done_);
      for_each_stretch(cache_, sequence_, kv_head_, first, first + count,
                       [&](auto const& tokens, std::int32_t ordinal, std::int32_t n) {
                         add(tile, tokens, ordinal, n, keys, values);
                       });
      if (run_->full == 0) {
        std::uint64_t const bits = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
        tile.partial |= bits << slot;
        tile.pieces[tile.piece_count++] = {run_, done_, slot, count};
      }
      done_ += count;
      if (done_ == run_->count) {
        ++run_;
        done_ = 0;
      }
    }
    tile.largest_key = keys.largest();
    tile.largest_value = values.largest();
    return tile.count > 0;
  }

 private:
  template <class Run>
  void add(key_tile& tile, Run const& tokens, std::int32_t ordinal, std::int32_t n, key_magnitude& keys,
           magnitude& values) const {
    std::int32_t const dim = cache_.dim, value_dim = value_dim_of(cache_);
    if constexpr (in_pairs<TQ, typename C::element>)
      copy_pairs(tokens.keys, tokens.stride, n, dim, tile.keys + std::ptrdiff_t{tile.count} * pairs_of(dim), keys);
    else
      widen_rows(tokens.keys, tokens.stride, n, dim, tile.keys + std::ptrdiff_t{tile.count} * dim, keys);
    widen_rows(tokens.values, tokens.value_stride, n, value_dim, tile.values + std::ptrdiff_t{tile.count} * value_dim,
               values);
    for (std::int32_t i = 0; i < n; ++i) {
      tile.ordinals[tile.count + i] = ordinal + i;
      tile.positions[tile.count + i] = tokens.positions[i];
    }
    tile.count += n;
  }

  C const& cache_;
  std::int32_t sequence_, kv_head_;
  key_run const* run_;
  key_run const* end_;
  std::int32_t done_ = 0;
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
