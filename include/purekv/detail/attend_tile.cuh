// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/attend_keys.cuh>
#include <purekv/detail/attend_softmax.cuh>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The shape of a block by the width of its rows: each warp has `blocks` blocks of 16 rows and meets `keys` keys in a
/// step. A warp of 32 rows uses what it loads of keys and values twice, without which shared memory is as slow as the
/// tensor cores; at width 256 its sums alone would fill the registers. With 64 keys wide rows spill registers.
/// Two blocks on a multiprocessor, so that one multiplies while the other waits: 255 registers, and 82 KB each on
/// sm_80; every device has 99 KB for one.
template <std::int32_t Width> struct attend_tuning { static constexpr std::int32_t warps = 4, blocks = 2, keys = 32; };
template <> struct attend_tuning<64> { static constexpr std::int32_t warps = 4, blocks = 2, keys = 64; };
template <> struct attend_tuning<256> { static constexpr std::int32_t warps = 4, blocks = 1, keys = 16; };

/// What a first pass over some of a row's keys leaves for the second, beside the sums / total that lie in the row's
/// place of the result. total: of exp2(logit - top); 0: it has met no key, and nothing lies there.
struct passed_row {
  float top, total;
};
struct attend_pass {
  passed_row* rows =
      nullptr;  // [heads, queries], which the first of two passes writes, the second reads; null: one pass
  bool second = false;
};

/// Attention of a block of rows of one tile, all of one KV head: rows are (query, head of the group), head fastest.
/// FlashAttention-2 (arXiv 2307.08691): logits and sums stay in registers, keys and values of the next step are on
/// their way meanwhile, and one barrier separates the steps.
///
/// Its first pass trusts logits and values to be finite: NaN and inf spread, so that its results show where that was
/// wrong. Then a second pass, which is guarded, takes its place.
template <class Kernel> struct attend_rows {
  using T = typename Kernel::element;
  using TO = typename Kernel::result;
  using pattern = typename Kernel::pattern_type;
  using tile_of = typename Kernel::tile_of;
  static constexpr std::int32_t width = Kernel::width, keys = Kernel::keys, warps = Kernel::warps,
                                blocks = Kernel::blocks;
  static constexpr std::int32_t groups = keys / 8, columns = width / 8;  // of 8: of keys, and of a result's columns

  using state = softmax_rows<blocks, width>;

  Kernel const& in;
  attend_keys<Kernel> block{in};
  tile_of queries{simt::shared_memory<T>(Kernel::layout::queries)};
  simt::shared<float> own = simt::shared_memory<float>(Kernel::layout::own);                // [rows]
  simt::shared<std::int32_t> odd = simt::shared_memory<std::int32_t>(Kernel::layout::odd);  // [warps]

  PUREKV_DEVICE void run(attend_task const& given) const {
    simt::sync();  // nobody reads what the task before left in shared memory
    if (simt::thread_index() == 0) block.task.store(0, given);
    simt::sync();
    std::int32_t const count = block.rows();
    queries.fetch(Kernel::rows, in.q.rows.dim, simt::thread_index(), Kernel::threads,
                  [&](std::int32_t row) -> T const* {
                    return row < count ? in.q.rows.row(block.head(row), block.query(row)) : nullptr;
                  });
    simt::cp_async_commit();
    block.find_bounds();
    if (in.self.keys.data != nullptr) find_own_logits();
    simt::sync();
    bool guarded = false;
    while (pass(guarded)) guarded = true;
  }

  /// The logits of rows that see their own key beside the cached ones; hidden for the others.
  PUREKV_DEVICE void find_own_logits() const {
    for (std::int32_t row = simt::warp_index(); row < block.rows(); row += warps) {
      float logit = hidden_logit;
      if (sees_itself(row)) {
        T const* const a = in.q.rows.row(block.head(row), block.query(row));
        T const* const b = in.self.keys.row(block.kv_head(), block.query(row));
        float product = 0;
        for (std::int32_t i = simt::lane_index(); i < in.q.rows.dim; i += simt::warp_threads)
          product = ::fmaf(static_cast<float>(a[i]), static_cast<float>(b[i]), product);
        logit = in.rule(simt::warp_sum(product));
      }
      if (simt::lane_index() == 0) own.store(row, logit);
    }
  }
  PUREKV_DEVICE bool sees_itself(std::int32_t row) const {
    std::int32_t const at = block.position(row), until = tokens_until(in.cache, block.sequence(), block.kv_head(), at);
    bool const cached = until > 0 && *in.cache.run(block.sequence(), block.kv_head(), until - 1).positions == at;
    return !cached && in.pattern.visible(block.head(row), at, at);
  }

  /// Attends to all keys and writes the results. Returns whether the pass was not guarded and should have been; then
  /// nothing is written.
  PUREKV_DEVICE bool pass(bool guarded) const {
    // Where the logits take more than one multiplication, they are made first and then not scaled.
    bool const exact = guarded || in.rule.cap != 0 || !(in.rule.scale > 0);
    float const scale = exact ? 1 : in.rule.scale;
    bool const working = block.row_of_block(0) < block.rows();
    state s;
    start(s);

    block.gather({}, 0);
    simt::sync();
    block.fetch(0);
    if (block.slots.load(0).partial != 0) block.ask_pattern(0);
    block.gather(block.slots.load(0).next, 1);
    simt::cp_async_wait<0>();
    simt::sync();

    auto const left = [&](std::int32_t b, std::int32_t k) { return queries.left(block.row_of_block(b), k * 16); };
    for (std::int32_t now = 0; block.slots.load(now % 3).count > 0; ++now) {
      block.fetch(now + 1);
      if (block.slots.load((now + 1) % 3).partial != 0) block.ask_pattern(now + 1);
      block.gather(block.slots.load((now + 1) % 3).next, now + 2);
      if (working) {
        simt::c_fragment scores[blocks][groups];
        multiply_keys<T, width, keys>(left, block.key_rows(now), scores);
        if (exact) apply_rule(scores);
        block.hide(scores, now);
        s.step(scores, scale, guarded);
        if (guarded && !block.finite_values(now))
          s.multiply_one_by_one(scores, block.value_rows(now), block.slots.load(now % 3).count);
        else
          multiply_values<T, width, keys>(scores, block.value_rows(now), s.sums);
      }
      simt::cp_async_wait<0>();
      simt::sync();
    }

    s.add_lanes();
    if (!guarded && is_odd(s, exact)) return true;
    finish(s);
    return false;
  }

  PUREKV_DEVICE void start(state& s) const {
    bool const with_self = in.self.keys.data != nullptr;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < columns; ++n) s.sums[b][n] = {};
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        std::int32_t const row = block.row_of_lane(b, i);
        s.top[b][i] = -largest_logit;
        s.total[b][i] = 0;
        float const logit = with_self && row < block.rows() ? own.load(row) : hidden_logit;
        if (logit == hidden_logit) continue;
        s.top[b][i] = logit;
        s.total[b][i] = simt::lane_index() % 4 == 0 ? 1.0f : 0.0f;
        T const* const value = in.self.values.row(block.kv_head(), block.query(row)) + column_of_lane();
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < columns; ++n)
          if (n * 8 < in.self.values.dim) {
            s.sums[b][n].at[2 * i] = static_cast<float>(value[n * 8]);
            s.sums[b][n].at[2 * i + 1] = static_cast<float>(value[n * 8 + 1]);
          }
      }
    }
    if constexpr (has_temporal_part<pattern>())
      if (in.pass.rows != nullptr && in.pass.second) go_on(s);
  }

  /// Starts from what the first pass has left.
  PUREKV_DEVICE void go_on(state& s) const {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        std::int32_t const row = block.row_of_lane(b, i);
        if (row >= block.rows()) continue;
        passed_row const before = passed(row);
        if (!(before.total > 0)) continue;
        s.top[b][i] = before.top;
        s.total[b][i] = simt::lane_index() % 4 == 0 ? before.total : 0.0f;
        TO const* const sums = in.out.row(block.head(row), block.query(row)) + column_of_lane();
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < columns; ++n)
          if (n * 8 < in.out.dim) {
            s.sums[b][n].at[2 * i] = static_cast<float>(sums[n * 8]) * before.total;
            s.sums[b][n].at[2 * i + 1] = static_cast<float>(sums[n * 8 + 1]) * before.total;
          }
      }
    }
  }
  PUREKV_DEVICE passed_row& passed(std::int32_t row) const {
    return in.pass.rows[std::int64_t{block.head(row)} * in.q.rows.tokens + block.query(row)];
  }

  PUREKV_DEVICE void apply_rule(simt::c_fragment (&scores)[blocks][groups]) const {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < groups; ++n) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t e = 0; e < 4; ++e) scores[b][n].at[e] = in.rule(scores[b][n].at[e]);
      }
    }
  }

  /// Whether some row of the block has met what only a guarded pass gets right: a value that is not finite, or logits
  /// that are clamped, hidden for being NaN, or so large that rounding exp2(scale * product - top) once is not enough.
  PUREKV_DEVICE bool is_odd(state const& s, bool exact) const {
    constexpr float large = 0x1p20f;
    bool mine = false;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        if (block.row_of_lane(b, i) >= block.rows()) continue;
        float const top = s.top[b][i], total = s.total[b][i];
        bool const plain = total > 0 && total <= largest_logit && top <= large && top >= -large;
        mine = mine || !(exact || plain || block.bounds.load(block.row_of_lane(b, i)) == 0);
        float sum = 0;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < columns; ++n)
          sum = ::fmaf(s.sums[b][n].at[2 * i], 0.0f, ::fmaf(s.sums[b][n].at[2 * i + 1], 0.0f, sum));
        mine = mine || sum != 0;  // NaN
      }
    }
    bool const some = simt::any(mine);
    if (simt::lane_index() == 0) odd.store(simt::warp_index(), some ? 1 : 0);
    simt::sync();
    bool all = false;
    for (std::int32_t w = 0; w < warps; ++w) all = all || odd.load(w) != 0;
    return all;
  }

  PUREKV_DEVICE void finish(state const& s) const {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        std::int32_t const row = block.row_of_lane(b, i);
        if (row >= block.rows()) continue;
        float top = s.top[b][i], total = s.total[b][i], share = 1;
        if constexpr (has_temporal_part<pattern>())
          if (in.pass.rows != nullptr && !in.pass.second) {
            if (simt::lane_index() % 4 == 0) passed(row) = {top, total};
            if (total > 0) store_row(s, b, i, 1 / total);
            continue;
          }
        if (float const sink = sink_logit(in.q, block.head(row)); sink != hidden_logit) {
          float const most = ::fmaxf(sink, top);
          share = total > 0 ? simt::exp2(top - most) : 0;
          total = ::fmaf(share, total, simt::exp2(sink - most));
          top = most;
        }
        if (in.lse != nullptr && simt::lane_index() % 4 == 0)
          in.lse[block.head(row) * in.lse_stride + block.query(row)] = total > 0 ? top + ::log2f(total) : hidden_logit;
        float const factor = total > 0 ? share / total : 0;
        store_row(s, b, i, factor);
      }
    }
  }

  PUREKV_DEVICE void store_row(state const& s, std::int32_t b, std::int32_t i, float factor) const {
    std::int32_t const row = block.row_of_lane(b, i);
    auto* const to = in.out.row(block.head(row), block.query(row)) + column_of_lane();
    PUREKV_DEVICE_UNROLL
    for (std::int32_t n = 0; n < columns; ++n)
      if (n * 8 < in.out.dim)
        store_two(to + n * 8, factor != 0 ? s.sums[b][n].at[2 * i] * factor : 0,
                  factor != 0 ? s.sums[b][n].at[2 * i + 1] * factor : 0);
  }

  PUREKV_DEVICE static void store_two(TO* to, float low, float high) {
    bool const together = reinterpret_cast<std::uintptr_t>(to) % (2 * sizeof(TO)) == 0;
    if constexpr (std::is_same_v<TO, float>) {
      using pair = simt::pack<float, 2>;
      if (together) return simt::store_global(reinterpret_cast<pair*>(to), pair{{low, high}});
    } else {
      if (together) return simt::store_global(reinterpret_cast<std::uint32_t*>(to), simt::pack2<TO>(low, high));
    }
    to[0] = TO(low);
    to[1] = TO(high);
  }
};

/// Attention of tiles of queries, from a plan or, without one, cut as the queries come: a task is a block of rows of a
/// tile, as seen from one KV head. The last tiles, which see most, go first; all heads have their turn, so that the
/// blocks that run at the same time walk through the keys of few heads side by side.
template <Pattern P, simt::Half T, std::int32_t Width, Cache C, class TO> struct attend_kernel {
  using element = T;
  using result = TO;
  using pattern_type = P;
  using tile_of = mma_tile<T, Width>;
  using tuning = attend_tuning<Width>;
  static constexpr std::int32_t width = Width, warps = tuning::warps, blocks = tuning::blocks, keys = tuning::keys;
  static constexpr std::int32_t threads = warps * simt::warp_threads, rows = 16 * warps * blocks, min_blocks = 2;

  /// Bytes from the beginning of shared memory.
  struct layout {
    static constexpr std::int32_t queries = 0, keys = tile_of::bytes(rows),
                                  values = keys + 2 * tile_of::bytes(attend_kernel::keys),
                                  task = values + 2 * tile_of::bytes(attend_kernel::keys),
                                  slots = task + static_cast<std::int32_t>(sizeof(attend_task)),
                                  ordinals = slots + 3 * static_cast<std::int32_t>(sizeof(gathered_keys)),
                                  bounds = ordinals + 3 * attend_kernel::keys * 4, seen = bounds + rows * 4,
                                  own = seen + 2 * rows * 8, odd = own + rows * 4, end = odd + warps * 4;
  };
  static_assert(layout::end <= 99 * 1024, "attend_tuning: more shared memory than every device has");

  P pattern;
  query_view<T> q;
  C cache;
  self_view<T> self;  // null data: the cache holds every key
  rows_view<TO> out;
  float* lse;
  std::ptrdiff_t lse_stride;
  logit_rule rule;
  tile_plan plan;  // no tiles: tiles of tile_queries, cut from each sequence on its own
  std::int32_t tile_queries;
  attend_pass pass;

  /// At most so many tiles as seen from one KV head.
  PUREKV_HD std::int64_t tiles() const {
    return plan.tiles != nullptr ? plan.tiles_per_head : std::int64_t{q.rows.tokens / tile_queries} + q.batch.sequences;
  }
  PUREKV_HD std::int32_t blocks_of_tile() const {
    return static_cast<std::int32_t>((std::int64_t{tile_queries} * (q.rows.heads / cache.kv_heads) + rows - 1) / rows);
  }
  PUREKV_HD std::int64_t tasks() const { return tiles() * blocks_of_tile() * cache.kv_heads; }

  PUREKV_DEVICE void operator()() const {
    for (std::int64_t task = simt::block_index().x; task < tasks(); task += simt::grid_size().x) {
      std::int32_t const kv_head = static_cast<std::int32_t>(task % cache.kv_heads), of_tile = blocks_of_tile();
      std::int64_t const from_end = task / cache.kv_heads;
      query_tile tile;
      if (!find_tile(kv_head, static_cast<std::int32_t>(from_end / of_tile), tile)) continue;
      std::int32_t const all = tile.count * (q.rows.heads / cache.kv_heads);
      std::int32_t const first = (of_tile - 1 - static_cast<std::int32_t>(from_end % of_tile)) * rows;
      if (first >= all) continue;
      attend_rows<attend_kernel>{*this}.run({tile, kv_head, first, smaller(rows, all - first)});
    }
  }

  /// The tile that is number `from_end` from the last one; false where there are fewer.
  PUREKV_DEVICE bool find_tile(std::int32_t kv_head, std::int32_t from_end, query_tile& tile) const {
    if (plan.tiles != nullptr) {
      std::int32_t const index = plan.tile_count(kv_head) - 1 - from_end;
      if (index >= 0) tile = plan.tile(kv_head, index);
      return index >= 0;
    }
    // Sequence s has the numbers from s + begin / tile_queries on, as many as it has tiles or one more.
    std::int32_t const index = static_cast<std::int32_t>(tiles()) - 1 - from_end;
    auto const first_of = [&](std::int32_t s) { return s + q.begin(s) / tile_queries; };
    std::int32_t low = 0, high = q.batch.sequences - 1;
    while (low < high) {
      std::int32_t const middle = high - (high - low) / 2;
      if (first_of(middle) <= index)
        low = middle;
      else
        high = middle - 1;
    }
    std::int32_t const done = (index - first_of(low)) * tile_queries;
    tile = {low, q.begin(low) + done, smaller(tile_queries, q.count(low) - done), 1, 0, 0};
    return tile.count > 0;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
