// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/block_sums.cuh>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/view.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What the queries of a sequence see of one KV head. A tile is so many keys, beginning at a multiple of their number.
struct decode_head {
  std::int32_t end;       // keys before it are seen by some query, as far as causality goes,
  std::int32_t open;      // those before it by all
  std::int32_t tiles;     // of them, those that the pattern shows
  std::int32_t parts;     // into which the tiles are cut, for each set of rows
  std::int32_t row_part;  // the first of rows x parts results: that of (row, part) is row_part + row * parts + part
};

/// The work of a block: a part of the tiles for a set of rows of one KV head.
struct decode_split {
  decode_head head;
  std::int32_t sequence, kv_head, set, part;

  PUREKV_HD std::int32_t first() const { return tile(part); }
  PUREKV_HD std::int32_t last() const { return tile(part + 1); }

 private:
  PUREKV_HD std::int32_t tile(std::int32_t p) const {
    return static_cast<std::int32_t>(std::int64_t{head.tiles} * p / head.parts);
  }
};

/// Where the plan lies. A pattern that names its runs has the tiles that it shows listed.
struct decode_tables {
  decode_head* heads;        // [sequences, kv_heads]
  decode_split* splits;      // [at most `target` more than there are sets of rows]
  std::int32_t* count;       // of splits
  std::int32_t* shown;       // [slots / keys + heads]: 2 * tile + (1 if all queries see all of it)
  std::int32_t* visibility;  // the same for all tiles: 0 where nothing is shown
};

template <Pattern P> PUREKV_HD constexpr bool lists_tiles() { return has_runs<P>() && !std::is_same_v<P, dense>; }

/// The queries of a sequence, and the rows (query x head of the group) that they are for a KV head.
template <class TQ, Cache C> struct decode_rows_of {
  query_view<TQ> const& q;
  std::int32_t group, sequence;

  PUREKV_DEVICE decode_rows_of(query_view<TQ> const& queries, C const& cache, std::int32_t s)
      : q(queries), group(queries.rows.heads / cache.kv_heads), sequence(s) {}

  PUREKV_DEVICE std::int32_t count() const { return q.count(sequence) * group; }
  PUREKV_DEVICE std::int32_t token(std::int32_t row) const { return q.begin(sequence) + row / group; }
  PUREKV_DEVICE std::int32_t head(std::int32_t kv_head, std::int32_t row) const {
    return kv_head * group + row % group;
  }
  PUREKV_DEVICE std::int32_t oldest() const { return q.batch.positions[q.begin(sequence)]; }
  PUREKV_DEVICE std::int32_t newest() const { return q.batch.positions[q.end(sequence) - 1]; }
};

/// What causality lets the queries of a sequence see of a head.
template <Pattern P, class TQ, Cache C>
PUREKV_DEVICE decode_head visible_part(P const& pattern, query_view<TQ> const& q, C const& cache, std::int32_t sequence,
                                       std::int32_t kv_head, std::int32_t tile_keys) {
  decode_rows_of<TQ, C> const rows(q, cache, sequence);
  decode_head head{};
  if (rows.count() == 0) return head;
  head.open = tokens_until(cache, sequence, kv_head, last_visible(pattern, rows.oldest()));
  head.end = tokens_until(cache, sequence, kv_head, last_visible(pattern, rows.newest()), head.open);
  head.tiles = (head.end + tile_keys - 1) / tile_keys;
  return head;
}

/// Where the tiles of a head lie in `shown` and `visibility`.
template <Cache C>
PUREKV_DEVICE std::int64_t first_tile(C const& cache, std::int32_t sequence, std::int32_t kv_head,
                                      std::int32_t tile_keys) {
  return cache.slot(sequence, kv_head, 0) / tile_keys + std::int64_t{sequence} * cache.kv_heads + kv_head;
}

/// Lists the tiles that a pattern shows to the queries of a sequence; a block takes a KV head.
template <Pattern P, class TQ, Cache C> struct list_decode_tiles {
  static constexpr std::int32_t threads = 128;
  using sums = block_sums<threads / simt::warp_threads>;
  static constexpr std::int32_t shared_bytes = sums::bytes;

  P pattern;
  query_view<TQ> q;
  C cache;
  decode_tables tables;
  std::int32_t tile_keys;

  PUREKV_DEVICE void operator()() const {
    std::int32_t const index = simt::block_index().x, s = index / cache.kv_heads, h = index % cache.kv_heads;
    decode_head head = visible_part(pattern, q, cache, s, h, tile_keys);
    std::int64_t const at = first_tile(cache, s, h, tile_keys);
    sums const sum{simt::shared_memory<std::int32_t>()};
    std::int32_t listed = 0;
    for (std::int32_t first = 0; first < head.tiles; first += threads) {
      std::int32_t const tile = first + simt::thread_index();
      std::int32_t const seen = tile < head.tiles ? visibility(head, s, h, tile) : 0;
      auto const place = sum.scan(seen != 0 ? 1 : 0);
      if (tile < head.tiles) tables.visibility[at + tile] = seen;
      if (seen != 0) tables.shown[at + listed + place.before] = 2 * tile + (seen == whole ? 1 : 0);
      listed += place.all;
    }
    head.tiles = listed;
    if (simt::thread_index() == 0) tables.heads[index] = head;
  }

 private:
  static constexpr std::int32_t some = 1, whole = 2;

  PUREKV_DEVICE std::int32_t visibility(decode_head const& head, std::int32_t s, std::int32_t h,
                                        std::int32_t tile) const {
    decode_rows_of<TQ, C> const rows(q, cache, s);
    std::int32_t const first = tile * tile_keys, last = smaller(first + tile_keys, head.end) - 1;
    std::int32_t const begin = *cache.run(s, h, first).positions, end = *cache.run(s, h, last).positions;
    std::int32_t seen = 0;
    runs_of(pattern, rows.head(h, 0), rows.head(h, rows.group - 1), rows.oldest(), rows.newest(),
            [&](std::int32_t low, std::int32_t high, bool full) {
              if (high < begin || low > end) return;
              seen = full && low <= begin && end <= high ? whole : larger(seen, some);
            });
    return seen;
  }
};

/// Cuts the tiles of all heads into splits for the blocks to come, one block: the smallest size of a part with which
/// there are no more than `target` splits, or twice as many as sets of rows, or `target` more than those, whichever is
/// right for their number.
template <Pattern P, class TQ, Cache C> struct plan_decode {
  static constexpr std::int32_t threads = 256, warps = threads / simt::warp_threads;
  using sums = block_sums<warps>;
  static constexpr std::int32_t shared_bytes = sums::bytes + threads * 4;

  P pattern;
  query_view<TQ> q;
  C cache;
  decode_tables tables;
  std::int32_t tile_keys, fewest_tiles, set_rows, target;

  PUREKV_DEVICE void operator()() const {
    if constexpr (!lists_tiles<P>())
      for (std::int32_t i = simt::thread_index(); i < heads(); i += threads)
        tables.heads[i] = visible_part(pattern, q, cache, i / cache.kv_heads, i % cache.kv_heads, tile_keys);
    write(part_size());
  }

 private:
  PUREKV_DEVICE std::int32_t heads() const { return cache.sequences * cache.kv_heads; }
  PUREKV_DEVICE std::int32_t rows(std::int32_t head) const {
    return decode_rows_of<TQ, C>(q, cache, head / cache.kv_heads).count();
  }
  PUREKV_DEVICE std::int32_t sets(std::int32_t head) const { return (rows(head) + set_rows - 1) / set_rows; }
  PUREKV_DEVICE static std::int32_t parts(std::int32_t tiles, std::int32_t size) { return (tiles + size - 1) / size; }
  PUREKV_DEVICE static sums block() { return {simt::shared_memory<std::int32_t>()}; }

  /// How many splits parts of `size` tiles make, as far as a thread's heads go; capped.
  PUREKV_DEVICE std::int32_t splits(std::int32_t size) const {
    std::int64_t count = 0;
    for (std::int32_t i = simt::thread_index(); i < heads(); i += threads)
      count += std::int64_t{sets(i)} * parts(tables.heads[i].tiles, size);
    return count < sums::most ? static_cast<std::int32_t>(count) : sums::most;
  }

  PUREKV_DEVICE std::int32_t part_size() const {
    std::int32_t most = fewest_tiles;
    for (std::int32_t i = simt::thread_index(); i < heads(); i += threads) most = larger(most, tables.heads[i].tiles);
    std::int32_t low = fewest_tiles, high = block().largest(most);
    std::int32_t const sets = block().capped(splits(high));
    std::int32_t const limit = larger(target, sets + smaller(sets, target));
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (block().capped(splits(middle)) <= limit)
        high = middle;
      else
        low = middle + 1;
    }
    return high;
  }

  PUREKV_DEVICE void write(std::int32_t size) const {
    simt::shared<std::int32_t> const first_split = simt::shared_memory<std::int32_t>(sums::bytes);
    std::int32_t splits = 0, row_parts = 0;
    for (std::int32_t first = 0; first < heads(); first += threads) {
      std::int32_t const i = first + simt::thread_index();
      bool const mine = i < heads();
      std::int32_t const n = mine ? parts(tables.heads[i].tiles, size) : 0;
      auto const before = block().scan(mine ? n * sets(i) : 0);
      auto const rows_before = block().scan(mine ? n * rows(i) : 0);
      if (mine) {
        tables.heads[i].parts = n;
        tables.heads[i].row_part = row_parts + rows_before.before;
      }
      first_split.store(simt::thread_index(), splits + before.before);
      simt::sync();
      for (std::int32_t w = simt::warp_index(); w < smaller(threads, heads() - first); w += warps)
        write_head(first + w, first_split.load(w));
      simt::sync();
      splits += before.all;
      row_parts += rows_before.all;
    }
    if (simt::thread_index() == 0) *tables.count = splits;
  }

  PUREKV_DEVICE void write_head(std::int32_t i, std::int32_t first) const {
    decode_head const head = tables.heads[i];
    std::int32_t const n = head.parts * sets(i);
    for (std::int32_t k = simt::lane_index(); k < n; k += simt::warp_threads)
      tables.splits[first + k] = {head, i / cache.kv_heads, i % cache.kv_heads, k / head.parts, k % head.parts};
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
