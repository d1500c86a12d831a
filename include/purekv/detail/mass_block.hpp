// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/carve.hpp>
#include <purekv/detail/decode_chunk.hpp>
#include <purekv/detail/pack.hpp>
#include <purekv/detail/plan_tiles.hpp>
#include <purekv/detail/softmax.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// Keys whose logits are computed together: as many as a pattern has bits for, in whole groups of multiply_keys.
inline constexpr std::int32_t mass_step = 64 / attend_block::rows * attend_block::rows;

/// Keys of one task: enough that packing the queries anew for each costs little, few enough to stay in L2.
inline constexpr std::int32_t mass_keys = 8 * mass_step;

/// Most rows (query x head of the group) of a task that meet keys as in decoding. All lanes of a block are computed
/// whether or not they have a row; on AVX2 8 rows of decoding took 0.6 of the time of its 16 when they met one key at a
/// time. Beyond, every pass reads the keys again (docs/performance.md).
inline constexpr std::int32_t few_mass_rows = block_lanes / 2;

/// Arrays are [.., width] of the task where they say `width`, which is block_lanes at most; those of one key's lanes
/// are repeated up to a whole register.
struct mass_scratch {
  float* keys;          // [mass_keys, dim], not of few rows
  float* mass;          // [mass_keys, width] and a register
  float* queries;       // [dim, block_lanes], or of few rows [decode_rows, padded]
  float* scores;        // [mass_step, width] and a register
  float* lse;           // [width]
  std::int32_t* bound;  // [width]; these three as in attend_scratch
  std::int32_t* low;
  std::int32_t* high;

  static mass_scratch take(carve& memory, std::int32_t dim) {
    mass_scratch s;
    s.keys = memory.take<float>(std::int64_t{mass_keys} * dim);
    s.mass = memory.take<float>(std::int64_t{mass_keys} * block_lanes + lanes);
    s.queries = memory.take<float>(block_lanes * (std::int64_t{dim} + lanes));
    s.scores = memory.take<float>(std::int64_t{mass_step} * block_lanes + lanes);
    s.lse = memory.take<float>(block_lanes);
    s.bound = memory.take<std::int32_t>(block_lanes);
    s.low = memory.take<std::int32_t>(block_lanes);
    s.high = memory.take<std::int32_t>(block_lanes);
    return s;
  }
};

/// Mass of the tokens [first, last) of one KV head: logits are computed anew, and exp2(logit - lse) is reduced over
/// the queries for each (key, lane). Lanes are rows (query x head of the group, head fastest); where masses per head
/// are wanted a lane belongs to one head throughout, else no lane is left empty for that. Few rows take as many lanes
/// as they need, and their logits come of the kernel of decoding, from keys as they are stored.
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
  std::int32_t wanted = range.last(q.count(sequence)) - range.first(q.count(sequence));  // queries
  bool few = std::int64_t{wanted} * group <= few_mass_rows;
  float largest_key = 0;
  bool finite = true;                      // the logits of the queries in the lanes, as far as can be told beforehand
  std::int32_t first_head = 0, heads = 0;  // of the group, in the lanes
  std::int32_t at_once = 0;                // rows side by side
  std::int32_t width = 0;                  // lanes of a key

  /// The rows in the lanes.
  struct lane_rows {
    std::int32_t first_query, first_row, count, first_head, heads;

    std::int32_t query(std::int32_t lane) const { return first_query + (first_row + lane) / heads; }
    std::int32_t head(std::int32_t lane) const { return first_head + (first_row + lane) % heads; }
    bool next_query(std::int32_t lane) const { return lane == 0 || (first_row + lane) % heads == 0; }
  };

  void run() {
    if (!few) widen_keys();
    std::int32_t const most = few ? decode_rows : block_lanes;
    for (first_head = 0; first_head < group; first_head += heads) {
      heads = rows == score_rows::heads ? smaller(most, group - first_head) : group;
      at_once = rows == score_rows::heads ? most / heads * heads : most;
      if (few) at_once = smaller(at_once, wanted * heads);
      width = few ? logit_stride(at_once) : block_lanes;
      for (std::int32_t i = 0; i < (last - first) * width + lanes; ++i) scratch.mass[i] = 0;
      for (std::int32_t t = first_tile(); t < plan.tiles_per_head; ++t) {
        query_tile const& tile = plan.tile(kv_head, t);
        if (tile.sequence != sequence) break;
        add_tile(tile);
      }
      give_out();
    }
  }

  void widen_keys() {
    magnitude most;
    for_each_stretch(cache, sequence, kv_head, first, last,
                     [&](auto const& tokens, std::int32_t ordinal, std::int32_t count) {
                       widen_rows(tokens.keys, tokens.stride, count, dim,
                                  scratch.keys + std::ptrdiff_t{ordinal - first} * dim, most);
                     });
    largest_key = most.largest();
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
    for (std::int32_t row = 0, end = (to - from) * heads; row < end; row += at_once)
      add_rows({from, row, smaller(at_once, end - row), first_head, heads}, tile, runs + low);
  }

  void add_rows(lane_rows const& in, query_tile const& tile, key_run const* run) {
    std::int32_t seen = 0;
    for (std::int32_t lane = 0; lane < in.count; ++lane) {
      if (in.next_query(lane))
        seen = tokens_until(cache, sequence, kv_head, last_visible(pattern, q.batch.positions[in.query(lane)]), seen);
      scratch.bound[lane] = seen;
    }
    if (seen <= first) return;
    std::int32_t const head_begin = kv_head * group;
    lay_out(in.count, [&](std::int32_t lane) { return q.rows.row(head_begin + in.head(lane), in.query(lane)); });
    for (std::int32_t lane = 0; lane < width; ++lane) {
      // Lanes without a query, and queries that saw nothing, weigh 0.
      float const l = lane < in.count ? lse[(head_begin + in.head(lane)) * lse_stride + in.query(lane)] : hidden_logit;
      scratch.lse[lane] = l == hidden_logit ? -hidden_logit : l;
      if (lane >= in.count) scratch.bound[lane] = seen;
      scratch.low[lane] = scratch.high[lane] = -1;
    }
    repeat(scratch.lse);
    repeat(scratch.bound);
    for (key_run const* const end = plan.runs + tile.runs_begin + tile.runs; run != end && run->begin < last; ++run)
      for (std::int32_t from = larger(run->begin, first), to = smaller(smaller(run->begin + run->count, last), seen);
           from < to; from += mass_step)
        add_keys(from, smaller(mass_step, to - from), in, tile, *run);
  }

  /// The queries of `used` lanes, times scale and log2(e).
  template <class Row> void lay_out(std::int32_t used, Row const& row) {
    float const scale = logit_scale(q);
    if (few) {
      std::int32_t const padded = whole_registers(dim);
      for (std::int32_t r = 0; r < used; ++r) scale_row(row(r), dim, scale, scratch.queries + r * padded);
      for (std::int32_t i = used * padded; i < at_once * padded; ++i) scratch.queries[i] = 0;
    } else {
      finite = finite_logits(pack_rows(row, used, dim, scale, scratch.queries), largest_key, dim);
    }
  }

  /// The lanes of a key once more in what is left of a register, which the next keys take.
  template <class T> void repeat(T* x) const {
    for (std::int32_t lane = width; lane < lanes; ++lane) x[lane] = x[lane - width];
  }

  void add_keys(std::int32_t from, std::int32_t keys, lane_rows const& in, query_tile const& tile, key_run const& run) {
    bool const full = run.full != 0, in_range = multiply(from, keys);
    std::int32_t const end = keys * width;
    if (cap) cap.apply(scratch.scores, end);
    if (!in_range) clamp_scores(scratch.scores, end);
    if (!full) ask_pattern(from, keys, in, tile, run);
    if (!full || from + keys > scratch.bound[0]) {
      std::int32_t ordinals[mass_step];
      for (std::int32_t k = 0; k < keys; ++k) ordinals[k] = from + k;
      hide_scores(scratch.scores, keys, ordinals,
                  {scratch.bound, full ? nullptr : scratch.low, full ? nullptr : scratch.high}, width);
    }
    for (std::int32_t i = end; i % lanes != 0; ++i) scratch.scores[i] = hidden_logit;
    float* const mass = scratch.mass + std::ptrdiff_t{from - first} * width;
    std::int32_t const next = larger(width, lanes);
    for (std::int32_t lane = 0; lane < width; lane += lanes) {
      vec const l = load(scratch.lse + lane);
      auto const share = [&](std::int32_t i) { return exp2(load(scratch.scores + i) - l); };
      if (by == mass_reduction::maximum)
        for (std::int32_t i = lane; i < end; i += next) store(mass + i, max(share(i), load(mass + i)));
      else
        for (std::int32_t i = lane; i < end; i += next) store(mass + i, load(mass + i) + share(i));
    }
  }

  /// scores = q . k; false if some may be infinite or NaN.
  bool multiply(std::int32_t from, std::int32_t keys) const {
    if (!few) {
      multiply_keys(scratch.keys + std::ptrdiff_t{from - first} * dim, dim, keys, scratch.queries, dim, scratch.scores);
      return finite;
    }
    bool all_finite = true;
    for_each_stretch(
        cache, sequence, kv_head, from, from + keys, [&](auto const& tokens, std::int32_t ordinal, std::int32_t n) {
          using row_of_keys = row_source<typename C::element>;
          row_of_keys const these{tokens.keys, tokens.stride, nullptr};
          // The task's next keys are fetched meanwhile, where these do not end the stretch.
          std::int32_t const left = smaller(tokens.tokens, last - ordinal);
          bool const goes_on = left >= n + chunk_ahead<typename C::element>(dim) + lanes;
          row_of_keys const next =
              goes_on ? row_of_keys{these.at(n), these.stride, nullptr} : row_of_keys{these.first, 0, nullptr};
          float* const to = scratch.scores + (ordinal - from) * width;
          dispatch_group<decode_rows>(at_once, 0, [&]<int Rows>(std::int32_t) {
            all_finite =
                multiply_chunk<Rows>(scratch.queries, whole_registers(dim), dim, these, n, next, to) && all_finite;
          });
        });
    return all_finite;
  }

  void ask_pattern(std::int32_t from, std::int32_t keys, lane_rows const& in, query_tile const& tile,
                   key_run const& run) {
    std::int32_t positions[mass_step];
    for_each_stretch(cache, sequence, kv_head, from, from + keys,
                     [&](auto const& tokens, std::int32_t ordinal, std::int32_t n) {
                       for (std::int32_t k = 0; k < n; ++k) positions[ordinal - from + k] = tokens.positions[k];
                     });
    for (std::int32_t lane = 0; lane < in.count; ++lane) {
      if (!is_per_head<P>() && !in.next_query(lane)) {
        scratch.low[lane] = scratch.low[lane - 1];
        scratch.high[lane] = scratch.high[lane - 1];
        continue;
      }
      std::int32_t const in_tile = in.query(lane) - tile.first, head = in.head(lane);
      std::uint64_t const seen =
          run.masks >= 0 ? plan.seen(run, is_per_head<P>() ? in_tile * group + head : in_tile, from - run.begin, keys)
                         : ask_pattern(kv_head * group + head, q.batch.positions[in.query(lane)], positions, keys);
      scratch.low[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen));
      scratch.high[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(seen >> 32));
    }
    repeat(scratch.low);
    repeat(scratch.high);
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
    std::int32_t const keys = last - first;
    if (rows == score_rows::heads) {
      for (std::int32_t h = 0; h < heads; ++h) {
        float* const to = out.row(sequence, kv_head * group + first_head + h) + first;
        for (std::int32_t k = 0; k < keys; ++k) to[k] = joined(scratch.mass + std::ptrdiff_t{k} * width, h, heads);
      }
    } else {
      float* const to = out.row(sequence, kv_head) + first;
      for (std::int32_t k = 0; k < keys; ++k) {
        float const* const mass = scratch.mass + std::ptrdiff_t{k} * width;
        to[k] = width < lanes ? joined(mass, 0, 1) : joined(mass);
      }
    }
  }

  /// Every `stride`-th lane of a key from `lane` on.
  float joined(float const* mass, std::int32_t lane, std::int32_t stride) const {
    float all = mass[lane];
    for (lane += stride; lane < width; lane += stride) all = join(all, mass[lane]);
    return all;
  }

  /// All lanes of a key, which are whole registers.
  float joined(float const* mass) const {
    bool const maximum = by == mass_reduction::maximum;
    vec all = load(mass);
    for (std::int32_t lane = lanes; lane < width; lane += lanes)
      all = maximum ? max(all, load(mass + lane)) : all + load(mass + lane);
    return maximum ? largest(all) : total(all);
  }
};

}  // namespace detail
}  // namespace purekv::inline v0_1::inline PUREKV_ISA
