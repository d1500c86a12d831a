// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/gpu.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How a row's keys are dealt out. A thread loads `packs` packs of 4 before it uses one, so that their latencies
/// overlap. Several blocks share a row where each gets `keys_per_block`: below, more launches cost more than they save.
struct select_tiles {
  static constexpr std::int32_t threads = 512, packs = 4, keys_per_block = 16384;
};

/// A row of the selection: its keys lie side by side.
struct select_row {
  std::int64_t begin;                     // its first key
  std::int64_t offset;                    // of its tokens in the selection
  std::int32_t tokens, count;             // that it has, that it keeps
  std::int32_t ties_end;                  // ties from this token on are not kept
  std::uint32_t pinned, evicted, ticket;  // how many tokens, how many blocks have counted theirs
};

/// Where the `wanted` largest keys of some rows end, digit by digit from the top.
struct cut_search {
  std::uint32_t key;     // the digits found, then zeros
  std::uint32_t ties;    // how many are wanted of the keys that begin with these digits
  std::uint32_t wanted;  // or `least`, if that is more
  std::uint32_t least;
  std::uint32_t ticket;
};

/// Keys of a range that are above the cut, and those that tie with it.
struct range_count {
  std::uint32_t above, ties;
};

/// What the host knows: capacities, not lengths.
struct select_shape {
  std::int64_t keys;                  // room for them, of all rows
  std::int32_t rows, rows_per_group;  // those that share a budget, neighbours, or 1
  std::int32_t blocks;                // that share a row
  std::int32_t ranking_blocks;        // when its tokens are ranked
  bool sharing, ties_by_position;

  std::int32_t groups() const { return rows / rows_per_group; }
};

/// So many that each has `least` keys of a row of average length, but not more than the device runs at once.
inline std::int32_t blocks_per_row(gpu const& exec, std::int64_t keys_per_row, std::int32_t rows, std::int32_t least) {
  std::int64_t const by_keys = keys_per_row / least, by_device = 2 * exec.device.multiprocessors / rows;
  std::int64_t const blocks = by_keys < by_device ? by_keys : by_device;
  return blocks < 1 ? 1 : static_cast<std::int32_t>(blocks);
}

struct row_memory {
  static constexpr std::int32_t bins = 1 << 11;

  cut_search *row_cuts, *group_cuts, *tie_cuts;  // [rows], [groups], [groups]
  select_row* rows;                              // [rows]
  std::uint32_t* histograms;                     // [bins] for each search that several blocks take part in
  range_count* counts;                           // [rows, blocks]
  std::uint32_t *keys, *tie_keys;                // the latter for ties by position
  std::int64_t zeros;                            // 32-bit words from row_cuts on that must be 0 at first

  static row_memory take(carve& memory, select_shape const& shape) {
    std::size_t const first = memory.bytes();
    std::int64_t const searches = shape.blocks > 1 ? shape.rows : shape.sharing ? shape.groups() : 0;
    row_memory m{};
    m.row_cuts = memory.take<cut_search>(shape.rows);
    m.group_cuts = memory.take<cut_search>(shape.sharing ? shape.groups() : 0);
    m.tie_cuts = memory.take<cut_search>(shape.ties_by_position ? shape.groups() : 0);
    m.rows = memory.take<select_row>(shape.rows);
    m.histograms = memory.take<std::uint32_t>(searches * bins);
    m.zeros = static_cast<std::int64_t>((memory.bytes() - first) / sizeof(std::uint32_t));
    m.counts = memory.take<range_count>(std::int64_t{shape.rows} * shape.blocks);
    m.keys = memory.take<std::uint32_t>(shape.keys);
    m.tie_keys = memory.take<std::uint32_t>(shape.ties_by_position ? shape.keys : 0);
    return m;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
