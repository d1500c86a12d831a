// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/concepts.hpp>
#include <purekv/detail/batch.cuh>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/simt/barrier.hpp>
#include <purekv/simt/shared.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Rows (query x head of the group) that a tile has at most: those of the largest block of the attention kernels.
inline constexpr std::int32_t device_tile_rows = 128;

template <Pattern P> std::int32_t most_tile_queries(std::int32_t group) {
  constexpr std::int32_t wanted = tile_rows<P>();
  return larger(1, (wanted > 0 && wanted < device_tile_rows ? wanted : device_tile_rows) / group);
}

/// Cuts the queries of a batch into tiles of at most `most`. Pieces end where the pattern says tile_end, and with a
/// sequence:
///
///   A piece longer than a tile is cut into full tiles behind one of what is left over. Shorter ones share a tile with
///   those that follow for as long as all of them fit, unless each is at least a quarter of a tile and apart they have
///   fewer keys to meet.
///
/// So there are at most 4 tiles for every `most` queries and one more for each sequence, whatever the pattern says.
template <Pattern P> struct query_cut {
  P pattern;
  batch_view batch;
  std::int32_t queries, heads, group, most;

  /// An upper bound of the number of tiles.
  static std::int32_t most_tiles(std::int32_t queries, std::int32_t sequences, std::int32_t most) {
    std::int64_t const tiles = has_tile_end<P>() ? std::int64_t{4} * queries / most + sequences
                                                 : (queries + std::int64_t{sequences} * (most - 1)) / most;
    return static_cast<std::int32_t>(tiles < queries ? tiles : queries);
  }

  /// Where the tile that begins with query i of a sequence [begin, end) ends.
  PUREKV_DEVICE std::int32_t tile_from(std::int32_t i, std::int32_t begin, std::int32_t end) const {
    std::int32_t const first = piece_end(i, end);
    // The shortest first: rows meet the keys up to their tile's last query.
    if (first - i > most) return i + (first - i - 1) % most + 1;
    if (!begins_piece(i, begin)) return first;
    std::int32_t last = first, shortest = first - i;
    while (last < end) {
      std::int32_t const next = piece_end(last, end);
      if (next - i > most) break;
      shortest = smaller(shortest, next - last);
      last = next;
    }
    if constexpr (has_runs<P>()) {
      if (last > first && 4 * shortest >= most) {
        std::int64_t apart = 0;
        for (std::int32_t p = i; p < last;) {
          std::int32_t const next = piece_end(p, end);
          apart += keys_of(p, next);
          p = next;
        }
        if (apart < keys_of(i, last)) return first;
      }
    }
    return last;
  }

 private:
  /// One past the last query of the piece that query i belongs to.
  PUREKV_DEVICE std::int32_t piece_end(std::int32_t i, std::int32_t end) const {
    if constexpr (has_tile_end<P>()) {
      std::int32_t const stop = pattern.tile_end(batch.positions[i]);
      std::int32_t low = i + 1, high = smaller(end - i, larger(1, stop - batch.positions[i])) + i;
      if (batch.positions[high - 1] < stop) return high;  // as in a prompt with no position missing
      while (low < high) {
        std::int32_t const middle = low + (high - low) / 2;
        if (batch.positions[middle] < stop)
          low = middle + 1;
        else
          high = middle;
      }
      return low;
    }
    return end;
  }
  PUREKV_DEVICE bool begins_piece(std::int32_t i, std::int32_t begin) const {
    return i == begin || piece_end(i - 1, i + 1) == i;
  }

  /// How many keys a tile meets for all KV heads whose runs may differ, as if every position were cached.
  PUREKV_DEVICE std::int64_t keys_of(std::int32_t first, std::int32_t last) const {
    std::int32_t const q_last = batch.positions[last - 1], bound = last_visible(pattern, q_last);
    std::int64_t keys = 0;
    for (std::int32_t h = 0; h < (has_runs_by_head<P>() ? heads : group); h += group)
      runs_of(pattern, h, h + group - 1, batch.positions[first], q_last,
              [&](std::int32_t k_first, std::int32_t k_last, bool) {
                keys += larger(0, smaller(k_last, bound) - k_first + 1);
              });
    return keys;
  }
};

/// Where the first tile behind a chunk of queries begins, and how many begin in the chunk.
struct chunk_exit {
  std::int32_t query, tiles;
};

/// Tiles follow from each other, but within a chunk of queries for all places at once where its first tile may begin:
/// the first `most` queries.
inline constexpr std::int32_t cut_chunk = 1024;

/// tile_ends[i]: where a tile that begins with query i ends, as `Cut` says. exits : [chunks, most].
template <class Cut> struct cut_chunks {
  static constexpr std::int32_t threads = 256, shared_bytes = cut_chunk * 4;
  Cut cut;
  std::int32_t* tile_ends;
  chunk_exit* exits;

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::int32_t> const ends = simt::shared_memory<std::int32_t>();
    std::int32_t const first = simt::block_index().x * cut_chunk, count = smaller(cut_chunk, cut.queries - first);
    for (std::int32_t t = simt::thread_index(); t < count; t += threads) {
      std::int32_t const i = first + t, s = sequence_of(cut.batch, i);
      std::int32_t const last = smaller(end_of(cut.batch, s, cut.queries), cut.queries);
      std::int32_t const end = larger(i + 1, cut.tile_from(i, begin_of(cut.batch, s), last));
      ends.store(t, end - first);
      tile_ends[i] = end;
    }
    simt::sync();
    for (std::int32_t t = simt::thread_index(); t < cut.most; t += threads) {
      std::int32_t at = t, tiles = 0;
      for (; at < count; ++tiles) at = ends.load(at);
      exits[std::int64_t{simt::block_index().x} * cut.most + t] = {first + at, tiles};
    }
  }
};

/// Which query the first tile of each chunk begins with, and how many tiles begin before: entries : [chunks + 1].
struct enter_chunks {
  static constexpr std::int32_t threads = 32;
  chunk_exit const* exits;
  chunk_exit* entries;
  std::int32_t chunks, most, tiles_per_head, copies;
  std::int32_t* tiles_used;  // [copies]

  PUREKV_DEVICE void operator()() const {
    if (simt::thread_index() != 0) return;
    chunk_exit at = {0, 0};
    for (std::int32_t c = 0; c < chunks; ++c) {
      entries[c] = at;
      chunk_exit const next = exits[std::int64_t{c} * most + at.query - c * cut_chunk];
      at = {next.query, at.tiles + next.tiles};
    }
    entries[chunks] = at;
    for (std::int32_t h = 0; h < copies; ++h) tiles_used[h] = smaller(at.tiles, tiles_per_head);
  }
};

/// Writes the tiles of a chunk, without their runs, and empty ones behind the last: tiles : [copies, tiles_per_head].
struct list_tiles {
  static constexpr std::int32_t threads = 256, shared_bytes = (2 * cut_chunk + 1) * 4;
  batch_view batch;
  std::int32_t queries;
  std::int32_t const* tile_ends;
  chunk_exit const* entries;
  query_tile* tiles;
  std::int32_t tiles_per_head, copies;

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::int32_t> const ends = simt::shared_memory<std::int32_t>(), begins = ends + cut_chunk;
    std::int32_t const chunk = simt::block_index().x, chunks = simt::grid_size().x, first = chunk * cut_chunk;
    std::int32_t const count = smaller(cut_chunk, queries - first);
    for (std::int32_t t = simt::thread_index(); t < count; t += threads) ends.store(t, tile_ends[first + t] - first);
    simt::sync();
    std::int32_t const base = entries[chunk].tiles, here = entries[chunk + 1].tiles - base;
    if (simt::thread_index() == 0)
      for (std::int32_t at = entries[chunk].query - first, n = 0; n < here; ++n) {
        begins.store(n, at);
        at = ends.load(at);
      }
    simt::sync();
    for (std::int32_t n = simt::thread_index(); n < here; n += threads) {
      std::int32_t const begin = begins.load(n), i = first + begin;
      put(base + n, {sequence_of(batch, i), i, ends.load(begin) - begin, 0, 0, 0});
    }
    std::int32_t const stride = chunks * threads;
    for (std::int32_t n = entries[chunks].tiles + chunk * threads + simt::thread_index(); n < tiles_per_head;
         n += stride)
      put(n, {0, 0, 0, 0, 0, 0});
  }

 private:
  PUREKV_DEVICE void put(std::int32_t index, query_tile const& tile) const {
    for (std::int32_t h = 0; h < copies && index < tiles_per_head; ++h)
      tiles[std::int64_t{h} * tiles_per_head + index] = tile;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
