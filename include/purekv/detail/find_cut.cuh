// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/last_block.cuh>
#include <purekv/detail/rank_key.hpp>
#include <purekv/detail/row_keys.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Finds digits [first_digit, last_digit) of where the wanted keys of each search end, digits of 11, 11 and 10 bits
/// from the top: a digit is the bin of a histogram in which the wanted number falls when it is counted down from the
/// largest. Block (row, range) counts its keys. Where several blocks take part in a search, the last one to finish
/// looks for the bin, so that every digit is a launch of its own. Keys that are evicted are never wanted.
template <class Tiles> struct find_cut_digits {
  static constexpr std::int32_t threads = Tiles::threads, digits = 3;
  static constexpr std::int32_t bins = row_memory::bins, bins_of_thread = bins / threads;
  static constexpr std::size_t shared_bytes = (bins + threads / simt::warp_threads + 3) * sizeof(std::uint32_t);
  static_assert(bins % threads == 0);

  std::uint32_t const* keys;
  select_row const* rows;
  cut_search* searches;
  std::uint32_t* histograms;
  std::int32_t blocks, rows_per_search, first_digit, last_digit;

  struct bin {
    std::uint32_t index, wanted;  // of the keys in it
  };

  PUREKV_DEVICE void operator()() const {
    auto const histogram = simt::shared_memory<std::uint32_t>(), totals = histogram + bins,
               found = totals + threads / simt::warp_threads;
    std::int32_t const row = simt::block_index().x / blocks, range = simt::block_index().x % blocks;
    std::int32_t const index = row / rows_per_search;
    std::uint32_t const together = static_cast<std::uint32_t>(blocks) * static_cast<std::uint32_t>(rows_per_search);
    key_range const mine(keys, rows[row], range, blocks);
    cut_search& search = searches[index];
    std::uint32_t const all = search.wanted > search.least ? search.wanted : search.least;
    std::uint32_t key = first_digit == 0 ? 0 : search.key, wanted = first_digit == 0 ? all : search.ties;
    for (std::int32_t d = first_digit; d < last_digit; ++d) {
      count(d, key, mine, histogram);
      if (together > 1) {
        gather(histogram, histograms + std::int64_t{index} * bins);
        if (!last_block(&search.ticket, together, found + 2)) return;
        spread(histograms + std::int64_t{index} * bins, histogram);
      }
      if (wanted == 0) continue;
      bin const b = choose(histogram, totals, found, wanted);
      key |= b.index << shift(d);
      wanted = b.wanted;
    }
    if (simt::thread_index() != 0) return;
    search.key = wanted == 0 ? pinned_key : key;
    search.ties = wanted;
  }

 private:
  PUREKV_DEVICE static std::int32_t shift(std::int32_t digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }

  /// The keys that begin with the digits found so far, by their next one.
  PUREKV_DEVICE static void count(std::int32_t digit, std::uint32_t begin, key_range const& range,
                                  simt::shared<std::uint32_t> histogram) {
    for (std::int32_t b = simt::thread_index(); b < bins; b += threads) histogram.store(b, 0);
    simt::sync();
    std::uint32_t const known = digit == 0 ? 0 : ~0u << shift(digit - 1);
    std::int32_t const low = shift(digit);
    for_each_key<Tiles>(range, [&](std::uint32_t, std::uint32_t key) {
      if ((key & known) == begin && key != evicted_key)
        simt::atomic_add(histogram + static_cast<std::int32_t>((key & ~known) >> low), 1u);
    });
    simt::sync();
  }

  PUREKV_DEVICE static void gather(simt::shared<std::uint32_t> from, std::uint32_t* to) {
    for (std::int32_t b = simt::thread_index(); b < bins; b += threads)
      if (std::uint32_t const n = from.load(b); n != 0) simt::atomic_add(to + b, n);
  }

  /// And leaves zeros for the next search.
  PUREKV_DEVICE static void spread(std::uint32_t* from, simt::shared<std::uint32_t> to) {
    for (std::int32_t b = simt::thread_index(); b < bins; b += threads) {
      to.store(b, from[b]);
      from[b] = 0;
    }
    simt::sync();
  }

  /// The first threads have the highest bins.
  PUREKV_DEVICE static bin choose(simt::shared<std::uint32_t> histogram, simt::shared<std::uint32_t> totals,
                                  simt::shared<std::uint32_t> found, std::uint32_t wanted) {
    std::int32_t const top = bins - 1 - simt::thread_index() * bins_of_thread;
    std::uint32_t mine = 0;
    for (std::int32_t i = 0; i < bins_of_thread; ++i) mine += histogram.load(top - i);
    std::uint32_t above = block_scan<threads>(mine, totals).before;
    if (above < wanted && wanted - above <= mine) {
      std::int32_t b = top;
      for (std::uint32_t n = histogram.load(b); above + n < wanted; n = histogram.load(--b)) above += n;
      found.store(0, static_cast<std::uint32_t>(b));
      found.store(1, wanted - above);
    }
    simt::sync();
    return {found.load(0), found.load(1)};
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
