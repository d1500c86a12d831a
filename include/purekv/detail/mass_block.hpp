// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/pack.hpp>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/softmax.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Keys of one task: enough that packing the queries anew for each costs little, few enough to stay in L2.
inline constexpr std::int32_t mass_keys = 512;

struct mass_scratch {
  static constexpr std::int32_t step = 64;  // keys whose logits are computed together

  float* keys;          // [mass_keys, dim]
  float* mass;          // [mass_keys, block_lanes]
  float* queries;       // [dim, block_lanes]
  float* scores;        // [step, block_lanes]
  float* lse;           // [block_lanes]
  std::int32_t* bound;  // [block_lanes]; these three as in attend_scratch
  std::int32_t* low;
  std::int32_t* high;

  static mass_scratch take(carve& memory, std::int32_t dim) {
    mass_scratch s;
    s.keys = memory.take<float>(std::int64_t{mass_keys} * dim);
    s.mass = memory.take<float>(std::int64_t{mass_keys} * block_lanes);
    s.queries = memory.take<float>(std::int64_t{block_lanes} * dim);
    s.scores = memory.take<float>(std::int64_t{step} * block_lanes);
    s.lse = memory.take<float>(block_lanes);
    s.bound = memory.take<std::int32_t>(block_lanes);
    s.low = memory.take<std::int32_t>(block_lanes);
    s.high = memory.take<std::int32_t>(block_lanes);
    return s;
  }
};

/// Mass of the tokens [first, last) of one KV head: logits are computed anew, and exp2(logit - lse) is reduced over
/// the queries for each (key, lane). A lane belongs to one head throughout, so that masses per head fall out of it too.
template <Pattern P, class TQ, Cache C> struct mass_block {
  P const& pattern;
  query_view<TQ> const& q;
  C const& cache;
  tile_plan const& plan;
  query_range const& range;
  float const* lse;
  std::ptrdiff_t lse_stride;
  score_rows rows;
  mass_reduction by;
  score_view const& out;

  std::int32_t sequence, kv_head, first, last;
  mass_scratch const& scratch;

  std::int32_t dim = q.rows.dim;
  std::int32_t group = q.rows.heads / cache.kv_heads;
  soft_cap cap{q};
  float largest_key = 0;
  std::int32_t first_head = 0, heads = 0;  // of the group, in the lanes

  void run() {
    magnitude most;
    for_each_stretch(cache, sequence, kv_head, first, last,
                     [&](auto const& tokens, std::int32_t ordinal, std::int32_t count) {
                       widen_rows(tokens.keys, tokens.stride, count, dim,
                                  scratch.keys + std::ptrdiff_t{ordinal - first} * dim, most);
                     });
    largest_key = most.largest();
    for (first_head = 0; first_head < group; first_head += heads) {
      heads = smaller(block_lanes, group - first_head);
      for (std::int32_t i = 0; i < (last - first) * block_lanes; ++i) scratch.mass[i] = 0;
      for (std::int32_t t = first_tile(); t < plan.tiles_per_head; ++t) {
        query_tile const& tile = plan.tile(kv_head, t);
        if (tile.sequence != sequence) break;
        add_tile(tile);
      }
      give_out();
    }
  }

  /// The first tile of the sequence.
  std::int32_t first_tile() const {
    std::int32_t low = 0, high = plan.tiles_per_head;
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (plan.tile(kv_head, middle).sequence < sequence)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  void add_tile(query_tile const& tile) {
    std::int32_t const begin = q.begin(sequence), count = q.count(sequence);
    std::int32_t const from = larger(tile.first, begin + range.first(count));
    std::int32_t const to = smaller(tile.first + tile.count, begin + range.last(count));
    key_run const* const runs = plan.runs + tile.runs_begin;
    std::int32_t low = 0, high = tile.runs;
    while (low < high) {
      std::int32_t const middle = low + (high - low) / 2;
      if (runs[middle].begin + runs[middle].count <= first)
        low = middle + 1;
      else
        high = middle;
    }
    if (low == tile.runs || runs[low].begin >= last) return;
    std::int32_t const step = block_lanes / heads;
    for (std::int32_t query = from; query < to; query += step)
      add_queries(query, smaller(step, to - query), tile, runs + low);
  }

  void add_queries(std::int32_t query, std::int32_t count, query_tile const& tile, key_run const* run) {
    std::int32_t seen = first;
    for (std::int32_t i = 0; i < count; ++i) {
      seen = tokens_until(cache, sequence, kv_head, last_visible(pattern, q.batch.positions[query + i]),
                          i == 0 ? std::int32_t{0} : seen);
      for (std::int32_t h = 0; h < heads; ++h) scratch.bound[i * heads + h] = seen;
    }
    if (seen <= first) return;
    std::int32_t const used = count * heads;
    auto const head_of = [&](std::int32_t lane) { return kv_head * group + first_head + lane % heads; };
    float const largest_query =
        pack_rows([&](std::int32_t lane) { return q.rows.row(head_of(lane), query + lane / heads); }, used, dim,
                  logit_scale(q), scratch.queries);
    for (std::int32_t lane = 0; lane < block_lanes; ++lane) {
      // Lanes without a query, and queries that saw nothing, weigh 0.
      float const l = lane < used ? lse[head_of(lane) * lse_stride + query + lane / heads] : hidden_logit;
      scratch.lse[lane] = l == hidden_logit ? -hidden_logit : l;
      if (lane >= used) scratch.bound[lane] = seen;
      scratch.low[lane] = scratch.high[lane] = -1;
    }
    bool const clamp = !finite_logits(largest_query, largest_key, dim);
    for (key_run const* const end = plan.runs + tile.runs_begin + tile.runs; run != end && run->begin < last; ++run)
      for (std::int32_t from = larger(run->begin, first), to = smaller(smaller(run->begin + run->count, last), seen);
           from < to; from += mass_scratch::step)
        add_keys(from, smaller(mass_scratch::step, to - from), query, count, tile, *run, clamp);
  }

  void add_keys(std::int32_t from, std::int32_t keys, std::int32_t query, std::int32_t count, query_tile const& tile,
                key_run const& run, bool clamp) {
    bool const full = run.full != 0;
    multiply_keys(scratch.keys + std::ptrdiff_t{from - first} * dim, dim, keys, scratch.queries, dim, scratch.scores);
    if (cap) cap.apply(scratch.scores, keys * block_lanes);
    if (clamp) clamp_scores(scratch.scores, keys);
    if (!full) ask_pattern(from, keys, query, count, tile, run);
    if (!full || from + keys > scratch.bound[0]) {
      std::int32_t ordinals[mass_scratch::step];
      for (std::int32_t k = 0; k < keys; ++k) ordinals[k] = from + k;
      hide_scores(scratch.scores, keys, ordinals,
                  {scratch.bound, full ? nullptr : scratch.low, full ? nullptr : scratch.high});
    }
    float* const mass = scratch.mass + std::ptrdiff_t{from - first} * block_lanes;
    for (std::int32_t lane = 0; lane < block_lanes; lane += lanes) {
      vec const l = load(scratch.lse + lane);
      auto const share = [&](std::int32_t i) { return exp2(load(scratch.scores + i) - l); };
      if (by == mass_reduction::maximum)
        for (std::int32_t i = lane; i < keys * block_lanes; i += block_lanes)
          store(mass + i, max(share(i), load(mass + i)));
      else
        for (std::int32_t i = lane; i < keys * block_lanes; i += block_lanes)
          store(mass + i, load(mass + i) + share(i));
    }
  }

  void ask_pattern(std::int32_t from, std::int32_t keys, std::int32_t query, std::int32_t count, query_tile const& tile,
                   key_run const& run) {
    std::int32_t positions[mass_scratch::step];
    for_each_stretch(cache, sequence, kv_head, from, from + keys,
                     [&](auto const& tokens, std::int32_t ordinal, std::int32_t n) {
                       for (std::int32_t k = 0; k < n; ++k) positions[ordinal - from + k] = tokens.positions[k];
                     });
    for (std::int32_t i = 0; i < count; ++i)
      for (std::int32_t h = 0; h < heads; ++h) {
        std::int32_t const lane = i * heads + h;
        if (is_per_head<P>() || h == 0) {
          std::int32_t const in_tile = query + i - tile.first;
          std::int32_t const mask_row = is_per_head<P>() ? in_tile * group + first_head + h : in_tile;
          std::uint64_t const seen = run.masks >= 0 ? plan.seen(run, mask_row, from - run.begin, keys)
                                                    : ask_pattern(kv_head * group + first_head + h,
                                                                  q.batch.positions[query + i], positions, keys);
          scratch.low[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen));
          scratch.high[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen >> 32));
        } else {
          scratch.low[lane] = scratch.low[lane - 1];
          scratch.high[lane] = scratch.high[lane - 1];
        }
      }
  }
  std::uint64_t ask_pattern(std::int32_t query_head, std::int32_t position, std::int32_t const* positions,
                            std::int32_t keys) const {
    std::int32_t const furthest = last_visible(pattern, position);
    std::uint64_t seen = 0;
    for (std::int32_t k = 0; k < keys && positions[k] <= furthest; ++k)
      if (pattern.visible(query_head, position, positions[k])) seen |= std::uint64_t{1} << k;
    return seen;
  }

  float join(float a, float b) const {
    if (by == mass_reduction::sum) return a + b;
    return a > b ? a : b;
  }

  void give_out() const {
    for (std::int32_t k = 0; k < last - first; ++k) {
      float const* const mass = scratch.mass + std::ptrdiff_t{k} * block_lanes;
      if (rows == score_rows::heads) {
        float of_head[block_lanes] = {};
        for (std::int32_t lane = 0, h = 0; lane < block_lanes; ++lane, h = h + 1 == heads ? 0 : h + 1)
          of_head[h] = join(of_head[h], mass[lane]);
        for (std::int32_t h = 0; h < heads; ++h)
          out.row(sequence, kv_head * group + first_head + h)[first + k] = of_head[h];
      } else {
        bool const maximum = by == mass_reduction::maximum;
        vec all = load(mass);
        for (std::int32_t lane = lanes; lane < block_lanes; lane += lanes)
          all = maximum ? max(all, load(mass + lane)) : all + load(mass + lane);
        float const joined = maximum ? largest(all) : total(all);
        float* const to = out.row(sequence, kv_head) + first + k;
        *to = first_head == 0 ? joined : join(*to, joined);
      }
    }
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
