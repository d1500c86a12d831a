// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/block_scan.cuh>
#include <purekv/detail/row_memory.cuh>
#include <purekv/simt/copy.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

using key_pack = simt::pack<std::uint32_t, 4>;

/// Range `range` of `blocks` of a row's keys, in packs at multiples of 16 bytes: the first and the last of them hold
/// keys of other rows as well, or of none.
struct key_range {
  key_pack const* packs;
  std::uint32_t first, last;  // of the packs
  std::uint32_t skipped;      // keys before the row's in its first pack
  std::uint32_t tokens;

  PUREKV_DEVICE key_range(std::uint32_t const* keys, select_row const& row, std::int32_t range, std::int32_t blocks)
      : packs(reinterpret_cast<key_pack const*>(keys + row.begin / 4 * 4)),
        skipped(static_cast<std::uint32_t>(row.begin % 4)),
        tokens(static_cast<std::uint32_t>(row.tokens)) {
    std::uint64_t const all = (std::uint64_t{skipped} + tokens + 3) / 4, of = static_cast<std::uint64_t>(blocks);
    first = static_cast<std::uint32_t>(all * static_cast<std::uint64_t>(range) / of);
    last = static_cast<std::uint32_t>(all * (static_cast<std::uint64_t>(range) + 1) / of);
  }

  PUREKV_DEVICE key_pack load(std::uint32_t pack) const {
    return pack < last ? simt::load_global(packs + pack) : key_pack{};
  }
  /// The token whose key is element i of a pack; not below `tokens` if it is not one of this range.
  PUREKV_DEVICE std::uint32_t token(std::uint32_t pack, std::uint32_t i) const {
    return pack < last ? pack * 4 + i - skipped : tokens;
  }
};

/// Calls f(token, key) for the keys of a range, by all threads of a block.
template <class Tiles, class F> PUREKV_DEVICE void for_each_key(key_range const& range, F const& f) {
  constexpr std::uint32_t threads = Tiles::threads, packs = Tiles::packs;
  for (std::uint32_t at = range.first + static_cast<std::uint32_t>(simt::thread_index()); at < range.last;
       at += threads * packs) {
    key_pack keys[packs];
    PUREKV_DEVICE_UNROLL
    for (std::uint32_t j = 0; j < packs; ++j) keys[j] = range.load(at + j * threads);
    PUREKV_DEVICE_UNROLL
    for (std::uint32_t j = 0; j < packs; ++j) {
      PUREKV_DEVICE_UNROLL
      for (std::uint32_t i = 0; i < 4; ++i)
        if (std::uint32_t const token = range.token(at + j * threads, i); token < range.tokens) f(token, keys[j].at[i]);
    }
  }
}

/// What the first `ranges` ranges of a row count together.
PUREKV_DEVICE range_count sum_of(range_count const* counts, std::int32_t ranges) {
  range_count sum{};
  for (std::int32_t r = 0; r < ranges; ++r) {
    sum.above += counts[r].above;
    sum.ties += counts[r].ties;
  }
  return sum;
}

/// Calls f(token, rank) for the tokens of a range that are kept, of which `rank` lower ones of the row are. before: the
/// counts of the ranges below. All threads of a block come. totals : [threads / 32].
template <class Tiles, class F>
PUREKV_DEVICE void for_each_kept(key_range const& range, cut_search const& cut, range_count before,
                                 simt::shared<std::uint32_t> totals, F const& f) {
  constexpr std::uint32_t threads = Tiles::threads, packs = Tiles::packs, one_tie = 1 << 16;
  static_assert(threads * packs * 4 < one_tie, "select: two counts of a tile lie in one number of 32 bits");
  auto const smaller = [](std::uint32_t a, std::uint32_t b) { return a < b ? a : b; };
  for (std::uint32_t tile = range.first; tile < range.last; tile += threads * packs) {
    std::uint32_t const at = tile + static_cast<std::uint32_t>(simt::thread_index()) * packs;
    key_pack keys[packs];
    PUREKV_DEVICE_UNROLL
    for (std::uint32_t j = 0; j < packs; ++j) keys[j] = range.load(at + j);
    std::uint32_t mine = 0;
    PUREKV_DEVICE_UNROLL
    for (std::uint32_t j = 0; j < packs; ++j) {
      PUREKV_DEVICE_UNROLL
      for (std::uint32_t i = 0; i < 4; ++i)
        if (range.token(at + j, i) < range.tokens)
          mine += keys[j].at[i] > cut.key ? 1u : keys[j].at[i] == cut.key ? one_tie : 0u;
    }
    scanned const sum = block_scan<Tiles::threads>(mine, totals);
    std::uint32_t above = before.above + sum.before % one_tie, ties = before.ties + sum.before / one_tie;
    PUREKV_DEVICE_UNROLL
    for (std::uint32_t j = 0; j < packs; ++j) {
      PUREKV_DEVICE_UNROLL
      for (std::uint32_t i = 0; i < 4; ++i) {
        std::uint32_t const token = range.token(at + j, i), key = keys[j].at[i];
        if (token >= range.tokens || key < cut.key) continue;
        if (key > cut.key || ties < cut.ties) f(token, above + smaller(ties, cut.ties));
        above += key > cut.key;
        ties += key == cut.key;
      }
    }
    before.above += sum.all % one_tie;
    before.ties += sum.all / one_tie;
  }
}

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
