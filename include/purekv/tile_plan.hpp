// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/config.hpp>

#include <cstdint>

namespace purekv::inline v0_1 {

/// Cached tokens [begin, begin + count) of a head. full: every query of the tile sees all of them, causality apart.
/// Otherwise `masks` says where tile_plan::masks holds which query sees which key, [queries of the tile, words()], or
/// [queries x heads of the group, words()] if heads differ; -1: nowhere, the pattern is asked for each pair.
/// scattered: so few pairs of a run with masks are visible that the CPU computes only those, query by query; a plan
/// made on a GPU, whose kernels know only tiles, leaves it 0.
struct key_run {
  std::int32_t begin, count, full, scattered = 0;
  std::int64_t masks = -1;

  PUREKV_INLINE std::int32_t words() const { return (count + 63) / 64; }
};

/// Queries [first, first + count) of the packed batch with all heads of a group, and runs[runs_begin ..] of the keys
/// that some of them sees: ascending, disjoint, none beyond the last query.
struct query_tile {
  std::int32_t sequence, first, count, runs;
  std::int64_t runs_begin, masks_begin;
};

/// What a kernel rounds a tile up to: blocks of `rows` rows (query x head of the group), all of whose rows meet the
/// keys of the last one, and a multiple of `keys` keys. scattered: it computes scattered runs query by query.
struct tile_grain {
  std::int32_t rows = 1, keys = 1;
  bool scattered = false;
};

/// What attention with a pattern computes; made by `plan`, lies in the caller's memory.
struct tile_plan {
  query_tile const* tiles = nullptr;  // [per_kv_head ? kv_heads : 1, tiles_per_head], by sequence and query
  key_run const* runs = nullptr;
  std::uint64_t const* masks = nullptr;
  std::int32_t tiles_per_head = 0;
  bool per_kv_head = false;       // the tiles of KV head h start at h * tiles_per_head; otherwise all share them
  std::int32_t tile_queries = 0;  // of the largest tile
  std::int32_t sequences = 0, heads = 0, kv_heads = 0, queries = 0;
  // How many of tiles_per_head there are, [per_kv_head ? kv_heads : 1], where only a device knows; null: all.
  std::int32_t const* tiles_used = nullptr;
  // Query number i of a tile is order[first + i], ascending within the tile; null: first + i. In a plan with an order,
  // which kernels of a GPU alone take, the keys of a run with masks need not be neighbours: they are a list.
  std::int32_t const* order = nullptr;  // [queries]

  PUREKV_INLINE std::int32_t tile_count(std::int32_t kv_head) const {
    return tiles_used == nullptr ? tiles_per_head : tiles_used[per_kv_head ? kv_head : 0];
  }
  PUREKV_INLINE query_tile const& tile(std::int32_t kv_head, std::int32_t index) const {
    return tiles[(per_kv_head ? std::int64_t{kv_head} * tiles_per_head : std::int64_t{0}) + index];
  }

  PUREKV_INLINE std::int32_t query(query_tile const& tile, std::int32_t i) const {
    return order == nullptr ? tile.first + i : order[tile.first + i];
  }
  PUREKV_INLINE bool is_listed(key_run const& run) const { return order != nullptr && run.masks >= 0; }
  /// The cached tokens of a listed run, [count], ascending.
  PUREKV_INLINE std::int32_t const* list(query_tile const& tile, key_run const& run) const {
    return reinterpret_cast<std::int32_t const*>(masks + run.masks + std::int64_t{tile.count} * run.words());
  }

  /// Which of the keys [first, first + count) of a run with masks the query number `query` of its tile sees, a bit
  /// each; count <= 64. If heads differ, `query` counts (query, head of the group).
  PUREKV_INLINE std::uint64_t seen(key_run const& run, std::int32_t query, std::int32_t first,
                                   std::int32_t count) const {
    std::uint64_t const* const words = masks + run.masks + std::int64_t{query} * run.words() + first / 64;
    std::int32_t const shift = first % 64;
    std::uint64_t bits = words[0] >> shift;
    if (shift + count > 64) bits |= words[1] << (64 - shift);
    return count == 64 ? bits : bits & ((std::uint64_t{1} << count) - 1);
  }
};

}  // namespace purekv::inline v0_1
