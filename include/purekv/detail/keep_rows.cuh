// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/positions.hpp>
#include <purekv/detail/rank_key.hpp>
#include <purekv/detail/row_keys.cuh>
#include <purekv/selection.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// n words to 0.
struct clear_words {
  static constexpr std::int32_t threads = 256;
  std::uint32_t* words;
  std::int64_t n;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const step = std::int64_t{simt::grid_size().x} * threads;
    for (std::int64_t i = std::int64_t{simt::block_index().x} * threads + simt::thread_index(); i < n; i += step)
      words[i] = 0;
  }
};

/// Block (row, range) counts the keys of its range against the cut of its row.
template <class Tiles> struct count_kept {
  static constexpr std::int32_t threads = Tiles::threads;
  static constexpr std::size_t shared_bytes = threads / simt::warp_threads * sizeof(std::uint32_t);
  row_memory memory;
  cut_search const* cuts;  // a search for so many rows
  std::int32_t rows_per_cut, blocks;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const index = simt::block_index().x / blocks, range = simt::block_index().x % blocks;
    select_row const& row = memory.rows[index];
    std::uint32_t const cut = cuts[index / rows_per_cut].key, end = static_cast<std::uint32_t>(row.ties_end);
    range_count mine{};
    for_each_key<Tiles>(key_range(memory.keys, row, range, blocks), [&](std::uint32_t token, std::uint32_t key) {
      mine.above += key > cut;
      mine.ties += key == cut && token < end;
    });
    auto const totals = simt::shared_memory<std::uint32_t>();
    range_count const all{block_scan<threads>(mine.above, totals).all, block_scan<threads>(mine.ties, totals).all};
    if (simt::thread_index() == 0) memory.counts[simt::block_index().x] = all;
  }
};

/// Makes the keys that a row keeps ones that are kept in any case.
template <class Tiles> struct pin_kept {
  static constexpr std::int32_t threads = Tiles::threads, min_blocks = 2;
  static constexpr std::size_t shared_bytes = threads / simt::warp_threads * sizeof(std::uint32_t);
  row_memory memory;
  std::int32_t blocks;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const index = simt::block_index().x / blocks, range = simt::block_index().x % blocks;
    select_row const& row = memory.rows[index];
    cut_search const& cut = memory.row_cuts[index];
    if (cut.key == pinned_key) return;  // they are already
    std::uint32_t* const keys = memory.keys + row.begin;
    for_each_kept<Tiles>(
        key_range(memory.keys, row, range, blocks), cut, sum_of(memory.counts + std::int64_t{index} * blocks, range),
        simt::shared_memory<std::uint32_t>(), [&](std::uint32_t token, std::uint32_t) { keys[token] = pinned_key; });
  }
};

/// offset : an exclusive scan over the counts, by one block. Rows of the selection are [layers, sequences, heads],
/// those of the memory [sequences, layers, heads].
struct put_offsets {
  static constexpr std::int32_t threads = 512;
  static constexpr std::size_t shared_bytes = threads * sizeof(std::int64_t);
  select_row* rows;
  selection out;
  std::int32_t layers, sequences;

  PUREKV_DEVICE void operator()() const {
    auto const sums = simt::shared_memory<std::int64_t>();
    std::int32_t const thread = simt::thread_index();
    std::int32_t const first = static_cast<std::int32_t>(std::int64_t{out.rows} * thread / threads);
    std::int32_t const last = static_cast<std::int32_t>(std::int64_t{out.rows} * (thread + 1) / threads);
    std::int64_t sum = 0;
    for (std::int32_t r = first; r < last; ++r) sum += row_of(r).count;
    std::int64_t until = sum;
    for (std::int32_t distance = 1; distance < threads; distance *= 2) {
      sums.store(thread, until);
      simt::sync();
      if (thread >= distance) until += sums.load(thread - distance);
      simt::sync();
    }
    std::int64_t offset = until - sum;
    for (std::int32_t r = first; r < last; ++r) {
      select_row& row = row_of(r);
      out.offset[r] = row.offset = offset;
      offset += row.count;
    }
    if (thread == threads - 1) out.offset[out.rows] = offset;
  }

 private:
  PUREKV_DEVICE select_row& row_of(std::int32_t r) const {
    std::int32_t const heads = out.rows / layers / sequences;
    std::int32_t const h = r % heads, s = r / heads % sequences, l = r / heads / sequences;
    return rows[(s * layers + l) * heads + h];
  }
};

/// token : what each row keeps, ascending, from its offset on.
template <class Tiles> struct put_kept {
  static constexpr std::int32_t threads = Tiles::threads, min_blocks = 2;
  static constexpr std::size_t shared_bytes = threads / simt::warp_threads * sizeof(std::uint32_t);
  row_memory memory;
  std::int32_t blocks;
  selection out;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const index = simt::block_index().x / blocks, range = simt::block_index().x % blocks;
    select_row const& row = memory.rows[index];
    for_each_kept<Tiles>(key_range(memory.keys, row, range, blocks), memory.row_cuts[index],
                         sum_of(memory.counts + std::int64_t{index} * blocks, range),
                         simt::shared_memory<std::uint32_t>(), [&](std::uint32_t token, std::uint32_t rank) {
                           std::int64_t const at = row.offset + rank;
                           if (at < out.capacity) out.token[at] = static_cast<std::int32_t>(token);
                         });
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
