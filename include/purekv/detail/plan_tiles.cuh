// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/cut_queries.cuh>
#include <purekv/detail/lane_bits.cuh>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/sum_before.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// What `look` says of 32 granules of keys, a bit each.
struct looked_at {
  std::uint32_t some, all;
};

/// A plan under way: its arrays in device memory, and what they are made from.
template <Pattern P, Cache C> struct device_plan {
  P pattern;
  query_view<char> q;  // positions only
  C cache;
  query_tile* tiles;         // [copies, tiles_per_head]
  std::int32_t* tiles_used;  // [copies]
  key_run* runs;             // [run_capacity]
  std::uint64_t* masks;      // [mask_capacity]
  looked_at* looked;         // [copies, tiles_per_head, looked_words] if the pattern has no runs
  std::int32_t* joined;      // one: how many neighbouring runs of a tile had to become one
  std::int32_t tiles_per_head, copies;
  std::int64_t run_capacity, mask_capacity;
  bool listed = false;  // masks of a run are followed by the list of its keys

  using tile_keys = planned_tile<P, char, C>;

  static constexpr std::int32_t looked_words = tile_keys::most_runs / simt::warp_threads;
  // Asking once for all heads of a group is worth the memory, and where heads differ, if it is known of which keys.
  static constexpr bool has_masks = !is_per_head<P>() || has_runs_by_head<P>();

  PUREKV_DEVICE std::int64_t all_tiles() const { return std::int64_t{copies} * tiles_per_head; }
  PUREKV_DEVICE bool used(std::int64_t tile) const {
    return tile < all_tiles() && tile % tiles_per_head < tiles_used[tile / tiles_per_head];
  }
  PUREKV_DEVICE tile_keys keys_of(std::int64_t tile) const {
    query_tile const& t = tiles[tile];
    return {pattern, q, cache, t.sequence, t.first, t.count, static_cast<std::int32_t>(tile / tiles_per_head)};
  }

  /// The list of a run's keys.
  PUREKV_DEVICE std::int32_t* list_of(query_tile const& tile, key_run const& run) const {
    return reinterpret_cast<std::int32_t*>(masks + run.masks + std::int64_t{tile.count} * run.words());
  }

  /// The keys of a tile that is looked at, and how many of them at once.
  struct granules {
    std::int32_t end, step;
  };
  PUREKV_DEVICE static granules granules_of(tile_keys const& keys) {
    std::int32_t const end = tokens_until(keys.cache, keys.sequence, keys.kv_head, keys.last_key(keys.count - 1));
    constexpr std::int32_t most = tile_keys::granule * tile_keys::most_runs;
    return {end, tile_keys::granule * larger(1, (end - 1) / most + 1)};
  }
};

/// Asks the pattern for every pair of a tile, a granule of keys by each thread of its block.
template <Pattern P, Cache C> struct look_at_tiles {
  static constexpr std::int32_t threads = 128;
  device_plan<P, C> plan;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const tile = simt::block_index().x;
    if (!plan.used(tile)) return;
    auto const keys = plan.keys_of(tile);
    auto const granules = plan.granules_of(keys);
    looked_at* const out = plan.looked + tile * plan.looked_words;
    for (std::int32_t first = 0; first * granules.step < granules.end; first += threads) {
      std::int32_t const begin = (first + simt::thread_index()) * granules.step;
      typename device_plan<P, C>::tile_keys::seen seen{false, false};
      if (begin < granules.end) seen = keys.look(begin, smaller(granules.step, granules.end - begin) + begin);
      looked_at const all{simt::ballot(seen.some), simt::ballot(seen.all)};
      if (simt::lane_index() == 0 && begin < granules.end)
        out[(first + simt::thread_index()) / simt::warp_threads] = all;
    }
  }
};

/// Takes ascending ranges of cached tokens, one from each lane of a warp at a time, and writes neighbours of the same
/// kind as one run, and `joined` runs as one that is partly visible.
class run_writer {
 public:
  PUREKV_DEVICE run_writer(key_run* runs, std::int32_t joined) : runs_(runs), joined_(joined) {}

  /// Range [begin, end) of this lane; none if it is empty. All lanes call it.
  PUREKV_DEVICE void add(std::int32_t begin, std::int32_t end, std::int32_t full) {
    bool const mine = begin < end;
    std::uint32_t const all = simt::ballot(mine);
    if (all == 0) return;
    std::int32_t const before = highest_of(all & lanes_below());
    std::int32_t const end_before = simt::shuffle(end, larger(before, 0));
    std::int32_t const full_before = simt::shuffle(full, larger(before, 0));
    bool const goes_on = before < 0 ? begin == end_ && full == full_ : begin == end_before && full == full_before;
    std::uint32_t const heads = simt::ballot(mine && !goes_on);
    std::int32_t const run = count_ + count_of(heads & (lanes_below() | own_lane())) - 1;
    std::uint32_t const firsts = simt::ballot(mine && !goes_on && run % joined_ == 0);
    std::int32_t const first = highest_of(firsts & (lanes_below() | own_lane()));
    std::int32_t const begin_of_first = simt::shuffle(begin, larger(first, 0));
    std::int32_t const run_begin = first < 0 ? begin_ : begin_of_first;
    std::int32_t const next = lowest_of(all & lanes_above());
    // The last one is written once more if the next ranges go on with it.
    if (mine && runs_ != nullptr && (next < 0 || (firsts >> next & 1) != 0))
      runs_[run / joined_] = {run_begin, end - run_begin, joined_ == 1 ? full : 0};
    std::int32_t const last = highest_of(all);
    begin_ = simt::shuffle(run_begin, last);
    end_ = simt::shuffle(end, last);
    full_ = simt::shuffle(full, last);
    count_ += count_of(heads);
  }

  /// Runs so far, before they are joined.
  PUREKV_DEVICE std::int32_t count() const { return count_; }

 private:
  PUREKV_DEVICE static std::uint32_t own_lane() { return 1u << simt::lane_index(); }

  key_run* runs_;
  std::int32_t joined_, count_ = 0;
  std::int32_t begin_ = 0, end_ = -1, full_ = 0;  // of the last run, joined, and of the last range in it
};

/// Gives a writer all ranges of a tile. Every lane of the warp walks them, and looks for the tokens of each 32nd.
template <Pattern P, Cache C>
PUREKV_DEVICE void write_runs(device_plan<P, C> const& plan, std::int64_t tile, run_writer& writer) {
  auto const keys = plan.keys_of(tile);
  std::int32_t const lane = simt::lane_index();
  if constexpr (has_runs<P>()) {
    std::int32_t const last = keys.last_key(keys.count - 1);
    std::int32_t ranges = 0, k_first = 0, k_last = -1, full = 0;
    auto const flush = [&] {
      std::int32_t begin = 0, end = 0;
      if (lane < ranges) {
        begin = tokens_before(plan.cache, keys.sequence, keys.kv_head, k_first);
        end = tokens_until(plan.cache, keys.sequence, keys.kv_head, smaller(k_last, last), begin);
      }
      writer.add(begin, end, full);
      ranges = 0;
    };
    runs_of(plan.pattern, keys.first_head(), keys.first_head() + keys.group() - 1, keys.position(0),
            keys.position(keys.count - 1), [&](std::int32_t first_key, std::int32_t last_key, bool all) {
              if (first_key > last || last_key < first_key) return;
              if (ranges == lane) {
                k_first = first_key;
                k_last = last_key;
                full = all;
              }
              if (++ranges == simt::warp_threads) flush();
            });
    flush();
  } else {
    auto const granules = plan.granules_of(keys);
    looked_at const* const looked = plan.looked + tile * plan.looked_words;
    for (std::int32_t first = 0; first * granules.step < granules.end; first += simt::warp_threads) {
      looked_at const all = looked[first / simt::warp_threads];
      std::int32_t const begin = (first + lane) * granules.step;
      bool const some = (all.some >> lane & 1) != 0;
      writer.add(begin, some ? smaller(granules.step, granules.end - begin) + begin : begin,
                 static_cast<std::int32_t>(all.all >> lane & 1));
    }
  }
}

/// Gives every tile its runs out of one array, in order. Where they are more than it holds, 2, 4, 8 .. neighbouring
/// runs of a tile become one.
struct place_runs {
  static constexpr std::int32_t threads = 512, shared_bytes = threads * 8;
  query_tile* tiles;
  std::int64_t count, capacity;  // of tiles, those without runs included; of runs, at least as many
  std::int32_t* joined;

  PUREKV_DEVICE void operator()() const {
    simt::shared<std::int64_t> const scratch = simt::shared_memory<std::int64_t>();
    std::int64_t const share = (count - 1) / threads + 1, first = simt::thread_index() * share;
    std::int64_t const last = first + share < count ? first + share : count;
    std::int64_t begin = 0, total = 0;
    std::int32_t together = 1;
    auto const after = [&](std::int64_t tile) {
      std::int32_t const runs = tiles[tile].runs;
      return runs == 0 ? 0 : (runs - 1) / together + 1;
    };
    for (;; together *= 2) {
      std::int64_t mine = 0;
      for (std::int64_t t = first; t < last; ++t) mine += after(t);
      begin = sum_before(mine, scratch, total);
      if (total <= capacity || together > INT32_MAX / 2) break;
    }
    for (std::int64_t t = first; t < last; ++t) {
      tiles[t].runs = after(t);
      tiles[t].runs_begin = begin;
      begin += tiles[t].runs;
    }
    if (simt::thread_index() == 0) *joined = together;
  }
};

/// Counts the runs of each tile, a warp for each; then, `fill`, writes them, and in place of masks_begin how many words
/// of masks the tile wants.
template <Pattern P, Cache C> struct walk_runs {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  device_plan<P, C> plan;
  bool fill;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const tile = std::int64_t{simt::block_index().x} * warps + simt::warp_index();
    if (!plan.used(tile)) return;
    query_tile& out = plan.tiles[tile];
    key_run* const runs = fill ? plan.runs + out.runs_begin : nullptr;
    run_writer writer(runs, fill ? *plan.joined : 1);
    write_runs(plan, tile, writer);
    if (!fill) {
      if (simt::lane_index() == 0) out.runs = writer.count();
      return;
    }
    if constexpr (device_plan<P, C>::has_masks) {
      simt::sync_warp();
      std::uint32_t words = 0;
      for (std::int32_t r = simt::lane_index(); r < out.runs; r += simt::warp_threads)
        if (runs[r].full == 0) words += static_cast<std::uint32_t>(runs[r].words());
      words = simt::reduce_add(words);
      if (simt::lane_index() == 0) out.masks_begin = std::int64_t{words} * plan.keys_of(tile).mask_rows();
    }
  }
};

/// Gives every tile its masks out of one array, in order, for as long as it lasts: -1 where it does not.
struct place_masks {
  static constexpr std::int32_t threads = 512, shared_bytes = threads * 8;
  query_tile* tiles;
  std::int64_t count, capacity;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const share = (count - 1) / threads + 1, first = simt::thread_index() * share;
    std::int64_t const last = first + share < count ? first + share : count;
    std::int64_t mine = 0, total = 0;
    for (std::int64_t t = first; t < last; ++t) mine += tiles[t].masks_begin;
    std::int64_t begin = sum_before(mine, simt::shared_memory<std::int64_t>(), total);
    for (std::int64_t t = first; t < last; ++t) {
      std::int64_t const words = tiles[t].masks_begin;
      tiles[t].masks_begin = begin + words <= capacity ? begin : -1;
      begin += words;
    }
  }
};

/// Fills the masks of a tile by a block: a warp takes a run, or all of them the only one that there is where runs are
/// listed; a lane 64 of its keys as seen by one query or head.
template <Pattern P, Cache C> struct fill_masks {
  static constexpr std::int32_t threads = 128, warps = threads / simt::warp_threads;
  device_plan<P, C> plan;

  PUREKV_DEVICE void operator()() const {
    std::int64_t const tile = simt::block_index().x;
    if (!plan.used(tile)) return;
    query_tile const& out = plan.tiles[tile];
    if (out.masks_begin < 0) return;
    auto const keys = plan.keys_of(tile);
    key_run* const runs = plan.runs + out.runs_begin;
    // Every warp adds up the words of all runs, so that none waits for another.
    std::int64_t begin = out.masks_begin;
    for (std::int32_t r = 0; r < out.runs; ++r) {
      key_run const run = {.begin = runs[r].begin, .count = runs[r].count, .full = runs[r].full, .masks = begin};
      if (run.full != 0) continue;
      std::int32_t const words = run.words() * keys.mask_rows();
      std::int32_t const* const list = plan.listed ? plan.list_of(out, run) : nullptr;
      if (plan.listed || r % warps == simt::warp_index()) {
        std::int32_t const first = plan.listed ? simt::thread_index() : simt::lane_index();
        for (std::int32_t w = first; w < words; w += plan.listed ? threads : simt::warp_threads)
          plan.masks[begin + w] = seen(keys, run, list, w / run.words(), w % run.words());
        if (first == 0) runs[r].masks = begin;
      }
      begin += words;
    }
  }

 private:
  using tile_keys = typename device_plan<P, C>::tile_keys;

  PUREKV_DEVICE static std::uint64_t seen(tile_keys const& keys, key_run const& run, std::int32_t const* list,
                                          std::int32_t row, std::int32_t word) {
    std::int32_t const group = keys.group(), i = is_per_head<P>() ? row / group : row;
    std::int32_t const head = keys.first_head() + (is_per_head<P>() ? row % group : 0);
    std::int32_t const position = keys.position(i), last = keys.last_key(i), first = word * 64;
    std::uint64_t bits = 0;
    for (std::int32_t k = 0; k < smaller(64, run.count - first); ++k) {
      std::int32_t const key = list != nullptr ? list[first + k] : run.begin + first + k;
      std::int32_t const at = *keys.cache.run(keys.sequence, keys.kv_head, key).positions;
      if (at > last) break;
      if (keys.pattern.visible(head, position, at)) bits |= std::uint64_t{1} << k;
    }
    return bits;
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
