// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/cache.hpp>
#include <purekv/detail/move_tile.cuh>
#include <purekv/detail/positions.hpp>
#include <purekv/detail/values_in_keys.hpp>
#include <purekv/selection.hpp>
#include <purekv/simt/barrier.hpp>

#include <cstddef>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The kept tokens of one head, and how many of them a head of `capacity` slots can take.
struct kept_tokens {
  std::int32_t const* token;
  std::int32_t count;

  PUREKV_DEVICE kept_tokens(selection const& kept, std::int32_t row, std::int32_t capacity)
      : token(kept.tokens(row)), count(smaller(kept.count(row), capacity)) {}
};

/// What moves with a token: its key, its value, its position or a row of a track.
struct moving_rows {
  std::byte* track = nullptr;
  std::int64_t bytes = 0;
  row_words row;
};

/// Moves rows within the heads of a cache: block (x, y, z) has head x and column y, y + columns, .. of moving[z].
/// A row may land where another one was, but never before its source. So within a column it is enough that a tile is
/// read before it is written; nothing of it lies where the tiles before were written. Columns never meet.
template <Cache C> struct compact_rows {
  static constexpr std::int32_t threads = move_tuning::threads, min_blocks = move_tuning::blocks;
  static constexpr std::int32_t most = 8, most_columns = 256;
  C cache;
  selection kept;
  moving_rows moving[most];
  std::int32_t first;  // moving[z] is of number first + z: keys, values, positions, tracks

  PUREKV_DEVICE void operator()() const {
    using T = typename C::element;
    std::int32_t const s = simt::block_index().x / cache.kv_heads, h = simt::block_index().x % cache.kv_heads;
    std::int32_t const number = first + simt::block_index().z;
    moving_rows const& m = moving[simt::block_index().z];
    kept_tokens const list(kept, kept.row_of(s, h, cache.kv_heads), cache.capacity(s, h));
    if (list.count == 0) return;
    if (number == 1 && values_in_keys(cache, s, h)) return;
    std::int32_t const length = cache.length(s, h);
    if (number <= 1) {
      constexpr std::int32_t wide = 16 / static_cast<std::int32_t>(sizeof(T));
      auto const at = [&](std::int32_t t) {
        auto const run = cache.run(s, h, t);
        return number == 0 ? run.keys : run.values;
      };
      if (m.row.width == wide)
        move<wide>(m.row, list, length, at);
      else
        move<1>(m.row, list, length, at);
    } else if (number == 2) {
      move<1>(m.row, list, length, [&](std::int32_t t) { return cache.run(s, h, t).positions; });
    } else {
      auto const at = [&](std::int32_t t) {
        return reinterpret_cast<unsigned char*>(m.track) + cache.slot(s, h, t) * m.bytes;
      };
      if (m.row.width == 16)
        move<16>(m.row, list, length, at);
      else if (m.row.width == 4)
        move<4>(m.row, list, length, at);
      else
        move<1>(m.row, list, length, at);
    }
  }

 private:
  template <std::int32_t Width, class At>
  PUREKV_DEVICE static void move(row_words const& row, kept_tokens const& list, std::int32_t length, At const& at) {
    std::int64_t const step = std::int64_t{simt::grid_size().y} << row.shift;
    for (std::int64_t column = std::int64_t{simt::block_index().y} << row.shift; column < row.count; column += step)
      for (std::int64_t begin = 0; begin < list.count; begin += row.tile()) {
        auto const source = [&](std::int32_t r) {
          std::int64_t const i = begin + r;
          std::int32_t const token = i < list.count ? list.token[i] : -1;
          bool const moves = token > i && token < length;
          auto* const row_at = at(moves ? token : 0);
          return moves ? row_at : nullptr;
        };
        auto const target = [&](std::int32_t r) { return at(static_cast<std::int32_t>(begin + r)); };
        move_tile<Width>(row, column, source, target, [] { simt::sync(); });
      }
  }
};

/// Copies rows from one cache to another: block (x, y, z) has tiles y, y + tiles, .. of head x, of its keys, values or
/// positions.
template <Cache C, Cache D> struct compact_copy {
  static constexpr std::int32_t threads = move_tuning::threads, min_blocks = move_tuning::blocks;
  /// Elements in a word: 16 bytes of the wider type.
  static constexpr std::int32_t wide =
      16 / static_cast<std::int32_t>(sizeof(typename C::element) > sizeof(typename D::element)
                                         ? sizeof(typename C::element)
                                         : sizeof(typename D::element));
  C source;
  D destination;
  selection kept;
  row_words rows[3];  // of keys, values, positions

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().x / source.kv_heads, h = simt::block_index().x % source.kv_heads;
    std::int32_t const what = simt::block_index().z;
    row_words const& row = rows[what];
    kept_tokens const list(kept, kept.row_of(s, h, source.kv_heads), destination.capacity(s, h));
    auto const element = [&](auto const& cache, std::int32_t t) {
      auto const run = cache.run(s, h, t);
      return what == 0 ? run.keys : run.values;
    };
    auto const position = [&](auto const& cache, std::int32_t t) { return cache.run(s, h, t).positions; };
    std::int32_t const length = source.length(s, h);
    if (what == 2)
      copy<1>(row, list, length, position);
    else if (row.width == wide)
      copy<wide>(row, list, length, element);
    else
      copy<1>(row, list, length, element);
  }

 private:
  template <std::int32_t Width, class At>
  PUREKV_DEVICE void copy(row_words const& row, kept_tokens const& list, std::int32_t length, At const& at) const {
    std::int64_t const step = std::int64_t{simt::grid_size().y} * row.tile();
    for (std::int64_t begin = std::int64_t{simt::block_index().y} * row.tile(); begin < list.count; begin += step)
      for (std::int64_t column = 0; column < row.count; column += std::int64_t{1} << row.shift) {
        auto const from = [&](std::int32_t r) {
          std::int64_t const i = begin + r;
          std::int32_t const token = i < list.count ? list.token[i] : -1;
          bool const cached = token >= 0 && token < length;
          auto* const row_at = at(source, cached ? token : 0);
          return cached ? row_at : nullptr;
        };
        auto const to = [&](std::int32_t r) { return at(destination, static_cast<std::int32_t>(begin + r)); };
        move_tile<Width>(row, column, from, to, [] {});
      }
  }
};

struct kept_length {
  selection kept;

  template <Cache C> PUREKV_DEVICE std::int32_t operator()(C const& cache, std::int32_t s, std::int32_t h) const {
    return kept_tokens(kept, kept.row_of(s, h, cache.kv_heads), cache.capacity(s, h)).count;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
