// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/block_mass.hpp>
#include <purekv/detail/decode_chunk.hpp>
#include <purekv/detail/pack.hpp>
#include <purekv/detail/plan_tiles.hpp>

#include <bit>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What one rank needs to attend to scattered runs.
struct scattered_scratch {
  float* q;     // [decode_rows, padded], times scale and log2(e)
  float* rows;  // [block_lanes, value_padded] results of a block of rows
  float* more;  // [decode_rows, value_padded] of keys beyond the first most_keys

  static scattered_scratch take(carve& memory, std::int32_t dim, std::int32_t value_dim) {
    std::int64_t const padded = whole_registers(dim), value_padded = whole_registers(value_dim);
    scattered_scratch s;
    s.q = memory.take<float>(decode_rows * padded);
    s.rows = memory.take<float>(block_lanes * value_padded);
    s.more = memory.take<float>(decode_rows * value_padded);
    return s;
  }
};

/// A row's attention to some keys: out = sum of exp2(logit - top) * value, and the sum of the exponentials. It has
/// seen nothing if sum is 0; out is not read then.
struct row_state {
  float* out;
  float& top;
  float& sum;

  /// Adds other keys. What weighs nothing may hold NaN or inf.
  template <class T> void add(T const* other, float other_top, float other_sum, std::int32_t dim) {
    float const most = other_top > top ? other_top : top;
    float const keep = sum != 0 ? __builtin_exp2f(top - most) : 0, take = __builtin_exp2f(other_top - most);
    for (std::int32_t d = 0; d < dim; d += lanes) {
      vec x = keep != 0 ? splat(keep) * load(out + d) : vec{};
      if (take != 0) x = fma(splat(take), dim - d >= lanes ? widen(other + d) : widen(other + d, dim - d), x);
      store(out + d, x);
    }
    top = most;
    sum = keep * sum + take * other_sum;
  }
};

/// Attention of single queries to the scattered runs of their tile: lanes are dims, as in decoding.
template <class TQ, Cache C> struct scattered_rows {
  using element = typename C::element;
  static constexpr std::int32_t most_keys = 64;  // attended to together

  query_view<TQ> const& q;
  C const& cache;
  tile_plan const& plan;
  query_tile const& tile;
  std::int32_t kv_head;
  bool per_head;
  scattered_scratch const& scratch;
  key_block_sums const& blocks;

  std::int32_t group = q.rows.heads / cache.kv_heads;
  std::int32_t dim = q.rows.dim, value_dim = value_dim_of(cache);
  std::int32_t padded = whole_registers(dim), value_padded = whole_registers(value_dim);
  soft_cap cap{q};

  bool any() const {
    for (std::int32_t r = 0; r < tile.runs; ++r)
      if (plan.runs[tile.runs_begin + r].scattered != 0) return true;
    return false;
  }

  /// Rows [row, row + count) of the tile, which are heads of one query. out : [count, value_padded].
  void attend(std::int32_t row, std::int32_t count, float* out, float* top, float* sum) const {
    for (std::int32_t r = 0; r < count; ++r)
      scale_row(q.rows.row(kv_head * group + (row + r) % group, tile.first + row / group), dim, logit_scale(q),
                scratch.q + r * padded);
    key_list list;
    auto const flush = [&] {
      if (list.count == 0) return;
      float first_of[decode_rows], sum_of[decode_rows];
      bool const first = list.flushed == 0;
      float* const to = first ? out : scratch.more;
      attend(list, row, count, to, first_of, sum_of);
      for (std::int32_t r = 0; r < count; ++r) {
        if (first_of[r] == hidden_logit) continue;
        if (first) {
          top[r] = first_of[r];
          sum[r] = sum_of[r];
        } else {
          row_state{out + r * value_padded, top[r], sum[r]}.add(to + r * value_padded, first_of[r], sum_of[r],
                                                                value_padded);
        }
      }
      ++list.flushed;
      list.count = 0;
      list.hides = false;
    };
    std::int32_t const mask_row = per_head ? row : row / group, mask_rows = per_head ? count : 1;
    for (std::int32_t r = 0; r < tile.runs; ++r) {
      key_run const& run = plan.runs[tile.runs_begin + r];
      if (run.scattered == 0) continue;
      for (std::int32_t w = 0; w < run.words(); ++w)
        for (std::uint64_t seen = seen_by_any(plan.masks, run, mask_row, mask_rows, w); seen != 0; seen &= seen - 1) {
          std::int32_t const key = 64 * w + std::countr_zero(seen);
          auto const at = cache.run(tile.sequence, kv_head, run.begin + key);
          list.keys[list.count] = at.keys;
          list.values[list.count] = at.values;
          list.ordinals[list.count] = run.begin + key;
          if (per_head) list.note(plan, run, mask_row, count, key);
          if (++list.count == most_keys) flush();
        }
    }
    flush();
  }

 private:
  struct key_list {
    element const* keys[most_keys];
    element const* values[most_keys];
    std::int32_t ordinals[most_keys];
    std::uint32_t seen[most_keys];  // by which rows, a bit each
    std::int32_t count = 0, flushed = 0;
    bool hides = false;

    void note(tile_plan const& tiles, key_run const& run, std::int32_t row, std::int32_t rows, std::int32_t key) {
      seen[count] = 0;
      for (std::int32_t r = 0; r < rows; ++r)
        seen[count] |= static_cast<std::uint32_t>(tiles.seen(run, row + r, key, 1)) << r;
      hides = hides || seen[count] != (1u << rows) - 1u;
    }
  };

  void attend(key_list const& list, std::int32_t row, std::int32_t rows, float* out, float* top, float* sum) const {
    chunk_keys<element> const found{{list.keys[0], 0, list.keys},
                                    {list.values[0], 0, list.values},
                                    list.count,
                                    nullptr,
                                    list.hides ? list.seen : nullptr,
                                    list.keys[0]};
    float logits[most_keys * logit_stride(decode_rows)], weights[most_keys * logit_stride(decode_rows)];
    dispatch_group<decode_rows>(rows, 0, [&]<int Rows>(std::int32_t) {
      chunk_attention<Rows, element>{found,     cap,    dim,     padded, value_dim, value_padded,
                                     scratch.q, logits, weights, out,    top,       sum}
          .run();
    });
    if (blocks.wanted())
      for (std::int32_t r = 0; r < rows; ++r) add_masses(list, row + r, weights + r, logit_stride(rows), top[r]);
  }

  /// What a row gave to each block of keys. weights: of its keys, `stride` apart.
  void add_masses(key_list const& list, std::int32_t row, float const* weights, std::int32_t stride, float top) const {
    for (std::int32_t i = 0, end = 0; i < list.count; i = end) {
      std::int32_t const block = list.ordinals[i] / mass_block_tokens;
      float more = 0;
      for (end = i; end < list.count && list.ordinals[end] / mass_block_tokens == block; ++end)
        more += weights[end * stride];
      if (more != 0) blocks.add_row(row, block, more, top);
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
