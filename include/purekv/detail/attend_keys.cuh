// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/attend_softmax.cuh>
#include <purekv/detail/batch.cuh>
#include <purekv/detail/pattern.hpp>
#include <purekv/detail/positions.hpp>
#include <purekv/pattern/dense.hpp>
#include <purekv/tile_plan.hpp>

#include <type_traits>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

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

/// The keys of a block of rows: walks the runs of its tile, gathers as many keys as a step has slots for, fetches them
/// and their values while those of the step before are used, and hides what a row does not see.
template <class Kernel> struct attend_keys {
  using T = typename Kernel::element;
  using tile_of = typename Kernel::tile_of;
  using pattern_type = typename Kernel::pattern_type;
  static constexpr std::int32_t width = Kernel::width, keys = Kernel::keys, blocks = Kernel::blocks;
  static constexpr std::int32_t groups = keys / 8;

  Kernel const& in;
  // What all threads know lies in shared memory too, to leave the registers to the tensor cores.
  simt::shared<attend_task> task = simt::shared_memory<attend_task>(Kernel::layout::task);
  simt::shared<gathered_keys> slots = simt::shared_memory<gathered_keys>(Kernel::layout::slots);      // [3]
  simt::shared<std::int32_t> ordinals = simt::shared_memory<std::int32_t>(Kernel::layout::ordinals);  // [3, keys]
  simt::shared<std::int32_t> bounds = simt::shared_memory<std::int32_t>(Kernel::layout::bounds);      // [rows]
  simt::shared<std::uint32_t> seen = simt::shared_memory<std::uint32_t>(Kernel::layout::seen);        // [2, rows, 2]

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
    std::int32_t const i = task.load(0).tile.first + (task.load(0).first_row + row) / group();
    return ordered() ? in.plan.order[i] : i;
  }
  PUREKV_DEVICE std::int32_t position(std::int32_t row) const { return in.q.batch.positions[query(row)]; }

  PUREKV_DEVICE bool ordered() const {
    if constexpr (has_temporal_part<pattern_type>()) return in.plan.order != nullptr;
    return false;
  }
  PUREKV_DEVICE bool is_listed(key_run const& run) const { return ordered() && run.masks >= 0; }
  PUREKV_DEVICE std::int32_t mask_row(std::int32_t row) const {
    std::int32_t const of_tile = task.load(0).first_row + row;
    return is_per_head<pattern_type>() ? of_tile : of_tile / group();
  }

  /// How many cached tokens causality shows each row; none if it is known that the row sees no key at all.
  PUREKV_DEVICE void find_bounds() const {
    static_assert(Kernel::rows <= Kernel::threads);
    std::int32_t const row = simt::thread_index();
    if (row < rows())
      bounds.store(row, sees_nothing(row)
                            ? 0
                            : tokens_until(in.cache, sequence(), kv_head(), last_visible(in.pattern, position(row))));
  }
  /// In plans with an order most tiles have such rows.
  PUREKV_DEVICE bool sees_nothing(std::int32_t row) const {
    if (!ordered()) return false;
    query_tile const tile = task.load(0).tile;
    if (tile.runs == 0) return true;
    key_run const run = run_at(0);
    if (!is_listed(run)) return false;
    std::uint64_t some = 0;
    for (std::int32_t first = 0; first < run.count && some == 0; first += 64)
      some = in.plan.seen(run, mask_row(row), first, smaller(64, run.count - first));
    return some == 0;
  }

  PUREKV_DEVICE static std::int32_t row_of_block(std::int32_t block) {
    return (simt::warp_index() * blocks + block) * 16;
  }
  PUREKV_DEVICE static std::int32_t row_of_lane(std::int32_t block, std::int32_t half) {
    return row_of_block(block) + simt::lane_index() / 4 + half * 8;
  }

  PUREKV_DEVICE key_run run_at(std::int32_t index) const {
    if (in.plan.tiles != nullptr) return in.plan.runs[task.load(0).tile.runs_begin + index];
    return {0, INT32_MAX, std::is_same_v<pattern_type, dense>};
  }

  /// Calls f(run, done, slot, count) for the pieces of runs that fill the next slots: keys [done, done + count) of a
  /// run are slots [slot, slot + count). Ends with the last key that some row sees. Returns where the slots after these
  /// begin.
  template <class F> PUREKV_DEVICE run_cursor walk(run_cursor at, F const& f) const {
    std::int32_t const runs = task.load(0).tile.runs, last_bound = bounds.load(rows() - 1);
    std::int32_t slot = 0;
    while (slot < keys && at.index < runs) {
      key_run const run = run_at(at.index);
      std::int32_t const end = is_listed(run) ? run.count : smaller(run.count, last_bound - run.begin);
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
      bool const is_mine = slot <= mine && mine < slot + count;
      found.count = slot + count;
      if (run.full == 0) found.partial = 1;
      if (is_listed(run)) {
        std::int32_t const* const list = in.plan.list(task.load(0).tile, run) + done;
        if (slot == 0) found.first = list[0];
        if (is_mine) ordinal = list[mine - slot];
        found.in_row = 0;
        found.last = list[count - 1];
        return;
      }
      std::int32_t const first = run.begin + done;
      if (slot == 0) found.first = first;
      if (is_mine) ordinal = first + mine - slot;
      if (first != found.first + slot) found.in_row = 0;
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
    std::int32_t const row = simt::thread_index();
    if (row >= Kernel::rows) return;
    std::uint64_t bits = ~std::uint64_t{0};
    if (row < rows()) {
      bits = 0;
      std::int32_t const shown = below(row, step), at = position(row), asking = head(row);
      walk(slots.load(step % 3).from,
           [&](key_run const& run, std::int32_t done, std::int32_t slot, std::int32_t count) {
             if (run.full != 0) {
               bits |= ones(count) << slot;
             } else if (run.masks >= 0) {
               bits |= in.plan.seen(run, mask_row(row), done, count) << slot;
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
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
