// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/attend_tile.hpp>
#include <purekv/detail/task_queue.hpp>
#include <purekv/mass.hpp>
#include <purekv/plan.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

template <class TQ, Cache C> std::int32_t mass_rows_of(score_rows rows, query_view<TQ> const& q, C const& cache) {
  return rows == score_rows::heads ? q.rows.heads : cache.kv_heads;
}

/// The memory of an attention call besides its plan.
struct attend_memory {
  task_queue queue;
  attend_scratch scratch;    // of this rank
  mass_memory mass;          // for the mass tap
  block_mass_totals blocks;  // for that of blocks
  float* lse;                // [heads, queries], where the mass tap needs it and the caller does not want it

  template <class TQ, Cache C>
  static attend_memory take(carve& memory, cpu exec, std::int32_t tile_queries, query_view<TQ> const& q, C const& cache,
                            attend_taps const& taps) {
    attend_memory m{task_queue(memory), {}, {task_queue(memory), {}}, {}, nullptr};
    std::int64_t const rows = std::int64_t{tile_queries} * (q.rows.heads / cache.kv_heads);
    std::int32_t const mass_blocks = taps.block_mass.data != nullptr ? most_mass_blocks(cache) : 0;
    for (std::int32_t r = 0; r < exec.size(); ++r) {
      attend_scratch const scratch = attend_scratch::take(memory, rows, q.rows.dim, value_dim_of(cache), mass_blocks);
      if (r == exec.rank()) m.scratch = scratch;
    }
    if (mass_blocks > 0)
      m.blocks = block_mass_totals::take(memory, cache.sequences, mass_rows_of(taps.mass_rows, q, cache), mass_blocks);
    if (taps.mass.data != nullptr) {
      m.mass = mass_memory::take(memory, exec, q.rows.dim);
      if (taps.lse == nullptr) m.lse = memory.take<float>(std::int64_t{q.rows.heads} * q.rows.tokens);
    }
    return m;
  }
};

template <class TQ, Cache C> status check_taps_view(query_view<TQ> const& q, C const& cache, attend_taps const& taps) {
  if (taps.lse != nullptr)
    if (status const s = check_lse(q, taps.lse_stride); !s.ok()) return s;
  if (taps.block_mass.data != nullptr) {
    if (status const s = check_rows_name(taps.mass_rows); !s.ok()) return s;
    if (status const s = check_scores_view(taps.block_mass, cache, mass_rows_of(taps.mass_rows, q, cache)); !s.ok())
      return s;
  }
  if (taps.mass.data == nullptr) return {};
  if (status const s = check_rows_name(taps.mass_rows); !s.ok()) return s;
  if (status const s = check_reduction_name(taps.mass_by); !s.ok()) return s;
  if (taps.mass_queries.begin < 0 || taps.mass_queries.count < 0)
    return {errc::bad_shape, "attend: mass_queries begins or counts below 0"};
  return check_scores_view(taps.mass, cache, mass_rows_of(taps.mass_rows, q, cache));
}
template <class TQ, Cache C> status check_taps(query_view<TQ> const& q, C const& cache, attend_taps const& taps) {
  if (status const s = check_taps_view(q, cache, taps); !s.ok()) return s;
  if (taps.block_mass.data != nullptr)
    if (status const s = check_block_room(taps.block_mass, cache); !s.ok()) return s;
  if (taps.mass.data == nullptr) return {};
  return check_scores(taps.mass, cache, mass_rows_of(taps.mass_rows, q, cache));
}

inline status check_decode_taps(attend_taps const& taps) {
  return taps.block_mass.data == nullptr
             ? status{}
             : status{errc::mismatch, "decode: gives out no block_mass; its mass of tokens costs little"};
}

template <class TQ, class T, Cache C>
status check_self(query_view<TQ> const& q, self_view<T> const& self, C const& cache) {
  rows_view<T const> const both[] = {self.keys, self.values};
  for (rows_view<T const> const& rows : both) {
    if (rows.heads != cache.kv_heads || rows.tokens != q.rows.tokens)
      return {errc::mismatch, "self_view: kv_heads or queries differ from the cache's or the queries'"};
    if (rows.tokens > 0 && rows.data == nullptr) return {errc::null_data, "self_view: keys or values is null"};
    if (!apart(rows)) return {errc::bad_shape, "self_view: strides overlap, or sizes overflow 64 bits"};
  }
  if (self.keys.dim != cache.dim || self.values.dim != value_dim_of(cache))
    return {errc::mismatch, "self_view: dims differ from the cache's"};
  return {};
}

template <Pattern P, class TQ, Cache C, class TO>
status check_attend_view(P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
                         attend_taps const& taps) {
  if (status const s = check_queries_view(q, cache); !s.ok()) return s;
  if (status const s = check_pattern_view(pattern, q); !s.ok()) return s;
  if (status const s = check_out(q, cache, out); !s.ok()) return s;
  return check_taps_view(q, cache, taps);
}

template <Pattern P, class TQ, Cache C, class TO>
status check_attend(P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
                    attend_taps const& taps) {
  if (status const s = check_queries(q, cache); !s.ok()) return s;
  if (status const s = check_pattern(pattern, q); !s.ok()) return s;
  if (status const s = check_out(q, cache, out); !s.ok()) return s;
  return check_taps(q, cache, taps);
}

inline status attend_workspace_too_small() {
  return {errc::workspace_too_small, "attend: workspace smaller than attend_workspace(), or not aligned to 64 bytes"};
}

/// The checked part: a task is a tile of queries as seen from one KV head. Heads come one after the other, so that keys
/// and values stay in the cache; in each the last queries, which see most, go first.
template <Pattern P, class TQ, Cache C, class TO>
void run_attend(cpu exec, P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
                self_view<typename C::element> const* self, rows_view<TO> const& out, attend_taps const& taps,
                attend_memory memory) {
  if (memory.blocks.data != nullptr) memory.blocks.clear(exec, cache.sequences);
  float* const lse = taps.lse != nullptr ? taps.lse : memory.lse;
  std::ptrdiff_t const lse_stride = taps.lse != nullptr ? taps.lse_stride : q.rows.tokens;
  memory.queue.run(exec, std::int64_t{plan.tiles_per_head} * cache.kv_heads, [&](std::int64_t task) {
    std::int32_t const kv_head = static_cast<std::int32_t>(task / plan.tiles_per_head);
    std::int32_t const t = plan.tiles_per_head - 1 - static_cast<std::int32_t>(task % plan.tiles_per_head);
    attend_tile<P, TQ, C, TO>{
        pattern, q, cache, self, out, lse, lse_stride, memory.blocks, plan.tile(kv_head, t), kv_head, memory.scratch}
        .run(plan);
  });
  if (memory.blocks.data != nullptr) {
    memory.blocks.give_out(exec, cache, taps.block_mass);
    exec.sync();
  }
  if (taps.mass.data != nullptr)
    run_mass(exec, pattern, plan, q, cache, lse, lse_stride, taps.mass_queries, taps.mass_rows, taps.mass_by, taps.mass,
             memory.mass);
}

template <Pattern P, class TQ, Cache C, class TO>
status plan_and_attend(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                       self_view<typename C::element> const* self, rows_view<TO> const& out, attend_taps const& taps,
                       workspace const& work) {
  carve memory(work);
  // Sized as if every KV head had its own plan, so that a workspace for a whole prompt serves what is left of it too.
  plan_memory planned = take_plan(memory, pattern, q, cache, cache.kv_heads > 1);
  attend_memory const taken = attend_memory::take(memory, exec, planned.tile_queries, q, cache, taps);
  if (!memory.fits()) return attend_workspace_too_small();
  planned.per_kv_head = needs_plan_per_head(pattern, cache);
  tile_plan const plan = make_plan(exec, pattern, q, cache, planned);
  run_attend(exec, pattern, plan, q, cache, self, out, taps, taken);
  return {};
}

}  // namespace detail

/// Bytes that `attend` without a plan wants; reads shapes and positions, no data. What a cache wants is enough for any
/// part of it. SIZE_MAX when they overflow.
template <Pattern P, class TQ, Cache C>
std::size_t attend_workspace(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!detail::check_plan_input(pattern, q, cache).ok()) return 0;
  detail::carve memory;
  auto const planned = detail::take_plan(memory, pattern, q, cache, cache.kv_heads > 1);
  detail::attend_memory::take(memory, exec, planned.tile_queries, q, cache, taps);
  return memory.bytes();
}

/// The same with a plan.
template <class TQ, Cache C>
std::size_t attend_workspace(cpu exec, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!detail::check_shapes(q, cache).ok()) return 0;
  detail::carve memory;
  detail::attend_memory::take(memory, exec, plan.tile_queries, q, cache, taps);
  return memory.bytes();
}

/// out[head, query] = sum over visible keys of exp2(logit - lse) * value, logit = scale * log2(e) * q . k, soft-capped
/// and beside a sink if the query_view says so (docs/concepts/attention.md). A key is visible if its position is not
/// after the last that the pattern lets the query see, its own unless it says otherwise, and the pattern shows it. Many
/// queries at once; the cache already holds their own keys (append first), so a prompt may come whole or in chunks.
/// Logits are clamped to the range of float; a pair whose logit is NaN is not visible; a value counts only for queries
/// that give it a probability other than 0, whatever it holds. A query that sees nothing gets 0, and lse is -inf, or
/// the logit of its sink. q : [heads, queries, dim], out : [heads, queries, value dim]; taps: see attend_taps. Query
/// positions are strictly ascending in each sequence. Bit-equal for any number of ranks. On error nothing is written.
template <Pattern P, class TQ, Cache C, class TO>
status attend(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, rows_view<TO> const& out,
              attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_attend(pattern, q, cache, out, taps); !s.ok()) return s;
  return detail::plan_and_attend(exec, pattern, q, cache, static_cast<self_view<typename C::element>*>(nullptr), out,
                                 taps, work);
}

/// The same with a plan that was made for these positions, perhaps by another layer.
template <Pattern P, class TQ, Cache C, class TO>
status attend(cpu exec, P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
              rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_attend(pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_plan(plan, q, cache); !s.ok()) return s;
  detail::carve memory(work);
  detail::attend_memory const taken = detail::attend_memory::take(memory, exec, plan.tile_queries, q, cache, taps);
  if (!memory.fits()) return detail::attend_workspace_too_small();
  detail::run_attend(exec, pattern, plan, q, cache, static_cast<self_view<typename C::element>*>(nullptr), out, taps,
                     taken);
  return {};
}

/// Prune-then-attend: the cache has lost keys before the prompt attends, and each query sees the cached keys at or
/// before it and itself. Its own key and value count where its position is not cached for that head.
template <Pattern P, class TQ, Cache C, class TO>
status attend(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache,
              self_view<typename C::element> const& self, rows_view<TO> const& out, attend_taps const& taps,
              workspace const& work) {
  if (status const s = detail::check_attend(pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_self(q, self, cache); !s.ok()) return s;
  return detail::plan_and_attend(exec, pattern, q, cache, &self, out, taps, work);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
