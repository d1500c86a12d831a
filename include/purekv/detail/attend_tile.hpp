// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/bfloat16_tiles.hpp>
#include <purekv/detail/block_mass.hpp>
#include <purekv/detail/key_tile.hpp>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/scattered_rows.hpp>
#include <purekv/detail/softmax.hpp>
#include <purekv/primitive.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What one rank needs to attend with a tile of queries: its rows side by side in blocks of block_lanes.
struct attend_scratch {
  float* queries;       // [blocks, dim, block_lanes], times scale and log2(e)
  float* out;           // [blocks, value dim, block_lanes], not yet divided by `sum`
  float* top;           // [blocks, block_lanes] largest logit so far
  float* sum;           // [blocks, block_lanes] of exp2(logit - top)
  std::int32_t* bound;  // [blocks, block_lanes] cached tokens that causality shows
  std::int32_t* low;    // [blocks, block_lanes] which keys of the tile the pattern shows, a bit each: the first 32
  std::int32_t* high;   // and the others
  float* scores;        // [key_tile::capacity, block_lanes]
  float* rescale;       // [block_lanes]
  key_tile keys;
  scattered_scratch scattered;
  key_block_sums blocks;

  /// mass_blocks: of a head, 0 where their mass is not wanted.
  static attend_scratch take(carve& memory, std::int64_t rows, std::int32_t dim, std::int32_t value_dim,
                             std::int32_t mass_blocks) {
    std::int64_t const all_lanes = (rows + block_lanes - 1) / block_lanes * block_lanes;
    attend_scratch s;
    s.queries = memory.take<float>(all_lanes * dim);
    s.out = memory.take<float>(all_lanes * value_dim);
    s.top = memory.take<float>(all_lanes);
    s.sum = memory.take<float>(all_lanes);
    s.bound = memory.take<std::int32_t>(all_lanes);
    s.low = memory.take<std::int32_t>(all_lanes);
    s.high = memory.take<std::int32_t>(all_lanes);
    s.scores = memory.take<float>(std::int64_t{key_tile::capacity} * block_lanes);
    s.rescale = memory.take<float>(block_lanes);
    s.keys = key_tile::take(memory, dim, value_dim);
    s.scattered = scattered_scratch::take(memory, dim, value_dim);
    if (mass_blocks > 0) s.blocks = key_block_sums::take(memory, rows, mass_blocks);
    return s;
  }
};

/// Attention of the queries of one tile, all heads of the group of one KV head: the rows of the tile are (query, head),
/// head fastest. Rows are lanes: logits and weights are [keys, lanes], results [dim, lanes], so that the softmax never
/// adds across lanes and keys and values are used as they are stored.
template <Pattern P, class TQ, Cache C, class TO> struct attend_tile {
  using element = typename C::element;

  P const& pattern;
  query_view<TQ> const& q;
  C const& cache;
  self_view<element> const* self;  // null: the cache holds every key
  rows_view<TO> const& out;
  float* lse;
  std::ptrdiff_t lse_stride;
  block_mass_totals const& masses;

  query_tile const& tile;
  std::int32_t kv_head;
  attend_scratch& scratch;

  std::int32_t dim = q.rows.dim, value_dim = value_dim_of(cache);
  std::int32_t group = q.rows.heads / cache.kv_heads;
  std::int32_t rows = tile.count * group;
  std::int32_t blocks = (rows + block_lanes - 1) / block_lanes;
  soft_cap cap{q};
  float largest_query = 0;
  bool guarded = false;  // an infinite or NaN value has been seen
  [[no_unique_address]] key_products<in_pairs<TQ, element>> products{pairs_of(dim)};

  std::int32_t head(std::int32_t row) const { return kv_head * group + row % group; }
  std::int32_t query(std::int32_t row) const { return tile.first + row / group; }
  std::int32_t lanes_of(std::int32_t block) const { return smaller(block_lanes, rows - block * block_lanes); }
  float* queries(std::int32_t block) const { return scratch.queries + std::ptrdiff_t{block} * block_lanes * dim; }
  float* results(std::int32_t block) const { return scratch.out + std::ptrdiff_t{block} * block_lanes * value_dim; }

  void run(tile_plan const& plan) {
    pack_queries();
    find_bounds();
    start(plan);
    key_walk<C, TQ> walk(cache, tile.sequence, kv_head, plan.runs + tile.runs_begin, tile.runs);
    while (walk.next(scratch.keys, masks_known<P>())) {
      if (scratch.keys.partial != 0) ask_pattern(plan);
      guarded = guarded || !finite(scratch.keys.largest_value);
      for (std::int32_t b = 0; b < blocks; ++b) attend_block_of(b);
    }
    for (std::int32_t b = 0; b < blocks; ++b) finish(b);
  }

  void pack_queries() {
    float const scale = logit_scale(q);
    for (std::int32_t b = 0; b < blocks; ++b) {
      auto const row = [&](std::int32_t lane) {
        std::int32_t const r = b * block_lanes + lane;
        return q.rows.row(head(r), query(r));
      };
      float most;
      if constexpr (in_pairs<TQ, element>) {  // scaled queries would have to be rounded
        most = pack_pairs(row, lanes_of(b), dim, queries(b));
        if (__builtin_fabsf(scale) > 1) most *= __builtin_fabsf(scale);
      } else {
        most = pack_rows(row, lanes_of(b), dim, scale, queries(b));
      }
      largest_query = larger_magnitude(largest_query, most);
    }
  }

  void find_bounds() {
    std::int32_t seen = 0;
    for (std::int32_t i = 0; i < tile.count; ++i) {
      seen =
          tokens_until(cache, tile.sequence, kv_head, last_visible(pattern, q.batch.positions[tile.first + i]), seen);
      for (std::int32_t g = 0; g < group; ++g) scratch.bound[i * group + g] = seen;
    }
    for (std::int32_t r = rows; r < blocks * block_lanes; ++r) {
      scratch.bound[r] = seen;  // lanes without a query hide nothing
      scratch.low[r] = scratch.high[r] = -1;
    }
  }

  /// What is known of the rows before the tiles of keys: what they make of scattered runs, and of themselves.
  void start(tile_plan const& plan) {
    if (scratch.blocks.wanted()) scratch.blocks.clear(blocks);
    for (std::int32_t r = 0; r < blocks * block_lanes; ++r) {
      scratch.top[r] = -largest_logit;
      scratch.sum[r] = 0;
    }
    if constexpr (masks_known<P>()) {
      scattered_rows<TQ, C> const scattered{
          q, cache, plan, tile, kv_head, is_per_head<P>(), scratch.scattered, scratch.blocks};
      if (scattered.any()) return start_scattered(scattered);
    }
    if (self == nullptr) {
      for (float* x = results(0); x < results(blocks); ++x) *x = 0;
      return;
    }
    for (std::int32_t b = 0; b < blocks; ++b) {
      for (std::int32_t r = b * block_lanes; r < b * block_lanes + lanes_of(b); ++r) {
        float const logit = own_logit(r);
        if (logit == hidden_logit) continue;
        scratch.top[r] = logit;
        scratch.sum[r] = 1;
      }
      start_with(b, [&](std::int32_t r) { return self->values.row(kv_head, query(r)); });
    }
  }

  void start_scattered(scattered_rows<TQ, C> const& scattered) {
    for (std::int32_t b = 0; b < blocks; ++b) {
      std::int32_t const first = b * block_lanes, end = first + lanes_of(b);
      auto const row = [&](std::int32_t r) {
        return scratch.scattered.rows + std::ptrdiff_t{r - first} * scattered.value_padded;
      };
      for (std::int32_t r = first, n = 0; r < end; r += n) {
        n = smaller(smaller(group - r % group, decode_rows), end - r);
        scattered.attend(r, n, row(r), scratch.top + r, scratch.sum + r);
      }
      if (self != nullptr)
        for (std::int32_t r = first; r < end; ++r)
          if (float const logit = own_logit(r); logit != hidden_logit)
            row_state{row(r), scratch.top[r], scratch.sum[r]}.add(self->values.row(kv_head, query(r)), logit, 1,
                                                                  value_dim);
      start_with(b, row);
    }
  }

  /// results(block)[.][lane] = value(row), 0 for rows that have seen nothing.
  template <class Value> void start_with(std::int32_t block, Value const& value) {
    auto const seen = [&](std::int32_t lane) -> decltype(value(0)) {
      std::int32_t const r = block * block_lanes + lane;
      return scratch.sum[r] != 0 ? value(r) : nullptr;
    };
    guarded = !finite(pack_rows(seen, lanes_of(block), value_dim, 1.0f, results(block))) || guarded;
  }

  /// The logit of a row's own key; hidden if it does not see it here.
  float own_logit(std::int32_t row) const {
    if (!sees_itself(row)) return hidden_logit;
    std::int32_t const i = query(row);
    float logit = logit_scale(q) * dot(q.rows.row(head(row), i), self->keys.row(kv_head, i), std::int64_t{dim});
    if (cap) logit = cap(logit);
    if (!(logit == logit)) return hidden_logit;
    return logit > largest_logit ? largest_logit : logit < -largest_logit ? -largest_logit : logit;
  }

  bool sees_itself(std::int32_t row) const {
    std::int32_t const position = q.batch.positions[query(row)];
    std::int32_t const seen = tokens_until(cache, tile.sequence, kv_head, position);
    bool const cached = seen > 0 && *cache.run(tile.sequence, kv_head, seen - 1).positions == position;
    return !cached && pattern.visible(head(row), position, position);
  }

  /// Sets the bits of `low` and `high` for the keys in the scratch.
  void ask_pattern(tile_plan const& plan) {
    key_tile const& keys = scratch.keys;
    for (std::int32_t i = 0; i < tile.count; ++i) {
      std::int32_t const position = q.batch.positions[tile.first + i];
      for (std::int32_t g = 0; g < group; ++g) {
        std::int32_t const row = i * group + g;
        if (is_per_head<P>() || g == 0) {
          std::uint64_t seen = ~keys.partial;
          for (std::int32_t p = 0; p < keys.piece_count; ++p) {
            key_tile::piece const& piece = keys.pieces[p];
            std::uint64_t const bits = piece.run->masks >= 0
                                           ? plan.seen(*piece.run, is_per_head<P>() ? row : i, piece.first, piece.count)
                                           : ask_pattern(kv_head * group + g, position, piece);
            seen |= bits << piece.slot;
          }
          scratch.low[row] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen));
          scratch.high[row] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen >> 32));
        } else {
          scratch.low[row] = scratch.low[row - 1];
          scratch.high[row] = scratch.high[row - 1];
        }
      }
    }
  }
  std::uint64_t ask_pattern(std::int32_t query_head, std::int32_t position, key_tile::piece const& piece) const {
    std::int32_t const* const positions = scratch.keys.positions + piece.slot;
    std::int32_t const furthest = last_visible(pattern, position);
    std::uint64_t seen = 0;
    for (std::int32_t k = 0; k < piece.count && positions[k] <= furthest; ++k)
      if (pattern.visible(query_head, position, positions[k])) seen |= std::uint64_t{1} << k;
    return seen;
  }

  /// The keys in the scratch for one block of lanes: a last block that is not full goes through kernels of fewer lanes.
  void attend_block_of(std::int32_t block) {
    dispatch_vectors(lanes_of(block), [&]<int Vectors>() { attend_lanes_of<Vectors>(block); });
  }

  template <int Vectors> void attend_lanes_of(std::int32_t block) {
    key_tile const& keys = scratch.keys;
    std::int32_t const first = block * block_lanes, last = first + lanes_of(block) - 1;
    std::int32_t const count = keys.below(scratch.bound[last]);
    if (count == 0) return;
    if constexpr (in_pairs<TQ, element>)
      multiply_key_pairs(products, keys.keys, count, queries(block), dim, logit_scale(q), scratch.scores);
    else
      multiply_keys<Vectors>(keys.keys, dim, count, queries(block), dim, scratch.scores);
    if (cap) cap.apply(scratch.scores, count * block_lanes);
    if (!finite_logits(largest_query, keys.largest_key, dim)) clamp_scores(scratch.scores, count * block_lanes);
    bool const partial = keys.partial != 0;
    if (partial || keys.ordinals[count - 1] >= scratch.bound[first])
      hide_scores(
          scratch.scores, count, keys.ordinals,
          {scratch.bound + first, partial ? scratch.low + first : nullptr, partial ? scratch.high + first : nullptr});
    softmax_step<Vectors>(scratch.scores, count, scratch.top + first, scratch.sum + first, scratch.rescale,
                          scratch.blocks.added);
    if (scratch.blocks.wanted())
      scratch.blocks.add_tile<Vectors>(block, keys, count, scratch.scores, scratch.top + first);
    if (guarded)
      multiply_values<true, Vectors>(keys.values, value_dim, count, scratch.scores, value_dim, scratch.rescale,
                                     results(block));
    else
      multiply_values<false, Vectors>(keys.values, value_dim, count, scratch.scores, value_dim, scratch.rescale,
                                      results(block));
  }

  void finish(std::int32_t block) {
    std::int32_t const first = block * block_lanes, count = lanes_of(block);
    for (std::int32_t lane = 0; lane < count; ++lane) {
      std::int32_t const row = first + lane;
      float top = scratch.top[row], sum = scratch.sum[row], share = 1;
      if (float const sink = sink_logit(q, head(row)); sink != hidden_logit) {
        float const most = sink > top ? sink : top;
        share = sum > 0 ? __builtin_exp2f(top - most) : 0;
        sum = share * sum + __builtin_exp2f(sink - most);
        top = most;
      }
      if (lse != nullptr)
        lse[head(row) * lse_stride + query(row)] = sum > 0 ? top + __builtin_log2f(sum) : hidden_logit;
      scratch.rescale[lane] = sum > 0 ? share / sum : 0;
    }
    if (scratch.blocks.wanted()) give_masses(block);
    unpack_rows(results(block), scratch.rescale, count, value_dim,
                [&](std::int32_t lane) { return out.row(head(first + lane), query(first + lane)); });
  }

  /// What the rows of a block gave to each block of keys; `rescale` makes probabilities of it.
  void give_masses(std::int32_t block) {
    std::int32_t const first = block * block_lanes, count = lanes_of(block);
    for (std::int32_t lane = count; lane < block_lanes; ++lane) scratch.rescale[lane] = 0;
    for (std::int32_t k = 0; k < scratch.blocks.key_blocks; ++k) {
      std::ptrdiff_t const at = scratch.blocks.at(block, k);
      float mass[block_lanes];
      vec all{};
      for (std::int32_t lane = 0; lane < block_lanes; lane += lanes) {
        vec const sum = load(scratch.blocks.sum + at + lane), factor = load(scratch.rescale + lane);
        vec const share = exp2(load(scratch.blocks.top + at + lane) - load(scratch.top + first + lane));
        vec const x = blend((sum == vec{}) | (factor == vec{}), vec{}, sum * share * factor);
        store(mass + lane, x);
        all += x;
      }
      if (!any(all != vec{})) continue;
      if (masses.rows == cache.kv_heads) {
        masses.add(tile.sequence, kv_head, k, total(all));
        continue;
      }
      for (std::int32_t h = 0; h < smaller(group, count); ++h) {
        float of_head = 0;
        for (std::int32_t lane = h; lane < count; lane += group) of_head += mass[lane];
        masses.add(tile.sequence, head(first + h), k, of_head);
      }
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
