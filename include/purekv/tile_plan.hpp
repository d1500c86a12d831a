// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

/// Cached tokens [begin, begin + count) of a head. full: every query of the tile sees all of them, causality apart;
/// otherwise the pattern is asked for each pair.
struct key_run {
  std::int32_t begin, count, full;
};

/// Queries [first, first + count) of the packed batch with all heads of a group, and runs[runs_begin ..] of the keys
/// that some of them sees: ascending, disjoint, none beyond the last query.
struct query_tile {
  std::int32_t sequence, first, count;
  std::int64_t runs_begin;
  std::int32_t runs;
};

/// What attention with a pattern computes; made by `plan`, lies in the caller's memory.
struct tile_plan {
  query_tile const* tiles = nullptr;  // [per_kv_head ? kv_heads : 1, tiles_per_head], by sequence and query
  key_run const* runs = nullptr;
  std::int32_t tiles_per_head = 0;
  bool per_kv_head = false;       // the tiles of KV head h start at h * tiles_per_head; otherwise all share them
  std::int32_t tile_queries = 0;  // of the largest tile
  std::int32_t sequences = 0, heads = 0, kv_heads = 0, queries = 0;

  PUREKV_INLINE query_tile const& tile(std::int32_t kv_head, std::int32_t index) const {
    return tiles[(per_kv_head ? std::int64_t{kv_head} * tiles_per_head : std::int64_t{0}) + index];
  }
};

}  // namespace purekv::inline v0_1
