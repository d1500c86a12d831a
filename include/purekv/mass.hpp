// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/mass_block.hpp>
#include <purekv/detail/task_queue.hpp>
#include <purekv/plan.hpp>
#include <purekv/taps.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

/// The memory of a mass call besides its plan.
struct mass_memory {
  task_queue queue;
  mass_scratch scratch;  // of this rank

  static mass_memory take(carve& memory, cpu exec, std::int32_t dim) {
    mass_memory m{task_queue(memory), {}};
    for (std::int32_t r = 0; r < exec.size(); ++r) {
      mass_scratch const scratch = mass_scratch::take(memory, dim);
      if (r == exec.rank()) m.scratch = scratch;
    }
    return m;
  }
};

/// The checked part: tasks are blocks of keys, so that no two write the same number.
template <Pattern P, class TQ, Cache C>
void run_mass(cpu exec, P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
              float const* lse, std::ptrdiff_t lse_stride, query_range const& range, score_rows rows, mass_reduction by,
              score_view const& out, mass_memory const& memory) {
  std::int64_t const blocks = (std::int64_t{longest_head(cache)} + mass_keys - 1) / mass_keys;
  std::int64_t const heads = std::int64_t{cache.sequences} * cache.kv_heads;
  memory.queue.run(exec, blocks * heads, [&](std::int64_t task) {  // early keys are seen by most queries: they go first
    std::int32_t const sequence = static_cast<std::int32_t>(task % heads / cache.kv_heads);
    std::int32_t const kv_head = static_cast<std::int32_t>(task % cache.kv_heads);
    std::int32_t const length = cache.length(sequence, kv_head);
    std::int64_t const first = task / heads * mass_keys;
    if (first >= length) return;
    std::int32_t const from = static_cast<std::int32_t>(first);
    mass_block<P, TQ, C>{pattern,       q,  cache, plan,     range,   lse,  lse_stride,
                         rows,          by, out,   sequence, kv_head, from, from + smaller(mass_keys, length - from),
                         memory.scratch}
        .run();
  });
}

inline status check_rows_name(score_rows rows) {
  return rows == score_rows::heads || rows == score_rows::kv_heads
             ? status{}
             : status{errc::bad_shape, "mass: rows is neither heads nor kv_heads"};
}

inline status check_reduction_name(mass_reduction by) {
  return by == mass_reduction::sum || by == mass_reduction::maximum
             ? status{}
             : status{errc::bad_shape, "mass: the reduction is neither sum nor maximum"};
}

template <Pattern P, class TQ, Cache C>
status check_mass_view(P const& pattern, query_view<TQ> const& q, C const& cache, float const* lse,
                       std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows, mass_reduction by,
                       score_view const& out) {
  if (status const s = check_queries_view(q, cache); !s.ok()) return s;
  if (status const s = check_pattern_view(pattern, q); !s.ok()) return s;
  if (status const s = check_rows_name(rows); !s.ok()) return s;
  if (status const s = check_reduction_name(by); !s.ok()) return s;
  if (queries.begin < 0 || queries.count < 0) return {errc::bad_shape, "mass: queries begins or counts below 0"};
  if (q.rows.tokens > 0 && lse == nullptr) return {errc::null_data, "mass: lse is null"};
  if (status const s = check_lse(q, lse_stride); !s.ok()) return s;
  return check_scores_view(out, cache, rows == score_rows::heads ? q.rows.heads : cache.kv_heads);
}

template <Pattern P, class TQ, Cache C>
status check_mass(P const& pattern, query_view<TQ> const& q, C const& cache, float const* lse,
                  std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows, mass_reduction by,
                  score_view const& out) {
  if (status const s = check_mass_view(pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok()) return s;
  if (status const s = check_queries(q, cache); !s.ok()) return s;
  if (status const s = check_pattern(pattern, q); !s.ok()) return s;
  return check_scores(out, cache, rows == score_rows::heads ? q.rows.heads : cache.kv_heads);
}

inline status mass_workspace_too_small() {
  return {errc::workspace_too_small, "mass: workspace smaller than mass_workspace(), or not aligned to 64 bytes"};
}

}  // namespace detail

/// Bytes that `mass` wants; reads shapes and positions, no data. SIZE_MAX when they overflow.
template <Pattern P, class TQ, Cache C>
std::size_t mass_workspace(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache,
                           query_range const& queries = {}, score_rows = score_rows::kv_heads) {
  if (!detail::check_plan_input(pattern, q, cache).ok()) return 0;
  detail::carve memory;
  detail::take_plan(memory, pattern, q, cache, cache.kv_heads > 1, queries);
  detail::mass_memory::take(memory, exec, q.rows.dim);
  return memory.bytes();
}

/// The same with a plan.
template <class TQ> std::size_t mass_workspace(cpu exec, tile_plan const&, query_view<TQ> const& q) {
  detail::carve memory;
  detail::mass_memory::take(memory, exec, q.rows.dim);
  return memory.bytes();
}

/// out[row, token] = sum of exp2(logit(query, token) - lse[query]) over the queries in `queries` that see the token:
/// the attention probability it got from them. Row: a query head, or a KV head with the sum over its group. With
/// mass_reduction::maximum the largest instead of the sum, 0 where no query sees the token. Logits are
/// scale * log2(e) * q . k, clamped to the range of float; NaN logits count for nothing, and so do queries whose lse is
/// -inf. Summed over its tokens, a head's mass is its number of queries, less what its sink takes.
/// lse : [heads, queries], base 2, as `attend` gives it for these arguments; rows `lse_stride` floats apart.
/// out : [sequences, heads or kv_heads, tokens]; every token of every head is written, nothing else is.
/// Bit-equal for any number of ranks. On error `out` is untouched.
template <Pattern P, class TQ, Cache C>
status mass(cpu exec, P const& pattern, query_view<TQ> const& q, C const& cache, float const* lse,
            std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows, score_view const& out,
            workspace const& work, mass_reduction by = mass_reduction::sum) {
  if (status const s = detail::check_mass(pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok())
    return s;
  detail::carve memory(work);
  // Sized as if every KV head had its own plan, so that a workspace for a whole prompt serves what is left of it too.
  detail::plan_memory planned = detail::take_plan(memory, pattern, q, cache, cache.kv_heads > 1, queries);
  detail::mass_memory const taken = detail::mass_memory::take(memory, exec, q.rows.dim);
  if (!memory.fits()) return detail::mass_workspace_too_small();
  planned.per_kv_head = detail::needs_plan_per_head(pattern, cache);
  tile_plan const plan = detail::make_plan(exec, pattern, q, cache, planned, queries);
  detail::run_mass(exec, pattern, plan, q, cache, lse, lse_stride, queries, rows, by, out, taken);
  return {};
}

/// The same with the plan that the attention call had.
template <Pattern P, class TQ, Cache C>
status mass(cpu exec, P const& pattern, tile_plan const& plan, query_view<TQ> const& q, C const& cache,
            float const* lse, std::ptrdiff_t lse_stride, query_range const& queries, score_rows rows,
            score_view const& out, workspace const& work, mass_reduction by = mass_reduction::sum) {
  if (status const s = detail::check_mass(pattern, q, cache, lse, lse_stride, queries, rows, by, out); !s.ok())
    return s;
  if (status const s = detail::check_plan(plan, q, cache); !s.ok()) return s;
  detail::carve memory(work);
  detail::mass_memory const taken = detail::mass_memory::take(memory, exec, q.rows.dim);
  if (!memory.fits()) return detail::mass_workspace_too_small();
  detail::run_mass(exec, pattern, plan, q, cache, lse, lse_stride, queries, rows, by, out, taken);
  return {};
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
