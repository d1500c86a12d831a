// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/batch.cuh>
#include <purekv/detail/logits.cuh>
#include <purekv/detail/mma_tile.cuh>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/simt/warp.hpp>
#include <purekv/taps.hpp>
#include <purekv/tile_plan.hpp>

#include <cmath>
#include <type_traits>

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

/// Where a walk through the runs of a tile stands: before key `done` of run `index`.
struct run_cursor {
  std::int32_t index = 0, done = 0;
};

/// The keys that a block meets at once, gathered from runs: slots [0, count).
struct gathered_keys {
  run_cursor from, next;            // where these begin, and where those behind them do
  std::int32_t count, first, last;  // ordinals of the first and the last slot
  std::int32_t in_row;              // slot s holds ordinal first + s
  std::int32_t partial;             // the pattern hides some of them from some row
};

/// What a block attends with: rows [first_row, first_row + rows) of a tile, as seen from one KV head.
struct attend_task {
  query_tile tile;
  std::int32_t kv_head, first_row, rows;
};

/// Attention of a block of rows of one tile, all of one KV head: rows are (query, head of the group), head fastest.
/// FlashAttention-2 (arXiv 2307.08691): logits and sums stay in registers, keys and values of the next step are on
/// their way meanwhile, and one barrier separates the steps.
///
/// Its first pass trusts logits and values to be finite: NaN and inf spread, so that its results show where that was
/// wrong. Then a second pass, which is guarded, takes its place.
template <class Kernel> struct attend_rows {
  using T = typename Kernel::element;
  using tile_of = typename Kernel::tile_of;
  static constexpr std::int32_t width = Kernel::width, keys = Kernel::keys, warps = Kernel::warps,
                                blocks = Kernel::blocks;
  static constexpr std::int32_t groups = keys / 8, columns = width / 8;  // of 8: of keys, and of a result's columns

  Kernel const& in;
  tile_of queries{simt::shared_memory<T>(Kernel::layout::queries)};
  // What all threads know lies in shared memory too, to leave the registers to the tensor cores.
  simt::shared<attend_task> task = simt::shared_memory<attend_task>(Kernel::layout::task);
  simt::shared<gathered_keys> slots = simt::shared_memory<gathered_keys>(Kernel::layout::slots);      // [3]
  simt::shared<std::int32_t> ordinals = simt::shared_memory<std::int32_t>(Kernel::layout::ordinals);  // [3, keys]
  simt::shared<std::int32_t> bounds = simt::shared_memory<std::int32_t>(Kernel::layout::bounds);      // [rows]
  simt::shared<std::uint32_t> seen = simt::shared_memory<std::uint32_t>(Kernel::layout::seen);        // [2, rows, 2]
  simt::shared<float> own = simt::shared_memory<float>(Kernel::layout::own);                          // [rows]
  simt::shared<std::int32_t> odd = simt::shared_memory<std::int32_t>(Kernel::layout::odd);            // [warps]

  /// The keys, or the values, of every other step.
  PUREKV_DEVICE static tile_of key_rows(std::int32_t step) {
    return {simt::shared_memory<T>(Kernel::layout::keys + step % 2 * tile_of::bytes(keys))};
  }
  PUREKV_DEVICE static tile_of value_rows(std::int32_t step) {
    return {simt::shared_memory<T>(Kernel::layout::values + step % 2 * tile_of::bytes(keys))};
  }

  PUREKV_DEVICE std::int32_t group() const { return in.q.rows.heads / in.cache.kv_heads; }
  PUREKV_DEVICE std::int32_t rows() const { return task.load(0).rows; }
  PUREKV_DEVICE std::int32_t kv_head() const { return task.load(0).kv_head; }
  PUREKV_DEVICE std::int32_t sequence() const { return task.load(0).tile.sequence; }
  PUREKV_DEVICE std::int32_t head(std::int32_t row) const {
    return kv_head() * group() + (task.load(0).first_row + row) % group();
  }
  PUREKV_DEVICE std::int32_t query(std::int32_t row) const {
    return task.load(0).tile.first + (task.load(0).first_row + row) / group();
  }
  PUREKV_DEVICE std::int32_t position(std::int32_t row) const { return in.q.batch.positions[query(row)]; }

  PUREKV_DEVICE void run(attend_task const& given) const {
    simt::sync();  // nobody reads what the task before left in shared memory
    if (simt::thread_index() == 0) task.store(0, given);
    simt::sync();
    std::int32_t const count = rows();
    queries.fetch(
        Kernel::rows, in.q.rows.dim, simt::thread_index(), Kernel::threads,
        [&](std::int32_t row) -> T const* { return row < count ? in.q.rows.row(head(row), query(row)) : nullptr; });
    simt::cp_async_commit();
    find_bounds();
    if (in.self.keys.data != nullptr) find_own_logits();
    simt::sync();
    bool guarded = false;
    while (pass(guarded)) guarded = true;
  }

  /// How many cached tokens causality shows each row.
  PUREKV_DEVICE void find_bounds() const {
    static_assert(Kernel::rows <= Kernel::threads);
    std::int32_t const row = simt::thread_index();
    if (row < rows())
      bounds.store(row, tokens_until(in.cache, sequence(), kv_head(), last_visible(in.pattern, position(row))));
  }

  /// The logits of rows that see their own key beside the cached ones; hidden for the others.
  PUREKV_DEVICE void find_own_logits() const {
    for (std::int32_t row = simt::warp_index(); row < rows(); row += warps) {
      float logit = hidden_logit;
      if (sees_itself(row)) {
        T const* const a = in.q.rows.row(head(row), query(row));
        T const* const b = in.self.keys.row(kv_head(), query(row));
        float product = 0;
        for (std::int32_t i = simt::lane_index(); i < in.q.rows.dim; i += simt::warp_threads)
          product = ::fmaf(static_cast<float>(a[i]), static_cast<float>(b[i]), product);
        logit = in.rule(simt::warp_sum(product));
      }
      if (simt::lane_index() == 0) own.store(row, logit);
    }
  }
  PUREKV_DEVICE bool sees_itself(std::int32_t row) const {
    std::int32_t const at = position(row), until = tokens_until(in.cache, sequence(), kv_head(), at);
    bool const cached = until > 0 && *in.cache.run(sequence(), kv_head(), until - 1).positions == at;
    return !cached && in.pattern.visible(head(row), at, at);
  }

  /// What a lane holds of its blocks of 16 rows: of each the rows lane / 4 and lane / 4 + 8.
  struct state {
    simt::c_fragment sums[blocks][columns];
    float top[blocks][2];    // largest logit so far
    float total[blocks][2];  // of exp2(logit - top), over the keys that this lane has met
  };

  PUREKV_DEVICE static std::int32_t row_of_block(std::int32_t block) {
    return (simt::warp_index() * blocks + block) * 16;
  }
  PUREKV_DEVICE static std::int32_t row_of_lane(std::int32_t block, std::int32_t half) {
    return row_of_block(block) + simt::lane_index() / 4 + half * 8;
  }
  PUREKV_DEVICE static std::int32_t column_of_lane() { return simt::lane_index() % 4 * 2; }

  /// Attends to all keys and writes the results. Returns whether the pass was not guarded and should have been; then
  /// nothing is written.
  PUREKV_DEVICE bool pass(bool guarded) const {
    // Where the logits take more than one multiplication, they are made first and then not scaled.
    bool const exact = guarded || in.rule.cap != 0 || !(in.rule.scale > 0);
    float const scale = exact ? 1 : in.rule.scale;
    bool const working = row_of_block(0) < rows();
    state s;
    start(s);

    gather({}, 0);
    simt::sync();
    fetch(0);
    if (slots.load(0).partial != 0) ask_pattern(0);
    gather(slots.load(0).next, 1);
    simt::cp_async_wait<0>();
    simt::sync();

    auto const left = [&](std::int32_t block, std::int32_t k) { return queries.left(row_of_block(block), k * 16); };
    for (std::int32_t now = 0; slots.load(now % 3).count > 0; ++now) {
      fetch(now + 1);
      if (slots.load((now + 1) % 3).partial != 0) ask_pattern(now + 1);
      gather(slots.load((now + 1) % 3).next, now + 2);
      if (working) {
        simt::c_fragment scores[blocks][groups];
        multiply_keys<T, width, keys>(left, key_rows(now), scores);
        if (exact) apply_rule(scores);
        hide(scores, now);
        step(scores, s, scale, guarded);
        if (guarded && !finite_values(now))
          multiply_one_by_one(scores, now, s);
        else
          multiply_values<T, width, keys>(scores, value_rows(now), s.sums);
      }
      simt::cp_async_wait<0>();
      simt::sync();
    }

    add_lanes(s);
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
        std::int32_t const row = row_of_lane(b, i);
        s.top[b][i] = -largest_logit;
        s.total[b][i] = 0;
        float const logit = with_self && row < rows() ? own.load(row) : hidden_logit;
        if (logit == hidden_logit) continue;
        s.top[b][i] = logit;
        s.total[b][i] = simt::lane_index() % 4 == 0 ? 1.0f : 0.0f;
        T const* const value = in.self.values.row(kv_head(), query(row)) + column_of_lane();
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < columns; ++n)
          if (n * 8 < in.self.values.dim) {
            s.sums[b][n].at[2 * i] = static_cast<float>(value[n * 8]);
            s.sums[b][n].at[2 * i + 1] = static_cast<float>(value[n * 8 + 1]);
          }
      }
    }
  }

  PUREKV_DEVICE key_run run_at(std::int32_t index) const {
    if (in.plan.tiles != nullptr) return in.plan.runs[task.load(0).tile.runs_begin + index];
    return {0, INT32_MAX, std::is_same_v<typename Kernel::pattern_type, dense>};
  }

  /// Calls f(run, done, slot, count) for the pieces of runs that fill the next slots: keys [done, done + count) of a
  /// run are slots [slot, slot + count). Ends with the last key that some row sees. Returns where the slots after these
  /// begin.
  template <class F> PUREKV_DEVICE run_cursor walk(run_cursor at, F const& f) const {
    std::int32_t const runs = task.load(0).tile.runs, last_bound = bounds.load(rows() - 1);
    std::int32_t slot = 0;
    while (slot < keys && at.index < runs) {
      key_run const run = run_at(at.index);
      std::int32_t const end = smaller(run.count, last_bound - run.begin);
      if (end <= at.done) return {runs, 0};
      std::int32_t const count = smaller(keys - slot, end - at.done);
      f(run, at.done, slot, count);
      slot += count;
      at.done += count;
      if (at.done == end) at = {at.index + 1, 0};
    }
    return at;
  }

  /// Fills the slots of a step, which are there after the next barrier.
  PUREKV_DEVICE void gather(run_cursor from, std::int32_t step) const {
    static_assert(keys <= Kernel::threads);
    std::int32_t const mine = simt::thread_index();
    if (mine >= keys) return;
    gathered_keys found{from, from, 0, 0, 0, 1, 0};
    std::int32_t ordinal = INT32_MAX;
    found.next = walk(from, [&](key_run const& run, std::int32_t done, std::int32_t slot, std::int32_t count) {
      std::int32_t const first = run.begin + done;
      if (slot == 0) found.first = first;
      if (slot <= mine && mine < slot + count) ordinal = first + mine - slot;
      if (first != found.first + slot) found.in_row = 0;
      if (run.full == 0) found.partial = 1;
      found.count = slot + count;
      found.last = first + count - 1;
    });
    ordinals.store(step % 3 * keys + mine, ordinal);
    if (mine == 0) slots.store(step % 3, found);
  }

  /// Starts to copy the keys and values of the slots; rows of zeros where there are none.
  PUREKV_DEVICE void fetch(std::int32_t step) const {
    gathered_keys const from = slots.load(step % 3);
    if (from.count == 0) return;
    auto const run = in.cache.run(sequence(), kv_head(), from.first);
    bool const together = from.in_row != 0 && run.tokens >= from.count;
    auto const one = [&](std::int32_t slot) {
      return in.cache.run(sequence(), kv_head(), ordinals.load(step % 3 * keys + slot));
    };
    std::int32_t const thread = simt::thread_index();
    key_rows(step).fetch(keys, in.cache.dim, thread, Kernel::threads, [&](std::int32_t slot) -> T const* {
      if (slot >= from.count) return nullptr;
      return together ? run.keys + slot * run.stride : one(slot).keys;
    });
    value_rows(step).fetch(keys, value_dim_of(in.cache), thread, Kernel::threads, [&](std::int32_t slot) -> T const* {
      if (slot >= from.count) return nullptr;
      return together ? run.values + slot * run.value_stride : one(slot).values;
    });
    simt::cp_async_commit();
  }

  /// How many of the slots causality shows a row; rows without a query see them all.
  PUREKV_DEVICE std::int32_t below(std::int32_t row, std::int32_t step) const {
    gathered_keys const from = slots.load(step % 3);
    if (row >= rows()) return from.count;
    std::int32_t const bound = bounds.load(row);
    if (from.in_row != 0) return larger(0, smaller(bound - from.first, from.count));
    std::int32_t low = 0, high = from.count;
    while (low < high) {
      std::int32_t const middle = (low + high) / 2;
      if (ordinals.load(step % 3 * keys + middle) < bound)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  PUREKV_DEVICE static std::uint64_t ones(std::int32_t count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
  }

  /// Which of the slots the pattern shows each row, a bit each.
  PUREKV_DEVICE void ask_pattern(std::int32_t step) const {
    using pattern = typename Kernel::pattern_type;
    std::int32_t const row = simt::thread_index();
    if (row >= Kernel::rows) return;
    std::uint64_t bits = ~std::uint64_t{0};
    if (row < rows()) {
      bits = 0;
      std::int32_t const shown = below(row, step), at = position(row), asking = head(row);
      std::int32_t const of_tile = task.load(0).first_row + row;
      std::int32_t const mask_row = is_per_head<pattern>() ? of_tile : of_tile / group();
      walk(slots.load(step % 3).from,
           [&](key_run const& run, std::int32_t done, std::int32_t slot, std::int32_t count) {
             if (run.full != 0) {
               bits |= ones(count) << slot;
             } else if (run.masks >= 0) {
               bits |= in.plan.seen(run, mask_row, done, count) << slot;
             } else {
               for (std::int32_t k = slot; k < smaller(slot + count, shown); ++k) {
                 std::int32_t const key = *in.cache.run(sequence(), kv_head(), run.begin + done + k - slot).positions;
                 if (in.pattern.visible(asking, at, key)) bits |= std::uint64_t{1} << k;
               }
             }
           });
    }
    std::int32_t const to = (step % 2 * Kernel::rows + row) * 2;
    seen.store(to, static_cast<std::uint32_t>(bits));
    seen.store(to + 1, static_cast<std::uint32_t>(bits >> 32));
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

  /// Hides what a row does not see, and slots without a key.
  PUREKV_DEVICE void hide(simt::c_fragment (&scores)[blocks][groups], std::int32_t step) const {
    gathered_keys const from = slots.load(step % 3);
    if (from.partial == 0 && from.count == keys && from.last < bounds.load(0)) return;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        std::int32_t const row = row_of_lane(b, i);
        std::int32_t const at = (step % 2 * Kernel::rows + row) * 2;
        std::uint64_t bits = ones(below(row, step));
        if (from.partial != 0) bits &= seen.load(at) | std::uint64_t{seen.load(at + 1)} << 32;
        bits >>= column_of_lane();
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < groups; ++n) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t e = 0; e < 2; ++e)
            if ((bits >> (n * 8 + e) & 1) == 0) scores[b][n].at[2 * i + e] = hidden_logit;
        }
      }
    }
  }

  /// One step of the online softmax: scores become exp2(scale * score - top).
  PUREKV_DEVICE void step(simt::c_fragment (&scores)[blocks][groups], state& s, float scale, bool guarded) const {
    float rescale[blocks][2];
    bool grown = false;
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        float most = hidden_logit;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < groups; ++n)
          most = ::fmaxf(most, ::fmaxf(scores[b][n].at[2 * i], scores[b][n].at[2 * i + 1]));
        most = ::fmaxf(most, simt::shuffle_xor(most, 1));
        most = ::fmaxf(most, simt::shuffle_xor(most, 2));
        float const top = ::fmaxf(s.top[b][i], most * scale);
        grown = grown || top != s.top[b][i];
        rescale[b][i] = simt::exp2(s.top[b][i] - top);
        s.top[b][i] = top;
        float added = 0;
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < groups; ++n) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t e = 2 * i; e < 2 * i + 2; ++e) {
            scores[b][n].at[e] = simt::exp2(::fmaf(scores[b][n].at[e], scale, -top));
            added += scores[b][n].at[e];
          }
        }
        s.total[b][i] = ::fmaf(s.total[b][i], rescale[b][i], added);
      }
    }
    if (!simt::any(grown)) return;  // most steps, once a row has met its largest logit
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < columns; ++n) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t e = 0; e < 4; ++e) {
          float const factor = rescale[b][e / 2];
          s.sums[b][n].at[e] = guarded && factor == 0 ? 0 : s.sums[b][n].at[e] * factor;
        }
      }
    }
  }

  /// Whether all values of a step are finite.
  PUREKV_DEVICE bool finite_values(std::int32_t step) const {
    bool finite = true;
    std::int32_t const pairs = width / 2;
    for (std::int32_t i = simt::lane_index(); i < slots.load(step % 3).count * pairs; i += simt::warp_threads) {
      auto const row = value_rows(step).at(i / pairs, 0).template as<std::uint32_t>();
      auto const two = simt::unpack2<T>(row.load(i % pairs));
      finite = finite && two.low - two.low == 0 && two.high - two.high == 0;
    }
    return simt::all(finite);
  }

  /// sums += weights . values, but for those whose weight is 0: as multiply_values, where values are inf or NaN.
  PUREKV_DEVICE void multiply_one_by_one(simt::c_fragment const (&weights)[blocks][groups], std::int32_t step,
                                         state& s) const {
    for (std::int32_t slot = 0; slot < slots.load(step % 3).count; ++slot) {
      float weight[blocks][2] = {};
      PUREKV_DEVICE_UNROLL
      for (std::int32_t b = 0; b < blocks; ++b) {
        PUREKV_DEVICE_UNROLL
        for (std::int32_t i = 0; i < 2; ++i) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t n = 0; n < groups; ++n) {
            float const low = weights[b][n].at[2 * i], high = weights[b][n].at[2 * i + 1];
            weight[b][i] = n == slot / 8 ? slot % 2 == 0 ? low : high : weight[b][i];
          }
          weight[b][i] = simt::shuffle(weight[b][i], simt::lane_index() / 4 * 4 + slot % 8 / 2);
        }
      }
      auto const row = value_rows(step).at(slot, column_of_lane()).template as<std::uint32_t>();
      PUREKV_DEVICE_UNROLL
      for (std::int32_t n = 0; n < columns; ++n) {
        auto const two = simt::unpack2<T>(row.load(n * 4));
        PUREKV_DEVICE_UNROLL
        for (std::int32_t b = 0; b < blocks; ++b) {
          PUREKV_DEVICE_UNROLL
          for (std::int32_t i = 0; i < 2; ++i) {
            float &low = s.sums[b][n].at[2 * i], &high = s.sums[b][n].at[2 * i + 1];
            low = weight[b][i] != 0 ? ::fmaf(weight[b][i], two.low, low) : low;
            high = weight[b][i] != 0 ? ::fmaf(weight[b][i], two.high, high) : high;
          }
        }
      }
    }
  }

  PUREKV_DEVICE static void add_lanes(state& s) {
    PUREKV_DEVICE_UNROLL
    for (std::int32_t b = 0; b < blocks; ++b) {
      PUREKV_DEVICE_UNROLL
      for (std::int32_t i = 0; i < 2; ++i) {
        s.total[b][i] += simt::shuffle_xor(s.total[b][i], 1);
        s.total[b][i] += simt::shuffle_xor(s.total[b][i], 2);
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
        if (row_of_lane(b, i) >= rows()) continue;
        float const top = s.top[b][i], total = s.total[b][i];
        bool const plain = total > 0 && total <= largest_logit && top <= large && top >= -large;
        mine = mine || !(exact || plain || bounds.load(row_of_lane(b, i)) == 0);
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
        std::int32_t const row = row_of_lane(b, i);
        if (row >= rows()) continue;
        float top = s.top[b][i], total = s.total[b][i], share = 1;
        if (float const sink = sink_logit(in.q, head(row)); sink != hidden_logit) {
          float const most = ::fmaxf(sink, top);
          share = total > 0 ? simt::exp2(top - most) : 0;
          total = ::fmaf(share, total, simt::exp2(sink - most));
          top = most;
        }
        if (in.lse != nullptr && simt::lane_index() % 4 == 0)
          in.lse[head(row) * in.lse_stride + query(row)] = total > 0 ? top + ::log2f(total) : hidden_logit;
        float const factor = total > 0 ? share / total : 0;
        auto* const to = in.out.row(head(row), query(row)) + column_of_lane();
        PUREKV_DEVICE_UNROLL
        for (std::int32_t n = 0; n < columns; ++n)
          if (n * 8 < in.out.dim)
            store_two(to + n * 8, factor != 0 ? s.sums[b][n].at[2 * i] * factor : 0,
                      factor != 0 ? s.sums[b][n].at[2 * i + 1] * factor : 0);
      }
    }
  }

  template <class TO> PUREKV_DEVICE static void store_two(TO* to, float low, float high) {
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
