// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/mma_tile.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// How a block decodes rows of Width elements. Decoding waits for memory: what counts is how many bytes are on their
/// way to a multiprocessor, 40 KB and more on Hopper. Each of `blocks` has one stage of two in flight:
///
///   width   stage     in flight   registers that a thread may have
///      64   18.3 KB   4: 73 KB    128
///      96   26.3 KB   3: 79 KB    168
///     128   34.3 KB   3: 103 KB   168
///     256   33.1 KB   3: 99 KB    255, in two warps: sums of 16 rows take 128
///
/// A warp takes 16 rows and 16 keys at a time, so that a stage of 16 keys per warp keeps all of them busy, be it that
/// they share the keys of one tile of rows, or that each has rows of its own.
template <simt::Half T, std::int32_t Width> struct decode_tile {
  static constexpr std::int32_t warps = Width <= 128 ? 4 : 2, threads = warps * simt::warp_threads;
  static constexpr std::int32_t blocks = Width <= 64 ? 4 : 3;  // that a multiprocessor shall hold
  static constexpr std::int32_t step = 16;                     // rows, and keys, of a warp
  static constexpr std::int32_t keys = warps * step;           // of a stage
  static constexpr std::int32_t rows = warps * step;           // that share what a block reads
  static constexpr std::int32_t fewest_tiles = 256 / keys;     // of a split: less is not worth a part to merge

  using tile = mma_tile<T, Width>;
  static constexpr std::int32_t tile_bytes = tile::bytes(keys);
  static constexpr std::int32_t stage_bytes = 2 * tile_bytes + keys * 4;  // keys, values, positions
  static constexpr std::int32_t state_bytes = warps * (2 * step + 1) * 4;
  static constexpr std::int32_t bytes = 2 * stage_bytes + (state_bytes + 15) / 16 * 16;

  static constexpr std::int32_t sums_pitch = Width + 4;  // floats
  static_assert(warps * step * sums_pitch * 4 <= 2 * stage_bytes, "decode_tile: sums take the place of the stages");
  static_assert(rows * keys * 4 <= stage_bytes, "decode_tile: probabilities take the place of a stage");
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
