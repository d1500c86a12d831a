// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <purekv/detail/check.cuh>
#include <purekv/detail/claims.cuh>
#include <purekv/plan.hpp>
#include <purekv/validate.hpp>

namespace purekv::inline v0_1::inline PUREKV_ISA {
namespace detail {

inline status check_validate(gpu const& exec, violation const* out) {
  if (status const s = check_gpu(exec); !s.ok()) return s;
  if (out == nullptr) return {errc::null_data, "validate: out is null"};
  return check_reachable(exec, out);
}

template <Cache C> status check_validate(gpu const& exec, C const& cache, violation const* out) {
  if (status const s = check_validate(exec, out); !s.ok()) return s;
  if (status const s = cache.check_view(); !s.ok()) return s;
  return check_reachable_cache(exec, cache);
}

}  // namespace detail

// What other operations take on trust of what lies on the device, looked at there. `out` says, when the stream has come
// that far, what is wrong first, or that nothing is. What the host can see comes back as status, as in every operation.

/// Lengths within capacities, extents in order, positions of every head not negative and ascending strictly.
template <Cache C> status validate(gpu const& exec, C const& cache, violation* out) {
  if (status const s = detail::check_validate(exec, cache, out); !s.ok()) return s;
  return detail::find_violation(exec.stream, detail::cache_claim<C>{cache}, out);
}

/// Offsets from 0 to the number of tokens, not descending; positions of every sequence not negative and ascending
/// strictly; sink logits neither NaN nor +inf.
template <class TQ> status validate(gpu const& exec, query_view<TQ> const& q, violation* out) {
  if (status const s = detail::check_validate(exec, out); !s.ok()) return s;
  if (q.rows.heads <= 0 || q.rows.tokens < 0)
    return {errc::bad_shape, "validate: heads of the queries must be positive, tokens not negative"};
  if (status const s = detail::check_batch_view(q.batch, q.rows.tokens); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, q.batch.offset, q.batch.positions, q.sink_logits); !s.ok())
    return s;
  return detail::find_violation(exec.stream, detail::query_claim{q.batch, q.rows.tokens, q.rows.heads, q.sink_logits},
                                out);
}

/// A batch of `tokens` tokens, and whether `append` has free slots for them and they come behind what is cached. The
/// cache itself must be valid.
template <Cache C>
status validate(gpu const& exec, batch_view const& batch, std::int32_t tokens, C const& cache, violation* out) {
  if (status const s = detail::check_validate(exec, cache, out); !s.ok()) return s;
  if (tokens < 0) return {errc::bad_shape, "validate: the number of tokens is negative"};
  if (status const s = detail::check_batch_view(batch, tokens); !s.ok()) return s;
  if (batch.sequences != cache.sequences)
    return {errc::mismatch, "validate: the batch and the cache differ in their number of sequences"};
  if (status const s = detail::check_reachable(exec, batch.offset, batch.positions); !s.ok()) return s;
  return detail::find_violation(exec.stream, detail::append_claim<C>{batch, tokens, cache}, out);
}

/// Whether a selection can be compacted: offsets in order, ascending tokens of every head that it speaks for. The cache
/// itself must be valid.
template <Cache C> status validate(gpu const& exec, selection const& kept, C const& cache, violation* out) {
  if (status const s = detail::check_validate(exec, cache, out); !s.ok()) return s;
  std::int64_t const rows = kept.scope == selection_scope::layer ? std::int64_t{cache.sequences}
                                                                 : std::int64_t{cache.sequences} * cache.kv_heads;
  if (kept.rows != rows) return {errc::mismatch, "validate: rows of the selection differ from the cache's"};
  if (kept.offset == nullptr || (kept.token == nullptr && kept.capacity > 0))
    return {errc::null_data, "validate: offset or token of the selection is null"};
  if (status const s = detail::check_reachable(exec, kept.offset, kept.token); !s.ok()) return s;
  return detail::find_violation(exec.stream, detail::selection_claim<C>{kept, cache}, out);
}

/// Numbers of tokens within those of the scores, positions not negative and ascending strictly.
inline status validate(gpu const& exec, source_view const& source, violation* out) {
  if (status const s = detail::check_validate(exec, out); !s.ok()) return s;
  if (source.scores.sequences <= 0 || source.scores.tokens < 0)
    return {errc::bad_shape, "validate: sequences of the source must be positive, tokens not negative"};
  if (source.tokens == nullptr || (source.positions == nullptr && source.scores.tokens > 0))
    return {errc::null_data, "validate: tokens or positions of the source is null"};
  if (status const s = detail::check_reachable(exec, source.tokens, source.positions); !s.ok()) return s;
  return detail::find_violation(exec.stream, detail::source_claim{source}, out);
}

/// Whether a pattern is defined for these queries and for all that they may see. The queries themselves must be valid.
template <Pattern P, class TQ>
status validate(gpu const& exec, P const& pattern, query_view<TQ> const& q, violation* out) {
  if (status const s = detail::check_validate(exec, out); !s.ok()) return s;
  if (status const s = detail::check_batch_view(q.batch, q.rows.tokens); !s.ok()) return s;
  if (status const s = detail::check_pattern_view(pattern, q); !s.ok()) return s;
  if (status const s = detail::check_reachable(exec, q.batch.offset, q.batch.positions); !s.ok()) return s;
  if constexpr (requires { pattern.check(std::int32_t{}); })
    return detail::find_violation(exec.stream, detail::pattern_claim<P>{pattern, q.batch, q.rows.tokens}, out);
  else
    return simt::launch({}, 0, exec.stream, detail::forget_violation{out});
}

/// Whether a plan can be one of these queries over this cache: tiles that hold every query once and in order, runs that
/// ascend and name cached tokens. Of a plan with an order of its own, that each tile's queries ascend. Queries and
/// cache themselves must be valid.
template <class TQ, Cache C>
status validate(gpu const& exec, tile_plan const& plan, query_view<TQ> const& q, C const& cache, violation* out) {
  if (status const s = detail::check_validate(exec, cache, out); !s.ok()) return s;
  if (status const s = detail::check_shapes_view(q, cache); !s.ok()) return s;
  if (status const s = detail::check_plan_view(plan, q, cache); !s.ok()) return s;
  if (plan.tiles_per_head < 0 || (plan.tiles_per_head == 0 && plan.queries > 0))
    return {errc::bad_shape, "validate: a plan without tiles for its queries"};
  if (plan.tiles_per_head > 0 && (plan.tiles == nullptr || plan.runs == nullptr))
    return {errc::null_data, "validate: tiles or runs of the plan is null"};
  if (status const s =
          detail::check_reachable(exec, plan.tiles, plan.runs, plan.tiles_used, plan.order, q.batch.offset);
      !s.ok())
    return s;
  return detail::find_violation(exec.stream, detail::tile_claim<C>{plan, q.batch, cache}, out);
}

}  // namespace purekv::inline v0_1::inline PUREKV_ISA
