// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/decode_plan.cuh>
#include <purekv/detail/decode_tile.cuh>
#include <purekv/detail/logits.cuh>
#include <purekv/simt/warp.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What each part of a head's keys leaves of a row, at head.row_part + row * head.parts + part: the sum of
/// exp2(logit - top) * value, the largest logit and the sum of exp2(logit - top).
struct decode_results {
  float* out;  // [parts of rows, value dim]
  float* top;  // hidden_logit where the row sees nothing of the part
  float* sum;
  float* logits;  // [heads, queries, logit_stride], those of the tiles that are shown; null unless mass is wanted
  std::int64_t logit_stride;
  query_range mass_queries;
};

/// Flash decoding: a block takes a part of one KV head's keys for a set of rows (query x head of the group).
template <Pattern P, simt::Half T, Cache C, std::int32_t Width> struct decode_part_of_head {
  using shape = decode_tile<T, Width>;
  using tile = typename shape::tile;
  static constexpr std::int32_t threads = shape::threads, min_blocks = shape::blocks;
  static constexpr bool everything = std::is_same_v<P, dense>;

  P pattern;
  query_view<T> q;
  C cache;
  decode_tables tables;
  decode_results results;
  logit_rule rule;
  std::int32_t value_dim;

  PUREKV_DEVICE void operator()() const {
    if (simt::block_index().x >= *tables.count) return;
    decode_split const split = tables.splits[simt::block_index().x];
    row_tile const rows = rows_of(split);
    simt::a_fragment queries[Width / 16];
    fetch_queries(split, rows, queries);
    softmax_state state;
    attend(split, rows, queries, state);
    if (write(split, rows, state)) write_guarded(split, rows, queries);
  }

 private:
  /// The 16 rows of a warp, of which a lane has the rows lane / 4 and lane / 4 + 8; and which of the 16-key steps of a
  /// tile are the warp's own.
  struct row_tile {
    std::int32_t count;                // rows of the set
    std::int32_t first;                // of the warp, within the set
    std::int32_t step, steps_between;  // 16-key steps
    bool used;
    std::int32_t head[2], position[2], limit[2];  // limit: the last position that is visible; -1 of no row
    float* logits[2];                             // null: not kept
  };

  struct softmax_state {
    simt::c_fragment out[Width / 8];
    float top[2], sum[2];
  };

  struct stage_memory {
    tile keys, values;
    simt::shared<std::int32_t> positions;
  };

  PUREKV_DEVICE static stage_memory stage(std::int32_t i) {
    std::int32_t const at = i * shape::stage_bytes;
    return {tile{simt::shared_memory<T>(at)}, tile{simt::shared_memory<T>(at + shape::tile_bytes)},
            simt::shared_memory<std::int32_t>(at + 2 * shape::tile_bytes)};
  }

  PUREKV_DEVICE decode_rows_of<T, C> all_rows(decode_split const& split) const { return {q, cache, split.sequence}; }

  PUREKV_DEVICE row_tile rows_of(decode_split const& split) const {
    decode_rows_of<T, C> const all = all_rows(split);
    std::int32_t const begin = split.set * shape::rows, warp = simt::warp_index();
    row_tile rows;
    rows.count = smaller(all.count() - begin, shape::rows);
    std::int32_t tiles = 1;  // of 16 rows: a power of 2, so that warps divide evenly
    while (tiles * shape::step < rows.count) tiles *= 2;
    rows.first = warp % tiles * shape::step;
    rows.step = warp / tiles;
    rows.steps_between = shape::warps / tiles;
    rows.used = rows.first < rows.count;
    std::int32_t const queries = q.count(split.sequence), first_query = q.begin(split.sequence);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      std::int32_t const row = rows.first + simt::lane_index() / 4 + 8 * i;
      bool const is_row = row < rows.count;
      std::int32_t const token = is_row ? all.token(begin + row) : 0;
      rows.head[i] = is_row ? all.head(split.kv_head, begin + row) : 0;
      rows.position[i] = is_row ? q.batch.positions[token] : -1;
      rows.limit[i] = is_row ? last_visible(pattern, rows.position[i]) : -1;
      bool const kept = is_row && results.logits != nullptr &&
                        token - first_query >= results.mass_queries.first(queries) &&
                        token - first_query < results.mass_queries.last(queries);
      rows.logits[i] =
          kept ? results.logits + (std::int64_t{rows.head[i]} * q.rows.tokens + token) * results.logit_stride : nullptr;
    }
    return rows;
  }

  /// The rows of the set pass through the second stage, while the first keys are on their way to the first one.
  PUREKV_DEVICE void fetch_queries(decode_split const& split, row_tile const& rows,
                                   simt::a_fragment (&queries)[Width / 16]) const {
    decode_rows_of<T, C> const all = all_rows(split);
    tile const memory = stage(1).keys;
    memory.fetch(shape::rows, q.rows.dim, simt::thread_index(), threads, [&](std::int32_t row) -> T const* {
      std::int32_t const r = split.set * shape::rows + row;
      return row < rows.count ? q.rows.row(all.head(split.kv_head, r), all.token(r)) : nullptr;
    });
    fetch(split, split.first(), stage(0));
    simt::cp_async_wait<0>();
    simt::sync();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t k = 0; k < Width / 16; ++k) queries[k] = memory.left(rows.first, k * 16);
  }

  /// A tile of keys: which one, and whether each row sees all of it.
  struct key_tile {
    std::int32_t first;
    bool shown;  // by the pattern
    bool whole;  // in every respect
  };

  PUREKV_DEVICE key_tile tile_of(decode_split const& split, std::int32_t index) const {
    key_tile t;
    if constexpr (lists_tiles<P>()) {
      std::int32_t const listed = tables.shown[first_tile(cache, split.sequence, split.kv_head, shape::keys) + index];
      t.first = listed / 2 * shape::keys;
      t.shown = listed % 2 != 0;
    } else {
      t.first = index * shape::keys;
      t.shown = everything;
    }
    t.whole = t.shown && t.first + shape::keys <= split.head.open;
    return t;
  }

  PUREKV_DEVICE void fetch(decode_split const& split, std::int32_t index, stage_memory const& to) const {
    key_tile const t = tile_of(split, index);
    std::int32_t const count = smaller(shape::keys, split.head.end - t.first), thread = simt::thread_index();
    auto const run = cache.run(split.sequence, split.kv_head, t.first);
    to.keys.fetch(shape::keys, cache.dim, thread, threads, [&](std::int32_t row) -> T const* {
      if (row >= count) return nullptr;
      return row < run.tokens ? run.keys + row * run.stride
                              : cache.run(split.sequence, split.kv_head, t.first + row).keys;
    });
    to.values.fetch(shape::keys, value_dim, thread, threads, [&](std::int32_t row) -> T const* {
      if (row >= count) return nullptr;
      return row < run.tokens ? run.values + row * run.value_stride
                              : cache.run(split.sequence, split.kv_head, t.first + row).values;
    });
    if (!t.whole && thread < shape::keys) {
      std::int32_t const* const from = thread >= count || thread < run.tokens
                                           ? run.positions + thread
                                           : cache.run(split.sequence, split.kv_head, t.first + thread).positions;
      simt::cp_async<4>(to.positions + thread, thread < count ? from : run.positions, thread < count ? 4 : 0);
    }
    simt::cp_async_commit();
  }

  /// The logits of the warp's rows and of the 16 keys from `key` on, the same bits whenever it is called. Element c of
  /// fragment n belongs to row c / 2 of the lane's and to key 8 n + 2 (lane % 4) + c % 2.
  PUREKV_DEVICE void multiply_step(decode_split const& split, row_tile const& rows,
                                   simt::a_fragment const (&queries)[Width / 16], key_tile const& t,
                                   stage_memory const& from, std::int32_t key, simt::c_fragment (&logits)[2]) const {
    multiply_keys<T, Width, 16>(queries, tile{from.keys.at(key, 0)}, logits);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < 2; ++n) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t c = 0; c < 4; ++c) logits[n].at[c] = rule(logits[n].at[c]);
    }
    if (t.whole) return;
    std::int32_t const count = split.head.end - t.first;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < 2; ++n) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t c = 0; c < 4; ++c) {
        std::int32_t const i = c / 2, k = key + 8 * n + 2 * (simt::lane_index() % 4) + c % 2;
        std::int32_t const position = from.positions.load(k);
        bool visible = k < count && position <= rows.limit[i];
        if constexpr (!everything)
          visible = visible && (t.shown || pattern.visible(rows.head[i], rows.position[i], position));
        if (!visible) logits[n].at[c] = hidden_logit;
      }
    }
  }

  PUREKV_DEVICE void attend(decode_split const& split, row_tile const& rows,
                            simt::a_fragment const (&queries)[Width / 16], softmax_state& state) const {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < Width / 8; ++n) state.out[n] = {};
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      state.top[i] = -largest_logit;  // not hidden_logit: what is hidden weighs 0 from the beginning
      state.sum[i] = 0;
    }
    std::int32_t const first = split.first(), last = split.last();
    for (std::int32_t index = first; index < last; ++index) {
      simt::cp_async_wait<0>();
      simt::sync();
      if (index + 1 < last) fetch(split, index + 1, stage((index + 1 - first) % 2));
      stage_memory const from = stage((index - first) % 2);
      key_tile const t = tile_of(split, index);
      for (std::int32_t s = rows.step; rows.used && s < shape::warps; s += rows.steps_between) {
        simt::c_fragment logits[2];
        multiply_step(split, rows, queries, t, from, s * 16, logits);
        keep(rows, t, s * 16, logits);
        weigh(logits, state);
        multiply_values<T, Width, 16>(logits, tile{from.values.at(s * 16, 0)}, state.out);
      }
    }
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      state.sum[i] += simt::shuffle_xor(state.sum[i], 1);
      state.sum[i] += simt::shuffle_xor(state.sum[i], 2);
    }
  }

  PUREKV_DEVICE void keep(row_tile const& rows, key_tile const& t, std::int32_t key,
                          simt::c_fragment const (&logits)[2]) const {
    if (results.logits == nullptr || t.first + shape::keys > results.logit_stride) return;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      if (rows.logits[i] == nullptr) continue;
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < 2; ++n) {
        using pair = simt::pack<float, 2>;
        float* const to = rows.logits[i] + t.first + key + 8 * n + 2 * (simt::lane_index() % 4);
        simt::store_global(reinterpret_cast<pair*>(to), pair{{logits[n].at[2 * i], logits[n].at[2 * i + 1]}});
      }
    }
  }

  /// One step of the online softmax: logits become exp2(logit - top). A lane has a share of the sum.
  PUREKV_DEVICE void weigh(simt::c_fragment (&logits)[2], softmax_state& state) const {
    float top[2], factor[2];
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      top[i] = state.top[i];
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < 2; ++n) {
        top[i] = higher(top[i], logits[n].at[2 * i]);
        top[i] = higher(top[i], logits[n].at[2 * i + 1]);
      }
      top[i] = higher(top[i], simt::shuffle_xor(top[i], 1));
      top[i] = higher(top[i], simt::shuffle_xor(top[i], 2));
      factor[i] = simt::exp2(state.top[i] - top[i]);
    }
    if (simt::any(top[0] != state.top[0] || top[1] != state.top[1])) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < Width / 8; ++n) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t c = 0; c < 4; ++c) state.out[n].at[c] *= factor[c / 2];
      }
    }
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      state.sum[i] *= factor[i];
      state.top[i] = top[i];
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < 2; ++n) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t c = 2 * i; c < 2 * i + 2; ++c) {
          logits[n].at[c] = simt::exp2(logits[n].at[c] - top[i]);
          state.sum[i] += logits[n].at[c];
        }
      }
    }
  }

  PUREKV_DEVICE static float higher(float a, float b) { return a < b ? b : a; }

  // After the last tile: what the warps of a row tile have summed over their own keys becomes one.

  PUREKV_DEVICE static simt::shared<float> tops() { return simt::shared_memory<float>(2 * shape::stage_bytes); }
  PUREKV_DEVICE static simt::shared<float> sums() { return tops() + shape::warps * shape::step; }
  PUREKV_DEVICE static simt::shared<std::int32_t> poisoned() {
    return (sums() + shape::warps * shape::step).template as<std::int32_t>();
  }

  PUREKV_DEVICE std::int64_t result(decode_split const& split, std::int32_t row) const {
    return split.head.row_part + std::int64_t{split.set * shape::rows + row} * split.head.parts + split.part;
  }

  /// The largest logit of a row over all warps that have it; they are `tiles` apart.
  PUREKV_DEVICE static float top_of(std::int32_t row, std::int32_t tiles) {
    float top = tops().load(row);
    for (std::int32_t w = tiles; w < shape::warps; w += tiles) top = higher(top, tops().load(w * shape::step + row));
    return top;
  }

  PUREKV_DEVICE static std::int32_t tiles_of(row_tile const& rows) { return shape::warps / rows.steps_between; }

  /// True if something of it is not a finite number.
  PUREKV_DEVICE bool write(decode_split const& split, row_tile const& rows, softmax_state const& state) const {
    std::int32_t const warp = simt::warp_index(), lane = simt::lane_index(), tiles = tiles_of(rows);
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i)
      if (lane % 4 == 0) {
        tops().store(warp * shape::step + lane / 4 + 8 * i, state.top[i]);
        sums().store(warp * shape::step + lane / 4 + 8 * i, state.sum[i]);
      }
    simt::sync();
    // Here ends the use of the stages.
    simt::shared<float> const out = simt::shared_memory<float>();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) {
      std::int32_t const row = lane / 4 + 8 * i;
      float const factor = simt::exp2(state.top[i] - top_of(rows.first + row, tiles));
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < Width / 8; ++n) {
        using pair = simt::pack<float, 2>;
        auto const to = out + ((warp * shape::step + row) * shape::sums_pitch + 8 * n + 2 * (lane % 4));
        to.template as<pair>().store(0, pair{{state.out[n].at[2 * i] * factor, state.out[n].at[2 * i + 1] * factor}});
      }
    }
    simt::sync();
    bool odd = false;
    std::int32_t const chunks = value_dim / 4;
    for (std::int32_t e = simt::thread_index(); e < rows.count * chunks; e += threads) {
      using pack = simt::pack<float, 4>;
      std::int32_t const row = e / chunks, d = e % chunks * 4;
      pack total{};
      for (std::int32_t w = 0; w < shape::warps; w += tiles) {
        pack const x = (out + ((w * shape::step + row) * shape::sums_pitch + d)).template as<pack>().load(0);
        PUREKV_DEVICE_UNROLL
        for (std::int32_t j = 0; j < 4; ++j) total.at[j] += x.at[j];
      }
      PUREKV_DEVICE_UNROLL
      for (std::int32_t j = 0; j < 4; ++j) odd = odd || !(total.at[j] - total.at[j] == 0);
      simt::store_global(reinterpret_cast<pack*>(results.out + result(split, row) * value_dim + d), total);
    }
    if (simt::thread_index() < rows.count) {
      std::int32_t const row = simt::thread_index();
      float const top = top_of(row, tiles);
      float sum = 0;
      for (std::int32_t w = 0; w < shape::warps; w += tiles)
        sum += sums().load(w * shape::step + row) * simt::exp2(tops().load(w * shape::step + row) - top);
      results.top[result(split, row)] = sum == 0 ? hidden_logit : top;
      results.sum[result(split, row)] = sum;
    }
    odd = simt::any(odd);
    if (lane == 0) poisoned().store(warp, odd);
    simt::sync();
    odd = false;
    for (std::int32_t w = 0; w < shape::warps; ++w) odd = odd || poisoned().load(w) != 0;
    return odd;
  }

  /// The same sums once more, but a probability of zero takes nothing from its value, even if that is inf or NaN: such
  /// values are rare, and tensor cores cannot leave them out.
  PUREKV_DEVICE void write_guarded(decode_split const& split, row_tile const& rows,
                                   simt::a_fragment const (&queries)[Width / 16]) const {
    simt::shared<float> const weights = simt::shared_memory<float>(shape::stage_bytes);  // [rows, keys]
    stage_memory const from = stage(0);
    float top[2];
    PUREKV_DEVICE_UNROLL
    for (std::int32_t i = 0; i < 2; ++i) top[i] = top_of(rows.first + simt::lane_index() / 4 + 8 * i, tiles_of(rows));
    for (std::int32_t index = split.first(); index < split.last(); ++index) {
      simt::sync();
      fetch(split, index, from);
      simt::cp_async_wait<0>();
      simt::sync();
      key_tile const t = tile_of(split, index);
      for (std::int32_t s = rows.step; rows.used && s < shape::warps; s += rows.steps_between) {
        simt::c_fragment logits[2];
        multiply_step(split, rows, queries, t, from, s * 16, logits);
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < 2; ++n) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t c = 0; c < 4; ++c) {
            std::int32_t const row = rows.first + simt::lane_index() / 4 + 8 * (c / 2);
            std::int32_t const key = s * 16 + 8 * n + 2 * (simt::lane_index() % 4) + c % 2;
            weights.store(row * shape::keys + key, simt::exp2(logits[n].at[c] - top[c / 2]));
          }
        }
      }
      simt::sync();
      for (std::int32_t e = simt::thread_index(); e < rows.count * value_dim; e += threads) {
        std::int32_t const row = e / value_dim, d = e % value_dim;
        float* const to = results.out + result(split, row) * value_dim + d;
        float total = index == split.first() ? 0 : *to;
        for (std::int32_t k = 0; k < shape::keys; ++k) {
          float const weight = weights.load(row * shape::keys + k);
          if (weight != 0) total += weight * static_cast<float>(from.values.at(k, d).load(0));
        }
        *to = total;
      }
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
