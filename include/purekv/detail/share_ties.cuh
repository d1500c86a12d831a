// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/positions.hpp>
#include <purekv/detail/rank_key.hpp>
#include <purekv/detail/row_keys.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Which of the keys that tie with the cut of a group is kept, where lower positions go first: keys of their own, the
/// larger the lower the position, and those of all others never wanted.
template <Cache C, class Tiles> struct rank_ties {
  static constexpr std::int32_t threads = Tiles::threads;
  row_memory memory;
  C cache;
  std::int32_t blocks;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const index = simt::block_index().x / blocks, range = simt::block_index().x % blocks;
    std::int32_t const s = index / cache.kv_heads, h = index % cache.kv_heads;
    select_row const& row = memory.rows[index];
    cut_search const& cut = memory.group_cuts[s];
    if (h == 0 && range == 0 && simt::thread_index() == 0) memory.tie_cuts[s].wanted = cut.ties;
    std::uint32_t* const keys = memory.tie_keys + row.begin;
    for_each_key<Tiles>(key_range(memory.keys, row, range, blocks), [&](std::uint32_t token, std::uint32_t key) {
      auto const position = [&] { return *cache.run(s, h, static_cast<std::int32_t>(token)).positions; };
      keys[token] = key == cut.key ? ~static_cast<std::uint32_t>(position()) : evicted_key;
    });
  }
};

/// From which token on a head keeps none of the ties: the first at or beyond the position where those that are kept
/// end, or one more for the first heads that have a tie there. A block for each sequence.
template <Cache C> struct end_ties {
  static constexpr std::int32_t threads = 128;
  static constexpr std::size_t shared_bytes = threads / simt::warp_threads * sizeof(std::uint32_t);
  row_memory memory;
  C cache;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const s = simt::block_index().x;
    cut_search const& cut = memory.tie_cuts[s];
    std::int32_t const position = static_cast<std::int32_t>(~cut.key);
    std::uint32_t before = 0;
    for (std::int32_t first = 0; first < cache.kv_heads; first += threads) {
      std::int32_t const h = first + simt::thread_index();
      select_row* const row = h < cache.kv_heads ? memory.rows + std::int64_t{s} * cache.kv_heads + h : nullptr;
      std::int32_t const token = row != nullptr ? tokens_before(cache, s, h, position) : 0;
      bool const tied = row != nullptr && token < row->tokens && memory.tie_keys[row->begin + token] == cut.key;
      scanned const sum = block_scan<threads>(tied, simt::shared_memory<std::uint32_t>());
      if (row != nullptr) row->ties_end = token + (tied && before + sum.before < cut.ties);
      before += sum.all;
    }
  }
};

/// Gives the rows of a group their parts of its ties, earlier rows first, and so their own cuts and counts. A block for
/// each group.
struct share_cut {
  static constexpr std::int32_t threads = 128;
  static constexpr std::size_t shared_bytes = threads / simt::warp_threads * sizeof(std::uint32_t);
  row_memory memory;
  std::int32_t rows_per_group, blocks;

  PUREKV_DEVICE void operator()() const {
    cut_search const& cut = memory.group_cuts[simt::block_index().x];
    std::int64_t const first_row = std::int64_t{simt::block_index().x} * rows_per_group;
    std::uint32_t before = 0;
    for (std::int32_t first = 0; first < rows_per_group; first += threads) {
      std::int32_t const r = first + simt::thread_index();
      std::int64_t const index = first_row + r;
      range_count mine{};
      if (r < rows_per_group) mine = sum_of(memory.counts + index * blocks, blocks);
      scanned const sum = block_scan<threads>(mine.ties, simt::shared_memory<std::uint32_t>());
      if (r < rows_per_group) {
        std::uint32_t const taken = before + sum.before, left = cut.ties > taken ? cut.ties - taken : 0;
        std::uint32_t const ties = mine.ties < left ? mine.ties : left;
        memory.row_cuts[index].key = cut.key;
        memory.row_cuts[index].ties = ties;
        memory.rows[index].count = static_cast<std::int32_t>(mine.above + ties);
      }
      before += sum.all;
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
