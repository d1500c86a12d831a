// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/batch.cuh>
#include <purekv/detail/find_violation.cuh>
#include <purekv/detail/pattern.hpp>
#include <purekv/selection.hpp>
#include <purekv/source.hpp>
#include <purekv/tile_plan.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

using rule = violation::rule;

/// A claim about every head of a cache: row = sequence * kv_heads + head.
template <Cache C> struct cache_claim {
  C cache;

  std::int64_t rows() const { return std::int64_t{cache.sequences} * cache.kv_heads; }

  PUREKV_DEVICE violation first_of(std::int32_t row, row_search const& search) const {
    std::int32_t const s = row / cache.kv_heads, h = row % cache.kv_heads, length = cache.length(s, h);
    if (length < 0 || length > cache.capacity(s, h)) return {rule::cache_length, errc::bad_shape, s, h};
    if constexpr (requires { cache.extents; }) {
      extent const& e = cache.extents[row];
      std::int64_t const before = row > 0 ? cache.extents[row - 1].begin + cache.extents[row - 1].capacity : 0;
      if (e.begin < before || e.begin > cache.slots - e.capacity) return {rule::cache_extent, errc::bad_shape, s, h};
    }
    std::int64_t const at = search.first(length, [&](std::int64_t i) {
      auto const position = [&](std::int64_t t) { return *cache.run(s, h, static_cast<std::int32_t>(t)).positions; };
      return position(i) <= (i > 0 ? position(i - 1) : -1);
    });
    if (at >= 0) return {rule::cache_position, errc::bad_positions, s, h, at};
    return {};
  }
};

/// The offsets and positions of one sequence of a batch.
PUREKV_DEVICE violation first_of_batch(batch_view const& batch, std::int32_t tokens, std::int32_t s,
                                       row_search const& search) {
  std::int32_t const begin = begin_of(batch, s), end = end_of(batch, s, tokens);
  if (batch.offset != nullptr) {
    if (s == 0 && begin != 0) return {rule::batch_offset, errc::mismatch, s, -1, 0};
    if (end < begin) return {rule::batch_offset, errc::bad_shape, s, -1, s + 1};
    if (end > tokens || (s + 1 == batch.sequences && end != tokens))
      return {rule::batch_offset, errc::mismatch, s, -1, s + 1};
    if (begin < 0) return {};  // an earlier sequence says so
  }
  std::int64_t const at = search.first_descent(end - begin, batch.positions + begin);
  if (at >= 0) return {rule::batch_position, errc::bad_positions, s, -1, begin + at};
  return {};
}

/// A claim about sinks, row 0, and about every sequence of queries.
struct query_claim {
  batch_view batch;
  std::int32_t tokens, heads;
  float const* sink_logits;

  std::int64_t rows() const { return std::int64_t{batch.sequences} + 1; }

  PUREKV_DEVICE violation first_of(std::int32_t row, row_search const& search) const {
    if (row > 0) return first_of_batch(batch, tokens, row - 1, search);
    if (sink_logits == nullptr) return {};
    std::int64_t const at =
        search.first(heads, [&](std::int64_t h) { return !(sink_logits[h] < __builtin_huge_valf()); });
    if (at >= 0) return {rule::sink_logit, errc::bad_shape, -1, -1, at};
    return {};
  }
};

/// A claim about what comes to every head of a cache: row = sequence * kv_heads + head.
template <Cache C> struct append_claim {
  batch_view batch;
  std::int32_t tokens;
  C cache;

  std::int64_t rows() const { return std::int64_t{cache.sequences} * cache.kv_heads; }

  PUREKV_DEVICE violation first_of(std::int32_t row, row_search const& search) const {
    std::int32_t const s = row / cache.kv_heads, h = row % cache.kv_heads;
    if (h == 0)
      if (violation const v = first_of_batch(batch, tokens, s, search); v.broken != rule::none) return v;
    std::int32_t const begin = begin_of(batch, s), end = end_of(batch, s, tokens);
    if (begin < 0 || end > tokens || end <= begin) return {};
    std::int32_t const length = cache.length(s, h), free = cache.capacity(s, h) - length;
    if (length > 0 && batch.positions[begin] <= *cache.run(s, h, length - 1).positions)
      return {rule::not_newer, errc::bad_positions, s, h, begin};
    if (end - begin > free) return {rule::no_slot, errc::capacity_exceeded, s, h, std::int64_t{begin} + free};
    return {};
  }
};

/// A claim about what a selection lists of every head: row = sequence * kv_heads + head.
template <Cache C> struct selection_claim {
  selection kept;
  C cache;

  std::int64_t rows() const { return std::int64_t{cache.sequences} * cache.kv_heads; }

  PUREKV_DEVICE violation first_of(std::int32_t row, row_search const& search) const {
    std::int32_t const s = row / cache.kv_heads, h = row % cache.kv_heads;
    std::int32_t const list = kept.row_of(s, h, cache.kv_heads);
    std::int64_t const begin = kept.offset[list], end = kept.offset[list + 1];
    if (list == 0 && begin < 0) return {rule::selection_offset, errc::bad_shape, s, h, 0};
    if (end < begin || end > kept.capacity || end - begin > INT32_MAX)
      return {rule::selection_offset, errc::bad_shape, s, h, list + 1};
    if (begin < 0) return {};  // an earlier row says so
    std::int32_t const* const token = kept.token + begin;
    std::int32_t const length = cache.length(s, h);
    std::int64_t const at = search.first(end - begin, [&](std::int64_t i) {
      return token[i] < 0 || token[i] >= length || (i > 0 && token[i] <= token[i - 1]);
    });
    if (at < 0) return {};
    bool const cached = token[at] >= 0 && token[at] < length;
    return {cached ? rule::selection_order : rule::selection_token, errc::bad_positions, s, h, at};
  }
};

/// A claim about every sequence of a source.
struct source_claim {
  source_view source;

  std::int64_t rows() const { return source.scores.sequences; }

  PUREKV_DEVICE violation first_of(std::int32_t s, row_search const& search) const {
    std::int32_t const tokens = source.tokens[s];
    if (tokens < 0 || tokens > source.scores.tokens) return {rule::source_tokens, errc::mismatch, s};
    std::int64_t const at = search.first_descent(tokens, source.positions + s * source.positions_stride);
    if (at >= 0) return {rule::source_position, errc::bad_positions, s, -1, at};
    return {};
  }
};

/// A claim about a pattern and the last position of every sequence.
template <Pattern P> struct pattern_claim {
  P pattern;
  batch_view batch;
  std::int32_t tokens;

  std::int64_t rows() const { return batch.sequences; }

  PUREKV_DEVICE violation first_of(std::int32_t s, row_search const&) const {
    std::int32_t const begin = begin_of(batch, s), end = end_of(batch, s, tokens);
    if (begin < 0 || end > tokens || end <= begin) return {};
    std::int32_t const last = batch.positions[end - 1];
    status const found = pattern.check(last);
    if (!found.ok()) return {rule::pattern, found.code, s, -1, last};
    return {};
  }
};

/// A claim about the tiles of every KV head: row = tile * kv_heads + head.
template <Cache C> struct tile_claim {
  tile_plan plan;
  batch_view batch;
  C cache;

  std::int64_t rows() const { return std::int64_t{plan.tiles_per_head} * plan.kv_heads; }

  PUREKV_DEVICE violation first_of(std::int32_t row, row_search const& search) const {
    std::int32_t const t = row / plan.kv_heads, h = row % plan.kv_heads, used = plan.tile_count(h);
    if (t >= used && (t > 0 || plan.queries == 0)) return {};
    if (used <= 0 || used > plan.tiles_per_head) return {rule::tile, errc::mismatch, -1, h, t};
    query_tile const& tile = plan.tile(h, t);
    std::int32_t const s = tile.sequence;
    if (s < 0 || s >= plan.sequences) return {rule::tile, errc::mismatch, -1, h, t};
    std::int32_t first = 0;
    if (t > 0) first = plan.tile(h, t - 1).first + plan.tile(h, t - 1).count;
    std::int32_t const begin = begin_of(batch, s), end = end_of(batch, s, plan.queries);
    if (tile.first != first || tile.count <= 0 || tile.count > plan.tile_queries || first < begin ||
        tile.count > end - first || (t + 1 == used && first + tile.count != plan.queries) || tile.runs < 0)
      return {rule::tile, errc::mismatch, s, h, t};
    key_run const* const runs = plan.runs + tile.runs_begin;
    std::int32_t const length = cache.length(s, h);
    if (plan.order != nullptr && search.first(tile.count, [&](std::int64_t i) {
          std::int32_t const query = plan.order[tile.first + i];
          return query < begin || query >= end || (i > 0 && query <= plan.order[tile.first + i - 1]);
        }) >= 0)
      return {rule::tile, errc::mismatch, s, h, t};
    std::int64_t const at = search.first(tile.runs, [&](std::int64_t r) {
      if (plan.is_listed(runs[r]))
        return runs[r].count <= 0 || plan.list(tile, runs[r])[0] < 0 ||
               plan.list(tile, runs[r])[runs[r].count - 1] >= length;
      std::int32_t const before = r > 0 ? runs[r - 1].begin + runs[r - 1].count : 0;
      return runs[r].begin < before || runs[r].count <= 0 || runs[r].count > length - runs[r].begin;
    });
    if (at >= 0) return {rule::tile_run, errc::mismatch, s, h, at};
    return {};
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
