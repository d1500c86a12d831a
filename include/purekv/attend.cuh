// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/attend_tile.cuh>
#include <purekv/detail/block_mass.cuh>
#include <purekv/detail/check_attention.cuh>
#include <purekv/mass.cuh>
#include <purekv/plan.cuh>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The memory of an attention call on a GPU besides its plan.
struct attend_memory_gpu {
  float* lse = nullptr;  // [heads, queries], where a mass tap needs it and the caller does not want it
  mass_parts mass{}, all_mass{};
  score_view tokens{};  // masses of all queries, of which those of blocks are made

  template <class T>
  static attend_memory_gpu take(carve& memory, gpu const& exec, query_view<T> const& q, std::int32_t kv_heads,
                                attend_taps const& taps) {
    attend_memory_gpu m;
    bool const tokens = taps.mass.data != nullptr, blocks = taps.block_mass.data != nullptr;
    if ((tokens || blocks) && taps.lse == nullptr)
      m.lse = memory.take<float>(std::int64_t{q.rows.heads} * q.rows.tokens);
    if (tokens) m.mass = take_mass(memory, exec, q, kv_heads, taps.mass_queries, taps.mass_rows);
    if (!blocks) return m;
    score_view const& out = taps.block_mass;
    m.all_mass = take_mass(memory, exec, q, kv_heads, {}, taps.mass_rows);
    m.tokens = dense_scores(nullptr, out.sequences, out.rows,
                            smaller(out.tokens, INT32_MAX / mass_block_tokens) * mass_block_tokens);
    m.tokens.data = memory.take<float>(std::int64_t{out.sequences} * m.tokens.sequence_stride);
    return m;
  }
};

/// Where a pattern that is not dense keeps the plan that an attention call without one makes.
template <Pattern P, class T, Cache C>
workspace take_plan_memory(carve& memory, gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache) {
  if constexpr (std::is_same_v<P, dense>) return {};
  std::size_t const bytes = plan_workspace(exec, pattern, q, cache);
  return {memory.take<std::byte>(bytes <= INT64_MAX ? static_cast<std::int64_t>(bytes) : -1), bytes};
}

/// Launches the kernel. plan: null for tiles that are cut as the queries come, all of whose keys the pattern is asked
/// for.
template <Pattern P, class T, Cache C, class TO>
status attend_tiles(gpu const& exec, P const& pattern, tile_plan const* plan, query_view<T> const& q, C const& cache,
                    self_view<T> const& self, rows_view<TO> const& out, float* lse, std::ptrdiff_t lse_stride,
                    attend_pass const& pass = {}) {
  if (q.rows.tokens == 0) return {};
  std::int32_t const group = q.rows.heads / cache.kv_heads;
  return dispatch_width(larger(cache.dim, value_dim_of(cache)), [&]<std::int32_t Width>() -> status {
    using kernel = attend_kernel<P, T, Width, C, TO>;
    kernel const k{pattern,
                   q,
                   cache,
                   self,
                   out,
                   lse,
                   lse_stride,
                   logit_rule::of(q),
                   plan != nullptr ? *plan : tile_plan{},
                   plan != nullptr ? plan->tile_queries : larger(1, kernel::rows / group),
                   pass};
    std::int64_t const tasks = k.tasks();
    return simt::launch({.x = static_cast<std::int32_t>(tasks < INT32_MAX ? tasks : INT32_MAX)},
                        static_cast<std::size_t>(kernel::layout::end), exec.stream, k);
  });
}

/// The mass taps, after attention. plan: null where there is none.
template <Pattern P, class T, Cache C>
status run_mass_taps(gpu const& exec, P const& pattern, tile_plan const* plan, query_view<T> const& q, C const& cache,
                     float const* lse, std::ptrdiff_t lse_stride, attend_taps const& taps,
                     attend_memory_gpu const& memory) {
  if (taps.mass.data != nullptr)
    if (status const s = run_mass(exec, pattern, plan, q, cache, lse, lse_stride, taps.mass_queries, taps.mass_rows,
                                  taps.mass_by, taps.mass, memory.mass);
        !s.ok())
      return s;
  if (taps.block_mass.data == nullptr) return {};
  score_view const &tokens = memory.tokens, &out = taps.block_mass;
  if (status const s = run_mass(exec, pattern, plan, q, cache, lse, lse_stride, query_range{}, taps.mass_rows,
                                mass_reduction::sum, tokens, memory.all_mass);
      !s.ok())
    return s;
  using fold = fold_mass<C>;
  return simt::launch(
      {.x = out.sequences * out.rows, .y = smaller((out.tokens - 1) / fold::threads + 1, fold::most_blocks)}, 0,
      exec.stream, fold{cache, tokens, out});
}

/// The checked part, mass taps included.
template <Pattern P, class T, Cache C, class TO>
status run_attend(gpu const& exec, P const& pattern, tile_plan const* plan, query_view<T> const& q, C const& cache,
                  self_view<T> const& self, rows_view<TO> const& out, attend_taps const& taps,
                  attend_memory_gpu const& memory) {
  float* const lse = taps.lse != nullptr ? taps.lse : memory.lse;
  std::ptrdiff_t const lse_stride = taps.lse != nullptr ? taps.lse_stride : q.rows.tokens;
  if (status const s = attend_tiles(exec, pattern, plan, q, cache, self, out, lse, lse_stride); !s.ok()) return s;
  return run_mass_taps(exec, pattern, plan, q, cache, lse, lse_stride, taps, memory);
}

template <Pattern P, class T, Cache C, class TO>
status plan_and_attend(gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache,
                       self_view<T> const& self, rows_view<TO> const& out, attend_taps const& taps,
                       workspace const& work) {
  carve memory(work);
  workspace const of_plan = take_plan_memory(memory, exec, pattern, q, cache);
  attend_memory_gpu const taken = attend_memory_gpu::take(memory, exec, q, cache.kv_heads, taps);
  if (!memory.fits()) return attend_workspace_too_small();
  if constexpr (std::is_same_v<P, dense>) {
    return run_attend(exec, pattern, nullptr, q, cache, self, out, taps, taken);
  } else {
    tile_plan made;
    if (status const s = plan(exec, pattern, q, cache, of_plan, made); !s.ok()) return s;
    return run_attend(exec, pattern, &made, q, cache, self, out, taps, taken);
  }
}

}  // namespace detail

/// Bytes that `attend` without a plan wants; reads sizes only. What a cache wants is enough for any part of it.
/// SIZE_MAX when they overflow.
template <Pattern P, class T, Cache C>
std::size_t attend_workspace(gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!cache.check_view().ok() || !detail::check_shapes_view(q, cache).ok()) return 0;
  detail::carve memory;
  detail::take_plan_memory(memory, exec, pattern, q, cache);
  detail::attend_memory_gpu::take(memory, exec, q, cache.kv_heads, taps);
  return memory.bytes();
}

/// The same with a plan.
template <class T, Cache C>
std::size_t attend_workspace(gpu const& exec, tile_plan const&, query_view<T> const& q, C const& cache,
                             attend_taps const& taps = {}) {
  if (!detail::check_shapes_view(q, cache).ok()) return 0;
  detail::carve memory;
  detail::attend_memory_gpu::take(memory, exec, q, cache.kv_heads, taps);
  return memory.bytes();
}

/// As on the CPU, with queries, keys and values all half or all bfloat16. Dims of keys and values are multiples of 8,
/// at most 256, and their rows and those of the queries begin at multiples of 16 bytes.
template <Pattern P, class T, Cache C, class TO>
status attend(gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache, rows_view<TO> const& out,
              attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_attention(exec, pattern, q, cache, out, taps); !s.ok()) return s;
  return detail::plan_and_attend(exec, pattern, q, cache, self_view<T>{}, out, taps, work);
}

/// The same with a plan that was made for these positions, perhaps by another layer.
template <Pattern P, class T, Cache C, class TO>
status attend(gpu const& exec, P const& pattern, tile_plan const& plan, query_view<T> const& q, C const& cache,
              rows_view<TO> const& out, attend_taps const& taps, workspace const& work) {
  if (status const s = detail::check_attention(exec, pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_plan_view(plan, q, cache); !s.ok()) return s;
  if (plan.order != nullptr && !detail::has_temporal_part<P>())
    return {errc::mismatch, "attend: a plan with an order of queries is one of a temporal part"};
  if (status const s = detail::check_reachable(exec, plan.tiles, plan.runs, plan.masks, plan.tiles_used, plan.order);
      !s.ok())
    return s;
  detail::carve memory(work);
  detail::attend_memory_gpu const taken = detail::attend_memory_gpu::take(memory, exec, q, cache.kv_heads, taps);
  if (!memory.fits()) return detail::attend_workspace_too_small();
  return detail::run_attend(exec, pattern, &plan, q, cache, self_view<T>{}, out, taps, taken);
}

/// Prune-then-attend, as on the CPU.
template <Pattern P, class T, Cache C, class TO>
status attend(gpu const& exec, P const& pattern, query_view<T> const& q, C const& cache,
              self_view<typename C::element> const& self, rows_view<TO> const& out, attend_taps const& taps,
              workspace const& work) {
  if (status const s = detail::check_attention(exec, pattern, q, cache, out, taps); !s.ok()) return s;
  if (status const s = detail::check_self(q, self, cache); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, self.keys.data, self.values.data); !s.ok()) return s;
  return detail::plan_and_attend(exec, pattern, q, cache, self, out, taps, work);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
